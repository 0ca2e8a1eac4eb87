"""The cases of an evaluation: selection, forecasts of every method, and observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames, find_windows, windows_within
from convlstm.data.units import Field
from convlstm.errors import ConfigError, DataError
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.cf_output import lead_seconds
from convlstm.nowcast.evaluation_ensembles import Ensembles, check_shape, member_fields
from convlstm.nowcast.members import check_member_memory, member_bytes
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.verification.evaluation_folder import BASELINES

FieldForecast = Callable[[Field, NDArray[np.float64], NDArray[np.float64]], Field]
"""A function of inputs (time, channel, height, width), their times, and lead times; as `optical_flow`."""

_BATCH = 4
_START_TOLERANCE = 1.0  # seconds between the start of a forecast and the last input frame
_MAX_BYTES = 6 * 2**30
_MEMBER_COPIES = 2  # of the members of one case: with and without missing values


@dataclass(frozen=True)
class Selection:
    """The selection of the forecasts to score."""

    days: tuple[str, ...] = ()  # empty uses the test days of the model, or all days if the data has none of them
    max_cases: int = 48  # spread evenly over the data
    min_wet: float = 0.05  # minimum share of cells with 0.1 mm/h in the last input frame; rain only
    thresholds: tuple[float, ...] = ()  # empty uses those of the model
    fss_window: int = 10  # side of the window of the fractions skill score in cells
    allow_training_days: bool = False  # whether days may be scored that the model was trained or validated on


@dataclass(frozen=True, eq=False)
class Cases:
    """Forecasts of every method and the observations, in physical units."""

    ends: NDArray[np.intp]  # index of the last input frame of each case
    lead_seconds: NDArray[np.float64]  # from that frame to each forecast frame
    methods: tuple[str, ...]
    forecast: NDArray[np.float32]  # (method, case, lead_time, height, width)
    observation: NDArray[np.float32]  # (case, lead_time, height, width)
    probabilities: Mapping[str, Probabilities] = field(default_factory=dict)  # by method, of those that have some
    ensembles: Mapping[str, xr.Dataset] = field(default_factory=dict)  # by method, as `ensemble_sums` returns


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The probabilities of a method with thresholds, and the means that follow from them."""

    thresholds: tuple[float, ...]  # ascending, in the unit of the observation
    values: NDArray[np.float16]  # that a threshold is reached (case, lead_time, threshold, height, width)
    means: NDArray[np.float32]  # (case, lead_time, height, width)
    members: int | None = None  # for shares of an ensemble, its number of members


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


def run_cases(
    models: Mapping[str, Nowcaster],
    frames: Frames,
    ends: NDArray[np.intp],
    on_case: Callable[[int, int], None],
    rivals: Mapping[str, FieldForecast] | None = None,
    ensembles: Ensembles | None = None,
    thresholds: Sequence[float] = (),
) -> Cases:
    """Forecast every case with every model, rival and baseline, within a limit of memory.

    The first model gives the lead times. A rival has the arguments and the result of `optical_flow`, whose values
    replace its missing ones, so that all methods are scored on the same cells. An ensemble that is not of a model is
    a method of its own, with its median as field and the share of its members as probability of each threshold.
    """
    rivals, ensembles = rivals or {}, ensembles or Ensembles({})
    nowcaster = next(iter(models.values()))
    leads = lead_seconds(nowcaster)
    other = [name for name in ensembles.forecasts if name not in models]
    methods = (*models, *rivals, *other, *BASELINES)
    shape = (len(ends), len(leads), *frames.shape[2:])
    events = {name: model.spec.thresholds for name, model in models.items() if model.spec.thresholds}
    events |= dict.fromkeys(other, tuple(thresholds))
    check_member_memory(ensembles.members, len(leads), frames.shape[2:], copies=_MEMBER_COPIES)
    _check_memory(events, len(methods), shape, ensembles.members)
    forecasts = np.empty((len(methods), *shape), np.float32)
    forecast = dict(zip(methods, forecasts, strict=True))  # views of it
    observation = np.empty(shape, np.float32)
    probabilities = {name: _empty_probabilities(levels, shape) for name, levels in events.items()}
    for first in range(0, len(ends), _BATCH):
        batch = slice(first, min(first + _BATCH, len(ends)))
        for name, model in models.items():
            _predict(model, frames, ends, batch, leads, forecast[name], probabilities.get(name))
        for case in range(batch.start, batch.stop):
            window = slice(ends[case] - nowcaster.pipeline.input_length + 1, ends[case] + 1)
            every_channel, seconds = frames.read(window), frames.seconds[window]
            inputs = every_channel[:, :1]
            flow = optical_flow(inputs, seconds, leads)[:, 0]
            forecast["optical flow"][case] = flow
            forecast["persistence"][case] = persistence(inputs, leads)[:, 0]
            for name, rival in rivals.items():
                values = rival(inputs, seconds, leads)[:, 0]
                forecast[name][case] = np.where(np.isfinite(values), values, flow)
            observation[case] = frames.read(slice(ends[case] + 1, ends[case] + 1 + len(leads)))[:, 0]
            members = {
                name: check_shape(name, make(every_channel if name in models else inputs, seconds, leads), flow.shape)
                for name, make in ensembles.forecasts.items()
            }
            for name in other:
                fields = member_fields(members[name], flow, probabilities[name].thresholds)
                forecast[name][case] = fields.median
                probabilities[name].values[case] = fields.probability
                probabilities[name].means[case] = fields.mean
            ensembles.add_case(members, observation[case])
        on_case(batch.stop, len(ends))
    sums = ensembles.by_method(leads)
    for name in other:
        probabilities[name] = replace(probabilities[name], members=sums[name].sizes["rank"] - 1)
    return Cases(ends, leads, methods, forecasts, observation, probabilities, sums)


def _predict(
    model: Nowcaster,
    frames: Frames,
    ends: NDArray[np.intp],
    batch: slice,
    leads: NDArray[np.float64],
    forecast: NDArray[np.float32],
    probabilities: Probabilities | None,
) -> None:
    """Write the forecasts of a batch of cases into the arrays of a model."""
    windows = [slice(end - model.pipeline.input_length + 1, end + 1) for end in ends[batch]]
    inputs = np.stack([frames.read(window) for window in windows])
    seconds = np.stack([frames.seconds[window] for window in windows])
    if probabilities is None:
        forecast[batch] = model.predict(inputs, seconds, leads)[:, :, 0]
        return
    probability = model.predict_probability(inputs, seconds, leads)
    forecast[batch] = model.field(probability, leads)
    probabilities.values[batch] = probability
    probabilities.means[batch] = model.mean(probability, inputs, seconds, leads)


def _empty_probabilities(thresholds: tuple[float, ...], shape: tuple[int, ...]) -> Probabilities:
    values = np.empty((*shape[:2], len(thresholds), *shape[2:]), np.float16)
    return Probabilities(thresholds, values, np.empty(shape, np.float32))


def _check_memory(events: Mapping[str, tuple[float, ...]], methods: int, shape: tuple[int, ...], members: int) -> None:
    """Raise an error if the forecasts of all cases and the members of one take too much memory.

    `events` has thresholds by method.
    """
    fields = 4 * (methods + 1)
    fields += sum(2 * len(thresholds) + 4 for thresholds in events.values())
    size = fields * int(np.prod(shape)) + _MEMBER_COPIES * member_bytes(members, shape[1], shape[2:])
    if size > _MAX_BYTES:
        raise ConfigError(
            "--max-cases",
            expected=f"forecasts of at most {_MAX_BYTES / 2**30:.0f} GiB in all",
            received=f"{size / 2**30:.1f} GiB for {shape[0]} cases",
            hint="Decrease `--max-cases`.",
        )
