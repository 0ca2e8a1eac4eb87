"""Layers whose rows are divided among processes, in real processes with gloo: the numbers of the whole grid."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.engine.torch.rows import Rows, check_stride, with_neighbours
from convlstm.errors import ShapeError, SpecError
from convlstm.torch import ConvLSTM, ConvLSTMCell, Forecaster, divide_rows

SCRIPT = Path(__file__).with_name("divided_rows.py")


def run(blocks: list[int], folder: Path) -> list[dict[str, np.ndarray]]:
    command = [sys.executable, str(SCRIPT)]
    text = ",".join(map(str, blocks))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([*command, str(rank), text, str(folder)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(len(blocks))
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors[-1000:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [dict(np.load(folder / f"{len(blocks)}.{rank}.npz")) for rank in range(len(blocks))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return run([16], tmp_path_factory.mktemp("whole"))[0]


@pytest.mark.parametrize("blocks", [[4, 12], [4, 8, 4]])
def test_processes_with_blocks_of_rows_give_the_numbers_of_the_whole_grid(
    blocks: list[int], whole: dict[str, np.ndarray], tmp_path: Path
) -> None:
    parts = run(blocks, tmp_path)
    for name, expected in whole.items():
        if ".sum." in name:
            for part in parts:
                np.testing.assert_allclose(part[name], expected, rtol=0, atol=1e-11, err_msg=name)
        else:
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_allclose(joined, expected, rtol=0, atol=1e-11, err_msg=name)


@pytest.fixture
def group(tmp_path: Path) -> object:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_a_group_of_one_process_changes_nothing() -> None:
    layer = ConvLSTM(1, 2, kernel_size=3)
    x = torch.randn(1, 3, 1, 6, 5)
    expected, _ = layer(x)
    divide_rows(layer)
    assert torch.equal(layer(x)[0], expected)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"norm": "layer"}, "norm"),
        ({"padding": "valid"}, "padding"),
        ({"peephole": "pixel", "input_size": 6}, "peephole"),
    ],
)
def test_options_that_need_the_whole_grid_are_refused(options: dict[str, object], name: str) -> None:
    with pytest.raises(SpecError, match=name):
        divide_rows(ConvLSTM(1, 2, kernel_size=3, **options))  # type: ignore[arg-type]


def test_modules_without_a_layer_and_detailed_forecasters_are_refused() -> None:
    with pytest.raises(SpecError, match="ConvLSTM"):
        divide_rows(torch.nn.Linear(1, 1))
    encoder = ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3)
    spec = ForecasterSpec(encoder=encoder, patch_size=2, thresholds=(0.1,), detail_channels=2)
    with pytest.raises(SpecError, match="detail_channels"):
        divide_rows(Forecaster(spec))


def test_a_cell_in_a_module_is_divided() -> None:
    model = torch.nn.ModuleDict({"cell": ConvLSTMCell(1, 2, kernel_size=3)})
    divide_rows(model)
    assert model["cell"].rows == Rows()


def test_a_block_that_is_no_multiple_of_the_stride_is_refused() -> None:
    (layer,) = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, stride=2).layers
    check_stride(layer, 6)
    with pytest.raises(ShapeError, match="multiple of the stride 2"):
        check_stride(layer, 7)


def test_a_block_with_fewer_rows_than_a_neighbour_needs_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 2 rows"):
        with_neighbours(torch.zeros(1, 1, 1, 4), (2, 2), Rows(), circular=False)
