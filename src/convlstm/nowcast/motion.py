"""Estimate the motion between frames, and move a frame along it.

The constants are in pixels. They were chosen on days that no reported score uses; see `docs/verification.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import optical_flow_ilk

from convlstm.errors import DataError, ShapeError

Array = NDArray[np.floating[Any]]
Numbers = Sequence[float] | Array

CONTRAST = 3.0
"""Values grow linearly up to the mean absolute deviation divided by this, and logarithmically beyond."""

NOISE = 1.0
"""Gaussian width in pixels of the smoothing before the motion is estimated."""

WINDOW = 16
"""Radius in pixels of the neighbourhood that shares one vector."""

SPREAD = 8.0
"""Gaussian width in pixels of the average that extends vectors to pixels without visible motion."""

LONGEST_STEP = 4.0
"""Longest step of a trajectory in pixels; the motion is interpolated again after each step."""


def estimate_motion(inputs: Array, seconds: Numbers) -> NDArray[np.float32]:
    """Return the motion between the two latest frames with data, (2, height, width) in pixels per second.

    The method is iterative Lucas–Kanade on smoothed values with a symmetric logarithmic scale around their median. An
    average weighted by the squared gradient then gives the motion of pixels without texture. Frames are (time, height,
    width), NaN where missing, with times in seconds. The motion is positive downward and to the right; it is zero with
    fewer than two frames with data, or with the same value everywhere.
    """
    check_axes("inputs", inputs, ("time", "height", "width"))
    times = rising("seconds", seconds, len(inputs))
    still = np.zeros((2, *inputs.shape[1:]), np.float32)
    seen = frames_with_data(inputs)[-2:]
    if len(seen) < 2:
        return still
    before, after = _compressed(np.stack([fill_missing(frame) for frame in inputs[seen]]))
    texture = np.square(np.gradient(after)).sum(axis=0)
    if not texture.any():
        return still
    # From the later frame back to the earlier one, so that each vector belongs to a pixel of the later frame.
    shift = -optical_flow_ilk(after, before, radius=WINDOW, num_warp=3, gaussian=True)
    motion: NDArray[np.float32] = _spread(shift, texture) / np.float32(times[seen[1]] - times[seen[0]])
    return motion


def advect(frame: Array, motion: Array, lead_seconds: Numbers) -> NDArray[np.float32]:
    """Move a frame along a constant motion field, backward and semi-Lagrangian.

    Each forecast pixel is traced back to its origin, and the frame is interpolated there once, so that nothing is
    smoothed twice. Origins outside the frame or in a gap take the nearest known value. The frame is (height, width),
    NaN where missing, and the motion is a result of `estimate_motion`; lead times are at least 0 and increase. The
    moved frames (lead_time, height, width) are within the range of the frame; NaN only if it has no value.
    """
    check_axes("frame", frame, ("height", "width"))
    leads = rising("lead_seconds", lead_seconds, len(lead_seconds), start=0.0)
    _check_motion(motion, frame.shape)
    return advect_cells(fill_missing(frame), motion, leads, np.indices(frame.shape).astype(np.float64))


def advect_cells(
    frame: Array, motion: Array, lead_seconds: NDArray[np.float64], cells: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return some cells (2, height, width) of a frame without gaps, moved as by `advect` (lead_time, height, width)."""
    origins = trace(cells, motion, -lead_seconds)
    return np.stack([ndimage.map_coordinates(frame, origin, order=1, mode="nearest") for origin in origins])


def trace(points: NDArray[np.float64], motion: Array, seconds: Numbers) -> NDArray[np.float64]:
    """Follow points (row and column, ...) along a constant motion field, forward or backward in time.

    The motion (2, height, width) is in pixels per second. The times count from now, and move away from it: all at least
    0, or all at most 0. Returns the positions (time, 2, ...); outside the field the nearest motion applies.
    """
    speed, position = np.hypot(*motion).max(), points
    positions = np.empty((len(seconds), *points.shape))
    for index, duration in enumerate(np.diff(np.asarray(seconds, np.float64), prepend=0.0)):
        steps = max(1, int(np.ceil(speed * abs(duration) / LONGEST_STEP)))
        for _ in range(steps):
            position = _step(position, motion, duration / steps)
        positions[index] = position
    return positions


def frames_with_data(inputs: Array) -> NDArray[np.intp]:
    """Return the indices of the frames (time, height, width) with at least one value."""
    return np.flatnonzero(np.isfinite(inputs).any(axis=(1, 2)))


def fill_missing(frame: Array) -> Array:
    """Return the frame (height, width) with the nearest known value in every missing pixel.

    A frame without any value is unchanged.
    """
    missing = ~np.isfinite(frame)
    if missing.all() or not missing.any():
        return frame
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled: Array = frame[tuple(nearest)]
    return filled


def check_axes(name: str, array: Array, axes: tuple[str, ...]) -> None:
    """Raise an error for other axes than the named ones, an empty axis, or a grid narrower than two pixels."""
    if array.ndim == len(axes) and min(array.shape) > 0 and min(array.shape[-2:]) > 1:
        return
    raise ShapeError(
        name,
        expected=f"axes ({', '.join(axes)}), none empty and at least 2 x 2 pixels",
        received=f"shape {array.shape}",
        hint="Add or remove axes to match.",
    )


def rising(name: str, values: Numbers, count: int, *, start: float = -np.inf) -> NDArray[np.float64]:
    """Return `count` times in seconds as an array, checked to be finite, to increase, and not to precede `start`."""
    times = np.asarray(values, np.float64)
    complete = times.shape == (count,) and count > 0 and np.isfinite(times).all()
    if complete and times[0] >= start and (np.diff(times) > 0).all():
        return times
    raise DataError(
        name,
        expected=f"{max(count, 1)} finite times that increase{'' if np.isneginf(start) else f' from {start:g}'}",
        received=str(times.tolist()),
        hint="Sort the times, remove duplicates, and pass seconds.",
    )


def _check_motion(motion: Array, grid: tuple[int, ...]) -> None:
    if motion.shape != (2, *grid):
        raise ShapeError(
            "motion",
            expected=f"shape {(2, *grid)}",
            received=f"shape {motion.shape}",
            hint="Estimate the motion on frames of this size.",
        )
    if not np.isfinite(motion).all():
        raise DataError(
            "motion",
            expected="finite pixels per second",
            received="NaN or infinity",
            hint="Set the motion to 0 where nothing moves.",
        )


def _compressed(frames: Array) -> NDArray[np.float32]:
    """Return values on a scale where weak and strong texture have equal weight: rain spans orders of magnitude."""
    centred = frames - np.median(frames)
    deviation = np.abs(centred).mean()
    if deviation == 0:
        return np.zeros(frames.shape, np.float32)
    compressed = np.arcsinh(CONTRAST / deviation * centred).astype(np.float32)
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(compressed, (0, NOISE, NOISE))
    return smooth


def _spread(shift: Array, weight: Array) -> Array:
    local: Array = ndimage.gaussian_filter(shift * weight, (0, SPREAD, SPREAD))
    support: Array = ndimage.gaussian_filter(weight, SPREAD)
    overall = (shift * weight).sum(axis=(1, 2), keepdims=True) / weight.sum()
    # Far from any texture the mean motion dominates.
    mean_weight = 1e-3 * support.max()
    spread: Array = (local + mean_weight * overall) / (support + mean_weight)
    return spread


def _step(points: NDArray[np.float64], motion: Array, duration: float) -> NDArray[np.float64]:
    """Return the positions after `duration` seconds, negative for the past, by the midpoint rule."""
    halfway = points + 0.5 * duration * _at(motion, points)
    after: NDArray[np.float64] = points + duration * _at(motion, halfway)
    return after


def _at(motion: Array, points: NDArray[np.float64]) -> Array:
    return np.stack([ndimage.map_coordinates(part, points, order=1, mode="nearest") for part in motion])
