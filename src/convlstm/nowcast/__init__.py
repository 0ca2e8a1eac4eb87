"""Train on gridded sequences, forecast, and compare with baselines."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convlstm.nowcast.nowcaster import Nowcaster as Nowcaster

__all__ = ["Nowcaster"]


def __getattr__(name: str) -> Any:
    """Load the public name on first use, so that the parts of this package are imported without it."""
    if name == "Nowcaster":
        import_module("convlstm.xarray")  # adds `.convlstm` to its forecasts; by name, since it is above this package
        return import_module("convlstm.nowcast.nowcaster").Nowcaster
    raise AttributeError(f"module 'convlstm.nowcast' has no attribute {name!r}")
