"""The examples run, and in each the model with durations has a better score than the one without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "irregular"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "compare")


@pytest.mark.parametrize("name", NAMES)
def test_durations_help(name: str) -> None:
    script = FOLDER / f"{name}.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=300)
    scores = dict(re.findall(r"(with|without) durations: ([\d.]+)", done.stdout))
    without, with_durations = float(scores["without"]), float(scores["with"])
    assert with_durations > without if "accuracy" in done.stdout else with_durations < without
    assert len(script.read_text().splitlines()) < 80


def test_there_is_one_for_each_application() -> None:
    assert NAMES == ["clinical", "frame_rate", "robot", "summary"]
