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
from convlstm.verification.evaluation_folder import METHODS

_BATCH = 4
_MAX_BYTES = 6 * 2**30


@dataclass(frozen=True)
class Selection:
    """The selection of the forecasts to score."""

    days: tuple[str, ...] = ()  # empty uses the test days of the model, or all days if the data has none of them
    max_cases: int = 48  # spread evenly over the data
    min_wet: float = 0.05  # minimum share of cells with 0.1 mm/h in the last input frame; rain only
    thresholds: tuple[float, ...] = ()  # empty uses those of the model
    fss_window: int = 10  # side of the window of the fractions skill score in cells


@dataclass(frozen=True, eq=False)
class Cases:
    """Forecasts of every method and the observations, in physical units."""

    ends: NDArray[np.intp]  # index of the last input frame of each case
    lead_seconds: NDArray[np.float64]  # from that frame to each forecast frame
    forecast: NDArray[np.float32]  # (method, case, lead_time, height, width)
    observation: NDArray[np.float32]  # (case, lead_time, height, width)
    # of the model, that a value reaches each of `thresholds`: (case, lead_time, threshold, height, width)
    probability: NDArray[np.float16] | NDArray[np.float32] | None = None
    thresholds: tuple[float, ...] = ()  # of `probability`, ascending, in the unit of the observation


def choose_events(nowcaster: Nowcaster, frames: Frames, selection: Selection) -> list[float]:
    """Return the thresholds to score, checked with the window of the fractions skill score before any forecast."""
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
    """Return the frames of the days to evaluate on (time,), and those days."""
    day_of_frame = frames.time.dt.strftime("%Y-%m-%d").values.astype(str)
    available = sorted(set(day_of_frame.tolist()))
    unknown = [day for day in selection.days if day not in available]
    if unknown:
        raise DataError(
            "--day",
            expected=f"days from {available[0]} to {available[-1]}",
            received=unknown[0],
            hint="Choose days of this range.",
        )
    test_days = [day for day in nowcaster.pipeline.days.get("test", []) if day in available]
    seen = {day for name in ("train", "validation") for day in nowcaster.pipeline.days.get(name, [])}
    days = list(selection.days) or test_days or [day for day in available if day not in seen]
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
    """Return the last input frame of each case, for complete and sufficiently wet windows, spread evenly."""
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
        wet_share = np.array([np.mean(frames.read(slice(e, e + 1))[0, 0] >= 0.1) for e in ends])
        if not (wet_share >= selection.min_wet).any():
            raise DataError(
                "evaluation days",
                expected=f"a frame with rain on {selection.min_wet:.0%} of the cells",
                received=f"at most {wet_share.max():.1%}",
                hint="Choose another `--day`, or decrease `--min-wet`.",
            )
        ends = ends[wet_share >= selection.min_wet]
    count = min(len(ends), selection.max_cases)
    chosen: NDArray[np.intp] = ends[np.linspace(0, len(ends) - 1, count).astype(int)]
    return chosen


def run_cases(
    nowcaster: Nowcaster, frames: Frames, ends: NDArray[np.intp], on_case: Callable[[int, int], None]
) -> Cases:
    """Forecast every case with every method, within a limit of memory."""
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
        batch_ends = ends[first : first + _BATCH]
        windows = [slice(end - pipeline.input_length + 1, end + 1) for end in batch_ends]
        inputs = np.stack([frames.read(window) for window in windows])
        seconds = np.stack([frames.seconds[window] for window in windows])
        forecast[0, first : first + len(batch_ends)] = nowcaster.predict(inputs, seconds, leads)[:, :, 0]
        for n, end in enumerate(batch_ends):
            scored_inputs = inputs[n, :, :1]
            forecast[1, first + n] = optical_flow(scored_inputs, seconds[n], leads)[:, 0]
            forecast[2, first + n] = persistence(scored_inputs, leads)[:, 0]
            observation[first + n] = frames.read(slice(end + 1, end + 1 + len(leads)))[:, 0]
        on_case(first + len(batch_ends), len(ends))
    return Cases(ends, leads, forecast, observation)
