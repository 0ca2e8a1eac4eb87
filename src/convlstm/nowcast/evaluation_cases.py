"""The cases of an evaluation: selection, forecasts of every method, and observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.data import Frames, find_windows, windows_within
from convlstm.errors import ConfigError, DataError
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.cf_output import lead_seconds
from convlstm.nowcast.nowcaster import Nowcaster

METHODS = ("convlstm", "optical flow", "persistence")
_BATCH = 4
_MAX_BYTES = 6 * 2**30


@dataclass(frozen=True)
class Selection:
    """The selection of the forecasts to score.

    Args:
        days: Dates to evaluate on; empty uses the test days of the model, or all days if the data has none of them.
        max_cases: Maximum number of forecasts, spread evenly over the data.
        min_wet: Minimum share of cells with at least 0.1 mm/h in the last input frame; for rain only.
        thresholds: Thresholds of the events to score; empty uses those of the model.
        fss_window: Side of the window of the fractions skill score in cells.
    """

    days: tuple[str, ...] = ()
    max_cases: int = 48
    min_wet: float = 0.05
    thresholds: tuple[float, ...] = ()
    fss_window: int = 10


@dataclass(frozen=True, eq=False)
class Cases:
    """Forecasts of every method and the observations, in physical units.

    Args:
        ends: Index of the last input frame of each case.
        lead_seconds: Seconds from that frame to each forecast frame.
        forecast: (method, case, lead_time, height, width), float32.
        observation: (case, lead_time, height, width).
    """

    ends: NDArray[np.intp]
    lead_seconds: NDArray[np.float64]
    forecast: NDArray[np.float32]
    observation: NDArray[np.float32]


def choose_events(nowcaster: Nowcaster, frames: Frames, selection: Selection) -> list[float]:
    """Return the thresholds to score, checked before any forecast.

    Raises:
        ConfigError: for a threshold that is not a finite number, or a window larger than the grid.
    """
    thresholds = sorted(set(selection.thresholds or nowcaster.pipeline.thresholds))
    if not np.isfinite(thresholds).all():
        raise ConfigError(
            "--threshold", expected="finite numbers", received=thresholds, hint="Remove NaN and infinity."
        )
    side = min(frames.shape[2:])
    if not 1 <= selection.fss_window <= side:
        raise ConfigError(
            "--fss-window",
            expected=f"1 to {side} cells, within the grid",
            received=selection.fss_window,
            hint="Decrease `--fss-window`.",
        )
    return thresholds


def choose_days(nowcaster: Nowcaster, frames: Frames, selection: Selection) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the frames of the days to evaluate on, and those days.

    Raises:
        DataError: if a day is not in the data, or all days are days of the training.
    """
    day_of_frame = frames.time.dt.strftime("%Y-%m-%d").values.astype(str)
    there = sorted(set(day_of_frame.tolist()))
    unknown = [day for day in selection.days if day not in there]
    if unknown:
        raise DataError(
            "--day",
            expected=f"days from {there[0]} to {there[-1]}",
            received=unknown[0],
            hint="Choose days of this range.",
        )
    held_back = [day for day in nowcaster.pipeline.days.get("test", []) if day in there]
    seen = {day for name in ("train", "validation") for day in nowcaster.pipeline.days.get(name, [])}
    days = list(selection.days) or held_back or [day for day in there if day not in seen]
    if not days:
        raise DataError(
            "evaluation days",
            expected="days that the model was not trained on",
            received="none in this data",
            hint="Pass other data, or pass `--day` to score on days of the training.",
        )
    return np.isin(day_of_frame, days), days


def choose_cases(
    nowcaster: Nowcaster, frames: Frames, mask: NDArray[np.bool_], selection: Selection
) -> NDArray[np.intp]:
    """Return the last input frame of each case, for complete and sufficiently wet windows, spread evenly.

    Raises:
        DataError: if there is no window, or none is wet enough.
    """
    pipeline = nowcaster.pipeline
    before, ahead, step = pipeline.input_length, pipeline.horizon, pipeline.time_step
    inputs = find_windows(frames.seconds, before, time_step=step, max_gap=pipeline.max_gap) + before - 1
    targets = find_windows(frames.seconds, ahead + 1, time_step=step)
    ends = np.intersect1d(inputs, targets)
    ends = windows_within(ends - before + 1, before + ahead, mask) + before - 1
    if not len(ends):
        raise DataError(
            "evaluation days",
            expected=f"at least one run of {before} + {ahead} frames without a gap",
            received="none",
            hint="Choose another `--day`.",
        )
    if pipeline.rain and selection.min_wet > 0:
        wet = np.array([np.mean(frames.read(slice(e, e + 1))[0, 0] >= 0.1) for e in ends])
        if not (wet >= selection.min_wet).any():
            raise DataError(
                "evaluation days",
                expected=f"a frame with rain on {selection.min_wet:.0%} of the cells",
                received=f"at most {wet.max():.1%}",
                hint="Choose another `--day`, or decrease `--min-wet`.",
            )
        ends = ends[wet >= selection.min_wet]
    count = min(len(ends), selection.max_cases)
    chosen: NDArray[np.intp] = ends[np.linspace(0, len(ends) - 1, count).astype(int)]
    return chosen


def run_cases(nowcaster: Nowcaster, frames: Frames, ends: NDArray[np.intp], tell: Callable[[int, int], None]) -> Cases:
    """Forecast every case with every method.

    Raises:
        ConfigError: if the forecasts need too much memory.
    """
    pipeline = nowcaster.pipeline
    leads = lead_seconds(nowcaster)
    shape = (len(ends), len(leads), *frames.shape[2:])
    size = 4 * (len(METHODS) + 1) * int(np.prod(shape))
    if size > _MAX_BYTES:
        raise ConfigError(
            "--max-cases",
            expected=f"forecasts of at most {_MAX_BYTES / 2**30:.0f} GiB in all",
            received=f"{size / 2**30:.1f} GiB for {len(ends)} cases",
            hint="Decrease `--max-cases`.",
        )
    forecast, observation = np.empty((len(METHODS), *shape), np.float32), np.empty(shape, np.float32)
    for first in range(0, len(ends), _BATCH):
        part = ends[first : first + _BATCH]
        windows = [slice(end - pipeline.input_length + 1, end + 1) for end in part]
        inputs = np.stack([frames.read(window) for window in windows])
        seconds = np.stack([frames.seconds[window] for window in windows])
        forecast[0, first : first + len(part)] = nowcaster.predict(inputs, seconds, leads)[:, :, 0]
        for n, end in enumerate(part):
            one = inputs[n, :, :1]
            forecast[1, first + n] = optical_flow(one, seconds[n], leads)[:, 0]
            forecast[2, first + n] = persistence(one, leads)[:, 0]
            observation[first + n] = frames.read(slice(end + 1, end + 1 + len(leads)))[:, 0]
        tell(first + len(part), len(ends))
    return Cases(ends, leads, forecast, observation)
