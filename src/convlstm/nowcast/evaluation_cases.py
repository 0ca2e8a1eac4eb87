"""The selection of the cases of an evaluation: thresholds, days and starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.data import Frames, find_windows, windows_within
from convlstm.errors import ConfigError, DataError
from convlstm.nowcast.nowcaster import Nowcaster

_START_TOLERANCE = 1.0  # seconds between the start of a forecast and the last input frame


@dataclass(frozen=True)
class Selection:
    """The selection of the forecasts to score."""

    days: tuple[str, ...] = ()  # empty uses the test days of the model, or all days if the data has none of them
    max_cases: int = 48  # spread evenly over the data
    min_wet: float = 0.05  # minimum share of cells with 0.1 mm/h in the last input frame; rain only
    thresholds: tuple[float, ...] = ()  # empty uses those of the model
    fss_window: int = 10  # side of the window of the fractions skill score in cells
    allow_training_days: bool = False  # whether days may be scored that the model was trained or validated on


def choose_events(nowcaster: Nowcaster, frames: Frames, selection: Selection) -> list[float]:
    """Return the thresholds to score, checked with the window of the fractions skill score before any forecast."""
    thresholds = sorted(set(selection.thresholds or nowcaster.pipeline.thresholds))
    if not np.isfinite(thresholds).all():
        raise ConfigError(
            "--threshold", expected="finite numbers", received=thresholds, hint="Remove NaN and infinity."
        )
    check_rain_thresholds(thresholds, rain=nowcaster.pipeline.rain)
    side = min(frames.shape[2:])
    if not 1 <= selection.fss_window <= side:
        raise ConfigError(
            "--fss-window",
            expected=f"1 to {side} cells, within the grid",
            received=selection.fss_window,
            hint="Decrease `--fss-window`.",
        )
    return thresholds


def check_rain_thresholds(thresholds: Sequence[float], *, rain: bool) -> None:
    """Raise an error for a threshold of rain that every cell reaches."""
    if rain and any(threshold <= 0 for threshold in thresholds):
        raise ConfigError(
            "--threshold",
            expected="rain rates above 0 mm/h",
            received=f"{min(thresholds):g}, which every cell reaches",
            hint="Pass another `--threshold`.",
        )


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
        distance = np.abs(frames.seconds[ends][:, None] - seconds[None]).min(axis=1)
        ends = ends[distance <= _START_TOLERANCE]
        if not len(ends):
            raise DataError(
                name,
                expected="a forecast that starts at an input frame of the evaluation days",
                received=f"{len(seconds)} forecasts of other times",
                hint="Choose its days with `--day`, or pass forecasts of these days.",
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
