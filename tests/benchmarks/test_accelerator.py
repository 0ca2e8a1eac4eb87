"""`make bench-gpu`: its logic on a CPU with tiny cases, its limit of time, and its table."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks.speed import accelerator
from benchmarks.speed.accelerator import GROUPS, LIMIT, main, measured, timed
from benchmarks.speed.accelerator_table import table

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@needs_torch
def test_the_groups_of_pytorch_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "accelerator.json"
    words = ["--group", "values", "--group", "torch", "--device", "cpu", "--quick", "--output", str(path)]
    assert main(words) == 0
    result = json.loads(path.read_text())
    assert result["machine"]["torch"]
    errors = [row for row in result["rows"] if row["group"] == "values"]
    assert [row["precision"] for row in errors] == ["float32", "tf32", "bf16"]
    for row in errors:
        assert 0 < row["error"] < (5e-2 if row["precision"] == "bf16" else 1e-5), row
        assert 0 < row["gradient_error"] < (1e-1 if row["precision"] == "bf16" else 1e-4), row
    times = [row for row in result["rows"] if row["group"] == "torch"]
    # CUDA graphs are left out on a CPU
    places = {(row["work"], row["precision"], row["contender"]) for row in times}
    assert len(places) == len(times) == 2 * 2 * 3
    for row in times:
        assert 0 < row["least"] <= row["median"] <= row["most"]
        assert row["calls"] == 3
    written = path.with_suffix(".md").read_text()
    assert written.count("common cell, channels last") == 4
    assert str(path) in capsys.readouterr().out


@needs_torch
def test_a_run_ends_at_its_limit() -> None:
    started = time.monotonic()
    rows = list(measured([GROUPS["torch"]], "cpu", 1.0, quick=False))
    assert time.monotonic() - started < 30
    assert rows[-1] == {"group": "torch", "left_out": "stopped after 0 s"}


def test_the_whole_run_has_less_than_eight_minutes() -> None:
    assert all(0 < group.share <= 1 for group in GROUPS.values())
    assert LIMIT <= 460


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "find_spec", lambda name: None)
    (row,) = measured([GROUPS["flax"]], "cuda", 60.0, quick=True)
    assert row == {"group": "flax", "left_out": "jax, flax not installed"}


@needs_torch
def test_a_device_that_does_not_exist(tmp_path: Path) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device mps")
    path = tmp_path / "a.json"
    assert main(["--group", "torch", "--device", "mps", "--quick", "--output", str(path)]) == 1
    (row,) = json.loads(path.read_text())["rows"]
    assert "finds no device mps" in row["left_out"]
    assert "finds no device mps" in path.with_suffix(".md").read_text()


def test_the_median_of_alternating_times_and_the_peak() -> None:
    calls = []
    row = timed(lambda: lambda: calls.append(time.sleep(0.002)), lambda: 7, 0.0)
    assert len(calls) == 4  # the first call and three more
    assert row["bytes"] == 7
    assert row["least"] >= 0.002
    assert row["first"] >= 0.002


def test_the_ratio_is_to_ours_in_the_same_case() -> None:
    place = {"group": "torch", "case": "wide", "work": "train", "precision": "tf32"}
    numbers = {"least": 0.001, "most": 0.009, "first": 1.0, "calls": 3}
    rows = [
        place | numbers | {"contender": "ours", "median": 0.002, "bytes": 3_000_000},
        place | numbers | {"contender": "ours", "median": 0.5, "precision": "bf16"},
        place | numbers | {"contender": "common", "median": 0.004},
        place | numbers | {"group": "flax", "contender": "linen", "median": 0.001},
        place | {"contender": "common graph", "left_out": "OutOfMemoryError: no memory"},
    ]
    lines = table({"device": "cuda", "quick": False, "rows": rows}).splitlines()
    assert "| wide | train | tf32 | common cell | 4 ms (1 to 9) |  | 0.50 |" in lines
    assert "| wide | train | tf32 | flax.linen.ConvLSTMCell | 1 ms (1 to 9) |  | 2.00 |" in lines
    assert "| wide | train | tf32 | ours | 2 ms (1 to 9) | 3 MB | 1.00 |" in lines
    assert "- torch wide train tf32 common graph: OutOfMemoryError: no memory" in lines
