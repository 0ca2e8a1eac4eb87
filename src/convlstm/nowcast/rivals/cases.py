"""The cases that pysteps can forecast: checks of the arguments, lead times in steps, and the fallback."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import DataError, ShapeError
from convlstm.nowcast.baselines import AXES
from convlstm.nowcast.motion import Array, Numbers, check_axes, rising
from convlstm.nowcast.rivals.methods import RAIN, Fields, Method, decibel, quiet

SMALLEST_GRID = 32
"""Fewest cells along an axis, so that each cascade level and window has more than one cell."""

FEWEST_RAINY_CELLS = 10
"""With fewer rainy cells in a frame, its statistics are undefined; pysteps fails with one."""

SMALLEST_CHANGE = 0.01
"""Smallest largest change in mm/h between two frames; frames that repeat have no defined autoregressive model."""

MOTION_FRAMES = 3
"""Number of latest frames from which the motion is estimated."""

LONGEST_FORECAST = 1000
"""Most time steps of a forecast, which pysteps computes one after another."""


def checked(
    inputs: Array, input_seconds: Numbers, lead_seconds: Numbers, count: int, *, channels: int | None = None
) -> tuple[Fields, Fields, float]:
    """Return the last `count` frames, the lead times in time steps, and the time step in seconds."""
    check_axes("inputs", inputs, AXES)
    seconds = rising("input_seconds", input_seconds, len(inputs))
    leads = rising("lead_seconds", lead_seconds, len(lead_seconds), start=0.0)
    _check_shape(inputs.shape, count, channels)
    gaps = np.diff(seconds[-count:])
    step = float(gaps.mean())
    if np.abs(gaps - step).max() > 0.01 * step:
        raise DataError(
            "input_seconds",
            expected=f"the last {count} times evenly spaced",
            received=str(seconds[-count:].tolist()),
            hint="Fill gaps with frames of NaN, or use `optical_flow`.",
        )
    steps = np.round(leads / step, 6)
    if steps[-1] > LONGEST_FORECAST:
        raise DataError(
            "lead_seconds",
            expected=f"at most {LONGEST_FORECAST} time steps of {step:g} s",
            received=f"{leads[-1]:g} s",
            hint="Pass times in seconds, or fewer lead times.",
        )
    frames = np.asarray(inputs[-count:], np.float64)
    frames = np.where(np.isfinite(frames), frames, np.nan)
    if (frames < 0).any():
        raise DataError(
            "inputs",
            expected="rain rates in mm/h, at least 0",
            received=f"a minimum of {np.nanmin(frames):g}",
            hint="Convert to mm/h, and set missing values to NaN.",
        )
    return frames, steps, step


def _check_shape(shape: tuple[int, ...], count: int, channels: int | None) -> None:
    if shape[0] < count:
        raise ShapeError(
            "inputs",
            expected=f"at least {count} frames",
            received=f"{shape[0]}",
            hint="Pass more frames, or use `optical_flow`.",
        )
    if channels is not None and shape[1] != channels:
        raise ShapeError(
            "inputs", expected=f"{channels} channel", received=f"{shape[1]}", hint="Pass one channel: `inputs[:, :1]`."
        )
    if min(shape[-2:]) < SMALLEST_GRID:
        raise ShapeError(
            "inputs",
            expected=f"at least {SMALLEST_GRID} x {SMALLEST_GRID} cells",
            received=f"{shape[-2]} x {shape[-1]}",
            hint="Pass a larger grid, or use `optical_flow`.",
        )


def compute_fields(frames: Fields, leads: Fields, method: Method, fallback: Method) -> Fields:
    """Return the fields at the positive lead times, by `fallback` where the frames do not allow the method."""
    positive = leads[leads > 0]
    if positive.size == 0:
        positive, method = np.ones(1), fallback  # this field gives the shape, and is not selected
    # All whole steps are computed, because the path of a cell depends on the steps into which it is divided.
    times = np.union1d(np.arange(1, int(np.ceil(positive[-1])) + 1), positive)
    is_whole = times.size == int(times[-1])
    with quiet():
        blank = not np.isfinite(frames[-1]).any()
        source = np.nan_to_num(frames) if blank else frames
        motion = _motion(source)
        chosen = method if _allow_statistics(source, motion) else fallback
        fields = chosen(source, motion, times.size if is_whole else times.tolist())
    if blank:
        fields = np.full_like(fields, np.nan)
    return fields[np.searchsorted(times, positive)]


def with_lead_zero(fields: Fields, leads: Fields, latest: Fields) -> NDArray[np.float32]:
    """Return the fields of the positive lead times, with the latest frame (1, ...) in front for lead time 0."""
    count = np.count_nonzero(leads > 0)
    start = np.repeat(latest, len(leads) - count, axis=0)
    return np.concatenate([start, fields[:count]]).astype(np.float32)


def _allow_statistics(frames: Fields, motion: Fields) -> bool:
    """Return whether the statistics of the models of change are defined.

    Each frame, moved to the latest time, must have rain and differ from the next one in the cells known in all frames.
    """
    from pysteps.extrapolation import get_method

    if not all(_has_contrast(frame) for frame in frames):
        return False
    move = get_method("semilagrangian")
    moved = [
        move(frame, motion, len(frames) - 1 - index, allow_nonfinite_values=True)[-1]
        for index, frame in enumerate(frames[:-1])
    ]
    together = np.stack([*moved, frames[-1]])
    known = together[:, np.isfinite(together).all(axis=0)]
    has_rain = (np.count_nonzero(known > RAIN, axis=1) >= FEWEST_RAINY_CELLS).all()
    changes = np.abs(np.diff(known, axis=0))
    return bool(has_rain and (changes.max(axis=1) > SMALLEST_CHANGE).all())


def _motion(frames: Fields) -> Fields:
    """Return the motion (2, height, width), x first, in cells per step; zero if the last two frames show none."""
    from pysteps.motion import get_method

    images = decibel(frames[-MOTION_FRAMES:])
    visible = [_has_contrast(frame) for frame in images]
    if not all(visible[-2:]):
        return np.zeros((2, *frames.shape[1:]))
    if not all(visible):
        images = images[-2:]
    motion: Fields = get_method("LK")(images)
    return motion


def _has_contrast(frame: Fields) -> bool:
    known = frame[np.isfinite(frame)]
    return known.size > 0 and known.min() < known.max()
