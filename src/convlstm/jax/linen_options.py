"""Reading the options of linen's cells, in Flax's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convlstm.errors import SpecError
from convlstm.spec.choices import PER_LAYER


def read_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell's options; linen turns lists into tuples, so that [3] of one layer is (3,)."""
    axes = {name: as_axes(value) for name, value in options.items()}
    alone = {name: value for name, value in axes.items() if name in PER_LAYER and isinstance(value, tuple)}
    return axes | {name: value[0] for name, value in alone.items() if len(value) == 1}


def as_axes(value: Any) -> Any:
    """Return a list as a tuple, as linen passes it on."""
    return tuple(value) if isinstance(value, list) else value


def read_padding(padding: Any) -> Any:
    """Return Flax's padding as `ConvLSTMSpec` takes it."""
    if not isinstance(padding, (tuple, list)):
        return padding.lower() if isinstance(padding, str) else padding
    pairs = [tuple(p) if isinstance(p, (tuple, list)) else (p, p) for p in padding]
    if any(len(pair) != 2 or pair[0] != pair[1] for pair in pairs):
        raise SpecError(
            "padding", expected="equal pairs", received=padding, hint="Pad the frames, or pass `SAME` or `VALID`."
        )
    return tuple(before for before, _ in pairs)
