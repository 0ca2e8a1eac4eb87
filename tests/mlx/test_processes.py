"""Training in several processes of MLX, by the command: the losses of one process, and a clean end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from convlstm.errors import ConfigError, LostProcessError
from convlstm.frontend.processes import Processes
from convlstm.mlx.dropout import batch_part, sample_masks
from convlstm.mlx.processes import connect, gather, lost_connections
from convlstm.nowcast.config import validate
from convlstm.nowcast.config_text import to_yaml
from convlstm.nowcast.frameworks import process_rank
from convlstm.nowcast.run_folder import RunFolder
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.checkpoint import load_arrays

pytestmark = pytest.mark.skipif(not mx.distributed.is_available("ring"), reason="this build of MLX has no ring backend")

TOLERANCE = 1e-5  # float32 sums in another order


@pytest.fixture(scope="module")
def rain(make_rain: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rain with missing values in one corner, so that the windows have different numbers of known cells."""
    dataset = make_rain()
    dataset["rain"][:, :15, :11] = np.nan
    path = tmp_path_factory.mktemp("data") / "rain.nc"
    dataset.to_netcdf(path)
    return path


def config(steps: int) -> str:
    training = {"steps": steps, "batch_size": 4, "validate_every": 1, "validation_windows": 5, "warmup_steps": 3000}
    model = {"hidden_channels": [4, 4], "dropout": 0.2, "recurrent_dropout": 0.1}
    return to_yaml(
        validate({"data": {"input_length": 3, "horizon": 4, "crop": 16}, "model": model, "training": training})
    )


@pytest.fixture
def started(tmp_path: Path, rain: Path) -> Iterator[Any]:
    """Start `convlstm train --framework mlx` in a folder of that name."""
    running: list[subprocess.Popen[str]] = []

    def start(name: str, steps: int, *options: str) -> subprocess.Popen[str]:
        path = tmp_path / f"{len(running)}.yaml"
        path.write_text(config(steps))
        words = ["train", str(rain), "-o", str(tmp_path / name), "-c", str(path), "--framework", "mlx", *options]
        command = [sys.executable, "-m", "convlstm", *words]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def check_same_run(folder: Path, expected: Path) -> None:
    ours, theirs = RunFolder(folder), RunFolder(expected)
    for found, wanted in zip(ours.history(), theirs.history(), strict=True):
        for name in ("step", "loss", "validation_loss"):
            assert found[name] == pytest.approx(wanted[name], rel=0, abs=TOLERANCE), (name, wanted["step"])
    arrays, expected_arrays = (load_arrays(each.path / "state.safetensors")[0] for each in (ours, theirs))
    assert arrays.keys() == expected_arrays.keys()
    for name, array in expected_arrays.items():
        # Adam divides a gradient by its own size, so that rounding moves a weight by parts of the learning rate
        np.testing.assert_allclose(arrays[name], array, rtol=0, atol=1e-3, err_msg=name)


def test_two_processes_have_the_losses_of_one_and_any_number_continues(started: Any, tmp_path: Path) -> None:
    for name, steps, options in (
        ("whole", 8, ()),
        ("parts", 5, ("--devices", "2")),
        ("parts", 8, ("--resume",)),
    ):
        process = started(name, steps, *options)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    check_same_run(tmp_path / "parts", tmp_path / "whole")
    losses = [entry["loss"] for entry in RunFolder(tmp_path / "whole").history()]
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_others(started: Any, tmp_path: Path, lost: int) -> None:
    process = started("run", 2000, "--devices", "2")
    deadline = time.monotonic() + 120
    while not RunFolder(tmp_path / "run").history():
        assert time.monotonic() < deadline, "the training does not proceed"
        time.sleep(0.05)
    numbers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(sorted(map(int, numbers))[lost], signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 9, err
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "processes: expected all 2 processes of the training, got a lost connection" in errors[0]


def test_a_part_of_a_batch_has_the_masks_of_its_rows() -> None:
    spec = ConvLSTMSpec(
        in_channels=2, hidden_channels=[3, 3], kernel_size=3, dropout=0.5, recurrent_dropout=0.5, zoneout_h=0.5
    )

    def masks(rows: int) -> Any:
        return sample_masks(spec, mx.zeros((5, rows, 4, 4, 2)), (4, 4), 5, mx.random.key(1))

    whole = masks(6)
    with batch_part(2, 6):
        part = masks(2)
    assert len(arrays_of(whole)) == 5  # recurrent and zoneout in two layers, and dropout between them
    for ours, theirs in zip(arrays_of(part), arrays_of(whole), strict=True):
        axis = 1 if theirs.shape[0] == 5 else 0  # the masks per step have the time first
        np.testing.assert_array_equal(ours, np.take(theirs, [2, 3], axis=axis))


def arrays_of(masks: Any) -> list[np.ndarray]:
    """Return all arrays of `DropoutMasks`."""
    inner = [mask for layer in masks.masks.values() for mask in layer]
    return [np.array(mask) for mask in [*inner, *masks.dropout] if mask is not None]


def test_several_machines_need_their_launcher(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    monkeypatch.delenv("MLX_RANK", raising=False)
    with refused(ConfigError, "nodes"):
        process_rank("mlx", Processes(nodes=2), None)
    monkeypatch.setenv("MLX_RANK", "1")
    assert process_rank("mlx", Processes(nodes=2), None) == 1


def test_processes_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ConfigError, match="got processes of torchrun"):
        process_rank("mlx", Processes(devices=2), None)


def test_processes_without_a_launcher_are_refused(monkeypatch: pytest.MonkeyPatch, refused: Any) -> None:
    for name in ("MLX_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with refused(ConfigError, "processes"):
        connect(Processes(devices=2))


def gather_within(values: np.ndarray, group: Any) -> np.ndarray:
    with lost_connections(Processes(devices=2)):
        return gather(values, group)


def test_values_that_no_process_sent_are_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lost connection MLX returned other numbers, so that a process read a signal that does not exist."""
    group = mx.distributed.init()
    np.testing.assert_array_equal(gather(np.array([1.0, np.nan]), group), [[1.0, np.nan]])
    monkeypatch.setattr(mx.distributed, "all_gather", lambda array, **options: mx.zeros_like(array))
    with pytest.raises(LostProcessError, match="the values of the other processes are missing"):
        gather_within(np.ones(2), group)
