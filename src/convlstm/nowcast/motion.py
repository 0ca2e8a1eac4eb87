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
"""Gaussian width in pixels of the smoothing before motion is looked for."""

WINDOW = 16
"""Radius in pixels of the neighbourhood that shares one vector."""

SPREAD = 8.0
"""Gaussian width in pixels of the average that carries vectors to where nothing is seen to move."""

LONGEST_STEP = 4.0
"""Pixels that a trajectory may run before the motion is read anew."""


def estimate_motion(inputs: Array, seconds: Numbers) -> NDArray[np.float32]:
    """Estimate the motion between the two latest frames with data.

    The method is iterative Lucas–Kanade on smoothed values with a symmetric logarithmic scale around their median. An
    average weighted by the squared gradient then gives the motion of pixels without texture.

    Args:
        inputs: Observed frames (time, height, width), NaN where missing.
        seconds: Times of the frames, increasing, at constant or variable steps.

    Returns:
        Motion (2, height, width) in pixels per second, positive downward and to the right. Zero with
            fewer than two frames with data, or with the same value everywhere.

    Raises:
        ShapeError: if the inputs are not three-dimensional or a side has a single pixel.
        DataError: if the times are not one per frame and increasing.

    Example:
        >>> y, x = np.mgrid[:48, :48]
        >>> frames = np.stack([np.exp(-((y - 24) ** 2 + (x - c) ** 2) / 50) for c in (20, 22)])
        >>> bool(np.allclose(estimate_motion(frames, [0, 2])[:, 24, 22], (0.0, 1.0), atol=0.1))
        True
    """
    check_axes("inputs", inputs, ("time", "height", "width"))
    times = rising("seconds", seconds, len(inputs))
    still = np.zeros((2, *inputs.shape[1:]), np.float32)
    seen = frames_with_data(inputs)[-2:]
    if len(seen) < 2:
        return still
    before, after = _levelled(np.stack([fill_missing(frame) for frame in inputs[seen]]))
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
    smoothed twice. Origins outside the frame or in a gap take the nearest known value.

    Args:
        frame: Latest frame (height, width), NaN where missing.
        motion: Motion (2, height, width) in pixels per second, the result of `estimate_motion`.
        lead_seconds: Seconds from the frame to each moved frame, at least 0 and increasing.

    Returns:
        Moved frames (lead_time, height, width), never outside the range of the frame; NaN only if the frame holds
        no value at all.

    Raises:
        ShapeError: if the frame is not two-dimensional or the motion does not fit it.
        DataError: if the lead times do not increase or are negative, or the motion is not finite.

    Example:
        >>> frame = np.eye(4)
        >>> right = np.stack([np.zeros((4, 4)), np.ones((4, 4))])
        >>> advect(frame, right, [1])[0, 1].tolist()
        [0.0, 0.0, 1.0, 0.0]
    """
    check_axes("frame", frame, ("height", "width"))
    leads = rising("lead_seconds", lead_seconds, len(lead_seconds), start=0.0)
    _check_motion(motion, frame.shape)
    source, speed = fill_missing(frame), np.hypot(*motion).max()
    origin = np.indices(frame.shape).astype(np.float64)
    moved = np.empty((len(leads), *frame.shape), np.float32)
    for index, duration in enumerate(np.diff(leads, prepend=0.0)):
        steps = max(1, int(np.ceil(speed * duration / LONGEST_STEP)))
        for _ in range(steps):
            origin = _step_back(origin, motion, duration / steps)
        moved[index] = ndimage.map_coordinates(source, origin, order=1, mode="nearest")
    return moved


def frames_with_data(inputs: Array) -> NDArray[np.intp]:
    """Return the indices of the frames with at least one value.

    Args:
        inputs: Frames (time, height, width), NaN where missing.

    Returns:
        Indices (frame,), increasing.

    Example:
        >>> frames_with_data(np.array([[[1.0]], [[np.nan]]])).tolist()
        [0]
    """
    return np.flatnonzero(np.isfinite(inputs).any(axis=(1, 2)))


def fill_missing(frame: Array) -> Array:
    """Return the frame with the nearest known value in every missing pixel.

    Args:
        frame: Frame (height, width), NaN where missing.

    Returns:
        The frame without gaps; unchanged if it has no value.

    Example:
        >>> fill_missing(np.array([[np.nan, 2.0, 3.0]])).tolist()
        [[2.0, 2.0, 3.0]]
    """
    missing = ~np.isfinite(frame)
    if missing.all() or not missing.any():
        return frame
    nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled: Array = frame[tuple(nearest)]
    return filled


def check_axes(name: str, array: Array, axes: tuple[str, ...]) -> None:
    """Raise an error for an array with other axes than the named ones.

    Args:
        name: Name of the argument.
        array: The array.
        axes: Names of the expected axes; the last two are the grid.

    Raises:
        ShapeError: if the number of axes differs, one is empty, or the grid is narrower than two pixels.

    Example:
        >>> check_axes("frame", np.zeros((4, 4)), ("height", "width"))
    """
    if array.ndim == len(axes) and min(array.shape) > 0 and min(array.shape[-2:]) > 1:
        return
    raise ShapeError(
        name,
        expected=f"axes ({', '.join(axes)}), none empty and at least 2 x 2 pixels",
        received=f"shape {array.shape}",
        hint="Add or remove axes to match.",
    )


def rising(name: str, values: Numbers, count: int, *, start: float = -np.inf) -> NDArray[np.float64]:
    """Return times as an array, checked to increase.

    Args:
        name: Name of the argument.
        values: Times in seconds.
        count: Expected number.
        start: Minimum of the first time.

    Returns:
        The times (time,).

    Raises:
        DataError: if their number is wrong, or they are not finite, too early, or do not increase.

    Example:
        >>> rising("lead_seconds", [300, 900], 2).tolist()
        [300.0, 900.0]
    """
    times = np.asarray(values, np.float64)
    whole = times.shape == (count,) and count > 0 and np.isfinite(times).all()
    if whole and times[0] >= start and (np.diff(times) > 0).all():
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


def _levelled(frames: Array) -> NDArray[np.float32]:
    """Return values on a scale where weak and strong texture have equal weight: rain spans orders of magnitude."""
    centred = frames - np.median(frames)
    deviation = np.abs(centred).mean()
    if deviation == 0:
        return np.zeros(frames.shape, np.float32)
    level = np.arcsinh(CONTRAST / deviation * centred).astype(np.float32)
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(level, (0, NOISE, NOISE))
    return smooth


def _spread(shift: Array, weight: Array) -> Array:
    local: Array = ndimage.gaussian_filter(shift * weight, (0, SPREAD, SPREAD))
    support: Array = ndimage.gaussian_filter(weight, SPREAD)
    overall = (shift * weight).sum(axis=(1, 2), keepdims=True) / weight.sum()
    # Far from any texture the mean motion dominates.
    little = 1e-3 * support.max()
    spread: Array = (local + little * overall) / (support + little)
    return spread


def _step_back(origin: NDArray[np.float64], motion: Array, duration: float) -> NDArray[np.float64]:
    """Trace the motion back for `duration` seconds with the midpoint rule."""
    halfway = origin - 0.5 * duration * _at(motion, origin)
    back: NDArray[np.float64] = origin - duration * _at(motion, halfway)
    return back


def _at(motion: Array, points: NDArray[np.float64]) -> Array:
    return np.stack([ndimage.map_coordinates(part, points, order=1, mode="nearest") for part in motion])
