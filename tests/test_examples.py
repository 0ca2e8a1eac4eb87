"""The examples run as they stand, and a model told of durations beats the same model blind to them in each."""

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
    found = dict(re.findall(r"(blind|told)[^:]*: ([\d.]+)", done.stdout))
    blind, told = float(found["blind"]), float(found["told"])
    assert told > blind if "chosen right" in done.stdout else told < blind
    assert len(script.read_text().splitlines()) < 80


def test_there_is_one_for_each_application() -> None:
    assert NAMES == ["clinical", "frame_rate", "robot", "summary"]
