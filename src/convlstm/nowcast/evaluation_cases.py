"""The selection of the cases of an evaluation: thresholds, days and starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.data import Frames, find_windows, windows_within
from convlstm.errors import ConfigError, DataError
from convlstm.nowcast.forecast_values import is_among
from convlstm.nowcast.nowcaster import Nowcaster

SMALLEST_RAIN = 0.1
"""Rain rate in mm/h from which a cell is wet; lower values count as equal in ranks."""


@dataclass(frozen=True)
class Selection:
    """The selection of the forecasts to score."""

    days: tuple[str, ...] = ()  # empty uses the test days of the model, or all days if the data has none of them
    max_cases: int = 48  # spread evenly over the data
    min_wet: float = 0.05  # minimum share of cells with 0.1 mm/h in the last input frame; rain only
    thresholds: tuple[float, ...] = ()  # empty uses those of the model
    fss_window: int = 10  # side of the window of the fractions skill score in cells
    allow_training_days: bool = False  # whether days may be scored that the model was trained or validated on


def choose_events(thresholds: Sequence[float], fss_window: int, grid: tuple[int, int], *, rain: bool) -> list[float]:
    """Return the thresholds to score, ascending, checked with the window of the fractions skill score."""
    ascending = sorted(set(thresholds))
    if not np.isfinite(ascending).all():
        raise ConfigError("--threshold", expected="finite numbers", received=ascending, hint="Remove NaN and infinity.")
    if rain and ascending and ascending[0] <= 0:
        raise ConfigError(
            "--threshold",
            expected="rain rates above 0 mm/h",
            received=f"{ascending[0]:g}, which every cell reaches",
            hint="Pass another `--threshold`.",
        )
    if not 1 <= fss_window <= min(grid):
        raise ConfigError(
            "--fss-window",
            expected=f"1 to {min(grid)} cells, within the grid",
            received=fss_window,
            hint="Pass another `--fss-window`.",
        )
    return ascending


def wet_share(frames: Frames, frame: int) -> float:
    """Return the share of the cells of one frame that are wet, for data of rain."""
    return float(np.mean(frames.read(slice(frame, frame + 1))[0, 0] >= SMALLEST_RAIN))


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
    seen = nowcaster.pipeline.seen_days
    days = list(selection.days) or test_days or [day for day in available if day not in seen]
    if not days:
        raise DataError(
            "evaluation days",
            expected="days that the model was not trained on",
            received="none in this data",
            hint="Pass other data. Days of the training need `--day` and `--allow-training-days`.",
        )
    repeated = training_days(nowcaster, days)
    if repeated and not selection.allow_training_days:
        raise DataError(
            "evaluation days",
            expected="days that the model was not trained on",
            received=f"{repeated[0]}, a day of its training or validation",
            hint="Choose another `--day`, or pass `--allow-training-days` for scores that are too good.",
        )
    return np.isin(day_of_frame, days), days


def training_days(nowcaster: Nowcaster, days: Sequence[str]) -> list[str]:
    """Return those days on which the model was trained or validated."""
    return sorted(set(days) & set(nowcaster.pipeline.seen_days))


def choose_cases(
    nowcaster: Nowcaster,
    frames: Frames,
    mask: NDArray[np.bool_],
    selection: Selection,
    starts: Mapping[str, NDArray[np.float64]] | None = None,
) -> NDArray[np.intp]:
    """Return the last input frame of each case, for complete and sufficiently wet windows, spread evenly.

    `starts` are the times of the forecasts of other tools in seconds, by name; each case must have all of them.
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
    for name, seconds in (starts or {}).items():
        ends = ends[is_among(seconds, frames.seconds[ends])]
        if not len(ends):
            raise DataError(
                name,
                expected="a forecast that starts at an input frame of the evaluation days",
                received=f"{len(seconds)} forecasts of other times",
                hint="Choose its days with `--day`, or pass forecasts of these days.",
            )
    if pipeline.rain and selection.min_wet > 0:
        shares = np.array([wet_share(frames, end) for end in ends.tolist()])
        if not (shares >= selection.min_wet).any():
            raise DataError(
                "evaluation days",
                expected=f"a frame with rain on {selection.min_wet:.0%} of the cells",
                received=f"at most {shares.max():.1%}",
                hint="Choose another `--day`, or decrease `--min-wet`.",
            )
        ends = ends[shares >= selection.min_wet]
    count = min(len(ends), selection.max_cases)
    chosen: NDArray[np.intp] = ends[np.linspace(0, len(ends) - 1, count).astype(int)]
    return chosen
