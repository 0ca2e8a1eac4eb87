"""Merge the outputs of the two directions of a layer, in any framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def merge_directions(parts: Sequence[Any], merge: str, concatenate: Callable[[list[Any]], Any]) -> Any:
    """Return the output of a layer from those of its directions, forward first; with `separate` a tuple of two."""
    if len(parts) == 1:
        return parts[0]
    if merge == "separate":
        return tuple(parts)
    if merge == "concat":
        return concatenate(list(parts))
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    total = forward + backward
    return total * 0.5 if merge == "ave" else total
