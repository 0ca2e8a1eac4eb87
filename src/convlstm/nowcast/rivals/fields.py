"""Forecasts of rain rates by pysteps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convlstm.nowcast.motion import Array, Numbers
from convlstm.nowcast.rivals.cases import MOTION_FRAMES, checked, compute_fields, with_lead_zero
from convlstm.nowcast.rivals.methods import Method, extrapolate, run_anvil, run_linda, run_sprog


def lk_extrapolation(inputs: Array, input_seconds: Numbers, lead_seconds: Numbers) -> NDArray[np.float32]:
    """Forecast by semi-Lagrangian extrapolation along the dense Lucas-Kanade motion of the last three frames.

    Args:
        inputs: Rain rates in mm/h (time, channel, height, width), NaN where missing; at least 3 frames.
        input_seconds: Times of the frames in seconds; the last three are evenly spaced.
        lead_seconds: Lead times in seconds from the last frame, at least 0 and increasing.

    Returns:
        Rain rates in mm/h (lead_time, channel, height, width), NaN where the method has no value.

    Raises:
        ShapeError: If the axes are wrong, the grid is below 32 x 32 cells, or there are too few frames.
        DataError: If times are not increasing or not evenly spaced, or a rain rate is negative.
        DependencyError: If pysteps or OpenCV is not installed.

    Example:
        `forecast = lk_extrapolation(rain, [0, 300, 600], [300, 600])`
    """
    return _forecast(inputs, input_seconds, lead_seconds, MOTION_FRAMES, extrapolate)


def sprog(inputs: Array, input_seconds: Numbers, lead_seconds: Numbers) -> NDArray[np.float32]:
    """Forecast by S-PROG (Seed 2003): small scales fade with lead time, at the rate at which they lose correlation.

    Arguments, result and errors are those of `lk_extrapolation`. The fields are in dBR, with 6 cascade levels, an
    autoregressive model of order 2, and the distribution of the latest frame.

    Example:
        `forecast = sprog(rain, [0, 300, 600], [300, 600])`
    """
    return _forecast(inputs, input_seconds, lead_seconds, MOTION_FRAMES, run_sprog)


def anvil(inputs: Array, input_seconds: Numbers, lead_seconds: Numbers) -> NDArray[np.float32]:
    """Forecast by ANVIL (Pulkkinen et al. 2020): local autoregressive models of the change, by cascade level.

    Arguments, result and errors are those of `lk_extrapolation`, with at least 4 frames, of which the last four are
    evenly spaced. The order is 2, and the input is the rain rate.

    Example:
        `forecast = anvil(rain, [0, 300, 600, 900], [300, 600])`
    """
    return _forecast(inputs, input_seconds, lead_seconds, 4, run_anvil)


def linda(inputs: Array, input_seconds: Numbers, lead_seconds: Numbers) -> NDArray[np.float32]:
    """Forecast by LINDA-D (Pulkkinen et al. 2021): local convolutions and autoregression around the rain features.

    Arguments, result and errors are those of `lk_extrapolation`. There are no perturbations. Frames without a feature
    are extrapolated.

    Example:
        `forecast = linda(rain, [0, 300, 600], [300, 600])`
    """
    return _forecast(inputs, input_seconds, lead_seconds, MOTION_FRAMES, run_linda)


def _forecast(
    inputs: Array, input_seconds: Numbers, lead_seconds: Numbers, count: int, method: Method
) -> NDArray[np.float32]:
    frames, leads, _ = checked(inputs, input_seconds, lead_seconds, count)
    channels = []
    for channel in range(frames.shape[1]):
        fields = compute_fields(frames[:, channel], leads, method, extrapolate)
        channels.append(with_lead_zero(np.maximum(fields, 0.0), leads, frames[-1:, channel]))
    return np.stack(channels, axis=1)
