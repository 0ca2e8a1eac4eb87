"""The examples run and draw their figures. In each the model with durations has the better score.

One runs with the other tests, and the rest with `-m slow`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[1] / "examples" / "irregular"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "compare")


def scores_on_page() -> dict[str, list[float]]:
    """Return the scores without and with durations by the name of the script."""
    page = (FOLDER.parents[1] / "docs" / "benchmarks" / "irregular.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)\.py` \| .* \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    return {name: [float(without), float(with_durations)] for name, without, with_durations in rows}


def test_the_page_says_by_how_much_errors_are_lower():
    scores = scores_on_page()
    assert sorted(scores) == NAMES
    gains = [1 - after / before for name, (before, after) in scores.items() if name != "summary"]
    assert (min(gains), max(gains)) == pytest.approx((0.06, 0.26), abs=0.01)


@pytest.mark.parametrize(
    "name", [name if name == "clinical" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_durations_help_and_the_figure_is_drawn(name: str, tmp_path: Path) -> None:
    script, figure = FOLDER / f"{name}.py", tmp_path / "new" / "figure.png"
    words = [sys.executable, script, "--figure", figure]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    scores = dict(re.findall(r"(with|without) durations: ([\d.]+)", done.stdout))
    without, with_durations = float(scores["without"]), float(scores["with"])
    assert with_durations > without if "accuracy" in done.stdout else with_durations < without
    # the page has two or three digits; other processors and numbers of threads round otherwise in 300 steps
    assert [without, with_durations] == pytest.approx(scores_on_page()[name], rel=0.05)
    with Image.open(figure) as image:
        assert image.size == ((720, 252) if name in ("clinical", "robot") else (720, 162))
        assert len(np.unique(np.asarray(image).reshape(-1, 4), axis=0)) > 50, "an empty figure"
    assert figure.stat().st_size < 60_000
    assert len(script.read_text().splitlines()) < 80


def test_there_is_one_for_each_application() -> None:
    assert NAMES == ["clinical", "frame_rate", "robot", "summary"]


def test_the_page_shows_the_figure_of_each() -> None:
    page = Path(__file__).parents[1] / "docs" / "benchmarks" / "irregular.md"
    for name in NAMES:
        assert f"](irregular/{name}.png)" in page.read_text(encoding="utf-8")
        assert (page.parent / "irregular" / f"{name}.png").stat().st_size < 60_000
