"""The page on verification runs as written."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_the_page_on_verification():
    page = Path(__file__).parents[2] / "docs" / "verification.md"
    failed, attempted = doctest.testfile(str(page), module_relative=False)
    assert attempted > 0
    assert failed == 0
