"""Durations: how the time of a step scales its candidate, and how memory decays over gaps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from convlstm.errors import ShapeError
from convlstm.spec.layer import LayerSpec
from convlstm.spec.types import Array


def network_sizes(layer: LayerSpec) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of each affine map of the duration network."""
    spec = layer.stack
    last = layer.hidden_channels if spec.duration_features == "channel" else 1
    widths = [1, *spec.duration_hidden, last]
    return list(pairwise(widths))


def durations_from_times(
    times: Array,
    mask: Array | None = None,
    *,
    reverse: bool = False,
    previous: Array | None = None,
    reference_duration: float = 1.0,
) -> Array:
    """Return the time from the last valid frame to each step, in one direction.

    Gaps add up over masked steps. The first valid step of the direction gets `reference_duration`, unless
    `previous` gives the time of the frame before it.

    Args:
        times: Time of each frame (batch, time), increasing along time, in any unit.
        mask: True where a frame is valid (batch, time); None means everywhere.
        reverse: Whether to run from the last frame to the first.
        previous: Time of the last valid frame before the sequence (batch,).
        reference_duration: Δ0, in the unit of `times`.

    Returns:
        Gaps (batch, time) in the unit of `times`; the values of masked steps are never used.

    Raises:
        ShapeError: if times or mask have other axes.

    Example:
        >>> durations_from_times(np.array([[0.0, 5.0, 15.0]]), reference_duration=5.0)
        array([[ 5.,  5., 10.]])
    """
    times = np.asarray(times, dtype=np.float64)
    valid = np.ones(times.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if times.ndim != 2 or valid.shape != times.shape:
        raise ShapeError(
            "times",
            expected="times and mask of one shape (batch, time)",
            received=f"{times.shape} and {valid.shape}",
            hint="Pass one time per frame.",
        )
    first = np.full(len(times), np.nan) if previous is None else np.asarray(previous, dtype=np.float64)
    gaps = np.empty_like(times)
    steps = range(times.shape[1])
    last: Array = first
    for t in reversed(steps) if reverse else steps:
        since = np.abs(times[:, t] - last)
        gaps[:, t] = np.where(np.isnan(last), reference_duration, since)
        last = np.where(valid[:, t], times[:, t], last)
    return gaps


def check_durations(name: str, durations: Any, mask: Array | None = None) -> None:
    """Raise ShapeError for the first negative or non-finite duration of a valid step; both are (batch, time)."""
    values = np.asarray(durations, dtype=np.float64)
    bad = ~(np.isfinite(values) & (values >= 0))
    if mask is not None:
        bad &= np.asarray(mask, dtype=bool)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ShapeError(
            name,
            expected="finite values of at least 0",
            received=f"{values[where]:g}{f' at {where}' if where else ''}",
            hint="Correct the times that the values were computed from.",
        )
