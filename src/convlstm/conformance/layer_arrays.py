"""The arrays of a layer's case as arguments and results of a call, in any framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convlstm.conformance.random_layers import Case


def initial_state(case: Case, arrays: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return (h_0, c_0) of a case, indexed layer · D + direction."""
    count = case.spec.depth * len(case.spec.directions)
    return tuple(arrays[f"h.{n}"] for n in range(count)), tuple(arrays[f"c.{n}"] for n in range(count))


def layer_input(case: Case, arrays: Mapping[str, Any]) -> tuple[Any, int | None]:
    """Return x and `steps` of a layer's call: frames and None, or for a stack without input None and their number."""
    return (arrays["x"], None) if case.spec.in_channels else (None, case.arrays["x"].shape[1])


def layer_times(case: Case, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return durations and gaps of a case by the names of a layer's arguments."""
    gaps = None
    if case.spec.memory_decay:
        gaps = tuple(arrays[f"gaps.{direction}"] for direction in case.spec.directions)
    return {"durations": arrays.get("durations"), "gaps": gaps}
