"""Baseline forecasts: persistence and extrapolation along the optical flow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convlstm.nowcast.motion import (
    Array,
    Numbers,
    advect_cells,
    check_axes,
    estimate_motion,
    fill_missing,
    frames_with_data,
    rising,
    trace,
)

AXES = ("time", "channel", "height", "width")


def persistence(inputs: Array, lead_times: Numbers) -> NDArray[np.float32]:
    """Forecast the last known value of every pixel (lead_time, channel, height, width); NaN where none is known."""
    check_axes("inputs", inputs, AXES)
    return np.repeat(_latest(inputs)[None], len(lead_times), axis=0)


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """The latest frame of one channel, and the motion that moves it."""

    frame: NDArray[np.float32]  # (height, width), with the nearest known value in gaps
    motion: NDArray[np.float32]  # (2, height, width) in pixels per second
    age: float  # seconds from this frame to the last input frame

    @classmethod
    def of_inputs(cls, inputs: Array, seconds: NDArray[np.float64]) -> Extrapolation:
        """Return the extrapolation of input frames (time, height, width), NaN where missing, at these times."""
        seen = frames_with_data(inputs)
        age = float(seconds[-1] - seconds[seen[-1]]) if seen.size else 0.0
        return cls(fill_missing(_latest(inputs)), estimate_motion(inputs, seconds), age)

    def moved(self, lead_seconds: NDArray[np.float64], cells: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the moved frame (lead_time, height, width) in some cells, rows and columns (2, height, width)."""
        return advect_cells(self.frame, self.motion, lead_seconds + self.age, cells)


def optical_flow(inputs: Array, input_seconds: Numbers, lead_seconds: Numbers) -> NDArray[np.float32]:
    """Forecast by moving the latest frame along the latest motion, separately for each channel.

    The inputs are (time, channel, height, width), NaN where missing, with times in seconds; lead times count from the
    last input frame. If the last frames are missing, the latest frame with data moves for longer. The forecast
    (lead_time, channel, height, width) is within the range of the inputs; NaN only in a channel without any value.
    """
    check_axes("inputs", inputs, AXES)
    seconds = rising("input_seconds", input_seconds, len(inputs))
    leads = rising("lead_seconds", lead_seconds, len(lead_seconds), start=0.0)
    cells = np.indices(inputs.shape[2:]).astype(np.float64)
    flows = [Extrapolation.of_inputs(inputs[:, channel], seconds) for channel in range(inputs.shape[1])]
    return np.stack([flow.moved(leads, cells) for flow in flows], axis=1)


def inflow(inputs: Array, input_seconds: Numbers, lead_seconds: Numbers) -> NDArray[np.bool_]:
    """Return where the optical flow of the first channel brings in what no input frame shows.

    There `optical_flow` takes the nearest known value. The result (lead_time, height, width) is True in cells whose
    origin is outside the grid or in cells that were never observed. The arguments are those of `optical_flow`.
    """
    seconds = rising("input_seconds", input_seconds, len(inputs))
    leads = rising("lead_seconds", lead_seconds, len(lead_seconds), start=0.0)
    first = inputs[:, 0]
    known = np.isfinite(_latest(first)).astype(np.float64)
    origins = trace(np.indices(known.shape).astype(np.float64), estimate_motion(first, seconds), -leads)
    shares = [ndimage.map_coordinates(known, origin, order=1, mode="grid-constant", cval=0.0) for origin in origins]
    return np.stack(shares) < 0.5


def _latest(inputs: Array) -> NDArray[np.float32]:
    """Return the latest known value of every pixel."""
    latest = np.full(inputs.shape[1:], np.nan, np.float32)
    for frame in inputs:
        np.copyto(latest, frame, where=np.isfinite(frame), casting="same_kind")
    return latest
