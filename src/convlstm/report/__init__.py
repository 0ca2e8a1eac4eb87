"""Write the report: one self-contained HTML page of an evaluation. It computes no score."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convlstm.report.page import write_report as write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """Load the public name on first use: a forecast needs no libraries of the report."""
    if name == "write_report":
        return import_module("convlstm.report.page").write_report
    raise AttributeError(f"module 'convlstm.report' has no attribute {name!r}")
