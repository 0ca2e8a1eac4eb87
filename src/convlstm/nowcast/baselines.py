"""Baseline forecasts: persistence and extrapolation along the optical flow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convlstm.nowcast.motion import (
    Array,
    Numbers,
    advect,
    check_axes,
    estimate_motion,
    frames_with_data,
    rising,
)

AXES = ("time", "channel", "height", "width")


def persistence(inputs: Array, lead_times: Numbers) -> NDArray[np.float32]:
    """Forecast the last known value of every pixel.

    Args:
        inputs: Observed frames (time, channel, height, width), NaN where missing.
        lead_times: One entry per frame to forecast, in any unit.

    Returns:
        The latest known value of every pixel (lead_time, channel, height, width); NaN where none is known.

    Raises:
        ShapeError: if the inputs are not four-dimensional.

    Example:
        >>> frames = np.full((2, 1, 4, 4), 1.0)
        >>> frames[1, 0, 0, 0] = np.nan
        >>> persistence(frames, [5, 10])[:, 0, 0, 0].tolist()
        [1.0, 1.0]
    """
    check_axes("inputs", inputs, AXES)
    return np.repeat(_latest(inputs)[None], len(lead_times), axis=0)


def optical_flow(inputs: Array, input_seconds: Numbers, lead_seconds: Numbers) -> NDArray[np.float32]:
    """Forecast by moving the latest frame along the latest motion.

    Each channel has its own motion. If the last frames are missing, the latest frame with data moves for longer.

    Args:
        inputs: Observed frames (time, channel, height, width), NaN where missing.
        input_seconds: Times of the input frames, increasing, at constant or variable steps.
        lead_seconds: Seconds from the last input frame to each forecast frame, increasing.

    Returns:
        Forecast (lead_time, channel, height, width) without gaps, never outside the range of the inputs; NaN only
        in a channel without any value.

    Raises:
        ShapeError: if the inputs are not four-dimensional.
        DataError: if the times do not increase or are not one per frame.

    Example:
        >>> frames = np.zeros((2, 1, 8, 8), np.float32)
        >>> optical_flow(frames, [0, 300], [300, 900]).shape
        (2, 1, 8, 8)
    """
    check_axes("inputs", inputs, AXES)
    seconds = rising("input_seconds", input_seconds, len(inputs))
    leads = rising("lead_seconds", lead_seconds, len(lead_seconds), start=0.0)
    channels = [_extrapolate(inputs[:, channel], seconds, leads) for channel in range(inputs.shape[1])]
    return np.stack(channels, axis=1)


def _extrapolate(inputs: Array, seconds: NDArray[np.float64], leads: NDArray[np.float64]) -> NDArray[np.float32]:
    seen = frames_with_data(inputs)
    age = seconds[-1] - seconds[seen[-1]] if seen.size else 0.0
    return advect(_latest(inputs), estimate_motion(inputs, seconds), leads + age)


def _latest(inputs: Array) -> NDArray[np.float32]:
    """Return the latest known value of every pixel."""
    latest = np.full(inputs.shape[1:], np.nan, np.float32)
    for frame in inputs:
        np.copyto(latest, frame, where=np.isfinite(frame), casting="same_kind")
    return latest
