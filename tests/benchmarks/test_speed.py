"""`python -m benchmarks.speed`: real processes, real peers, and a file that keeps what was not measured again."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks.speed.__main__ import main
from benchmarks.speed.commits import compare
from benchmarks.speed.groups import EVERY, GROUPS
from benchmarks.speed.run import Effort, measured, merged

from convlstm.errors import DependencyError

ROOT = Path(__file__).parents[2]
TORCH = GROUPS["torch"]
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


@needs_torch
def test_a_case_beside_its_peers_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {"group": "torch", "case": "wide", "work": "train", "contender": "ours", "median": 1.0, "ratio": 1.0}
    path = tmp_path / "speed.json"
    path.write_text(json.dumps({"rows": [kept]}))
    words = ["--group", "torch", "--case", "small", "--repeats", "1", "--threads", "1", "--output", str(path)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["forward"] * 5 + ["train"] * 5 + ["memory"] * 4
    written = json.loads(path.read_text())
    assert written["machine"]["threads"] == 1
    assert written["versions"]["torch"]
    assert written["rows"][0] == kept  # in the order of the tables
    for row in written["rows"][1:]:
        ours = next(other for other in written["rows"] if all(other[k] == row[k] for k in ("case", "work")))
        size = "bytes" if row["work"] == "memory" else "median"
        assert row[size] > 0
        assert row["ratio"] == pytest.approx(ours[size] / row[size])


@needs_torch
def test_a_process_that_takes_too_long_is_stopped() -> None:
    (row,) = measured(TORCH, ["openstl"], ["train"], Effort(1, 1, 0.5))
    assert row == {"group": "torch", "case": "openstl", "work": "train", "stopped": 0.5}


@needs_torch
def test_a_process_that_fails_says_why() -> None:
    broken = replace(TORCH, module="in_nothing")
    with pytest.raises(DependencyError, match="in_nothing"):
        list(measured(broken, ["small"], ["train"], Effort(1, 1, 60)))


def test_rows_stand_in_the_order_of_the_tables() -> None:
    rows = [{"group": g, "case": c, "work": "train"} for g in reversed(GROUPS) for c in reversed(EVERY)]
    found = merged(rows, rows[:3])
    assert len(found) == len(rows)
    assert [row["group"] for row in found] == [name for name in GROUPS for _ in EVERY]
    assert [row["case"] for row in found[: len(EVERY)]] == list(EVERY)


@pytest.mark.parametrize("words", [["--group", "nope"], ["--case", "nope"], ["--work", "nope"]])
def test_unknown_names(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 3
    assert f"error: {words[0][2:]}: expected one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["[1]", '{"rows": [1]}', '{"rows": [{"group": "an older one", "case": "wide", "work": "train"}]}']
)
def test_a_file_of_another_kind_is_left_alone(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.speed.run.measured", lambda *_: pytest.fail("measured before the file was read"))
    path = tmp_path / "notes.json"
    path.write_text(text)
    assert main(["--output", str(path)]) == 4
    assert "a file of an earlier run" in capsys.readouterr().err
    assert path.read_text() == text


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("benchmarks.speed.groups.find_spec", lambda name: None)
    assert main(["--group", "flax"]) == 0
    said, nothing = capsys.readouterr().out.splitlines()
    assert said == "flax: flax, dm-haiku not installed"
    assert nothing.startswith("nothing to measure")


def test_a_case_that_a_group_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--group", "torch bf16", "--case", "long"]) == 0
    assert capsys.readouterr().out.startswith("nothing to measure")


@needs_torch
@pytest.mark.parametrize("case", ["small", "forecaster"])
def test_two_processes_of_the_same_code_are_compared_in_turns(case: str) -> None:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    options = argparse.Namespace(work="forward", threads=1, seconds=0.0)
    ratio = compare([path, path], "torch", case, options, swap=True)
    assert 0.2 < ratio < 5
