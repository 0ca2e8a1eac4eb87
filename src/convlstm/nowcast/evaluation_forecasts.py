"""The cases of an evaluation: the forecasts of each by every method, and the observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.units import Field
from convlstm.errors import DataError
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.cf_output import lead_seconds
from convlstm.nowcast.evaluation_ensembles import Ensembles, check_shape, member_fields
from convlstm.nowcast.members import check_member_memory, member_bytes
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.verification.evaluation_folder import BASELINES

FieldForecast = Callable[[Field, NDArray[np.float64], NDArray[np.float64]], Field]
"""A function of inputs (time, channel, height, width), their times, and lead times; as `optical_flow`."""

_MAX_BYTES = 6 * 2**30  # of one case
_MEMBER_COPIES = 2  # of the members of one case: with and without missing values


@dataclass(frozen=True, eq=False)
class Probabilities:
    """The probabilities of a method with thresholds in one case."""

    thresholds: tuple[float, ...]  # ascending, in the unit of the observation
    values: NDArray[np.float16]  # that a threshold is reached (lead_time, threshold, height, width)
    members: int | None = None  # for shares of an ensemble, its number of members


@dataclass(frozen=True, eq=False)
class CaseForecasts:
    """The forecasts of every method and the observations of one case, in physical units."""

    methods: tuple[str, ...]
    forecast: NDArray[np.float32]  # (method, lead_time, height, width)
    observation: NDArray[np.float32]  # (lead_time, height, width)
    last_frame: NDArray[np.float32]  # the last input frame (height, width)
    probabilities: Mapping[str, Probabilities] = field(default_factory=dict)  # by method, of those that have some
    means: Mapping[str, Field] = field(default_factory=dict)  # whose errors are scored instead of those of the field
    ensembles: Mapping[str, xr.Dataset] = field(default_factory=dict)  # by method, as `case_ensemble_sums` returns


@dataclass(frozen=True, eq=False)
class Example:
    """One case for the maps of the report, NaN where nothing is shown."""

    forecast: NDArray[np.float32]  # (method, lead_time, height, width)
    observation: NDArray[np.float32]  # (lead_time, height, width)
    inputs: NDArray[np.float32]  # observed frames up to the start (input_time, height, width)
    probability_maps: xr.Dataset = field(default_factory=xr.Dataset)  # may be empty


class Cases(Protocol):
    """The cases of an evaluation in order of time, whose forecasts are made or read one case at a time."""

    @property
    def frames(self) -> Frames:
        """The observations, whose first variable is scored."""

    @property
    def variable(self) -> str:
        """The name of this variable for the report."""

    @property
    def models(self) -> Mapping[str, Nowcaster]:
        """The models among the methods, by name; may be empty."""

    @property
    def names(self) -> tuple[str, ...]:
        """All methods, the main one first and the baselines last."""

    @property
    def lead_seconds(self) -> NDArray[np.float64]:
        """The lead times in seconds."""

    @property
    def input_minutes(self) -> NDArray[np.float64]:
        """The times of the input frames from the start, in minutes."""

    @property
    def starts(self) -> xr.DataArray:
        """The time of the start of each case, 1-D."""

    @property
    def start_steps(self) -> NDArray[np.intp]:
        """The start of each case as a number of time steps (case,), to tell which cases overlap."""

    @property
    def targets(self) -> NDArray[np.intp]:
        """The frames at the lead times (case, lead_time)."""

    def identity(self) -> dict[str, Any]:
        """Return what else decides the forecasts, as JSON values."""

    def forecast(self, number: int) -> CaseForecasts:
        """Return the forecasts of one case; its number seeds ranks."""

    def example(self, number: int) -> Example:
        """Return one case for the maps of the report."""


@dataclass(frozen=True, eq=False)
class Methods:
    """The methods of an evaluation.

    The first model gives the lead times. A rival has the arguments and the result of `optical_flow`, whose values
    replace its missing ones, so that all methods are scored on the same cells. An ensemble that is not of a model is
    a method of its own, with its median as field and the share of its members as probability of each threshold.
    """

    models: Mapping[str, Nowcaster]
    rivals: Mapping[str, FieldForecast] = field(default_factory=dict)
    ensembles: Ensembles = field(default_factory=lambda: Ensembles({}))
    thresholds: tuple[float, ...] = ()  # of the probabilities of ensembles

    @property
    def nowcaster(self) -> Nowcaster:
        """The first model."""
        return next(iter(self.models.values()))

    @property
    def other_ensembles(self) -> list[str]:
        """The ensembles that are not of a model."""
        return [name for name in self.ensembles.forecasts if name not in self.models]

    @property
    def names(self) -> tuple[str, ...]:
        """All methods, the first model first."""
        return (*self.models, *self.rivals, *self.other_ensembles, *BASELINES)

    @property
    def lead_seconds(self) -> NDArray[np.float64]:
        """The lead times in seconds."""
        return lead_seconds(self.nowcaster)

    def without_members_of_models(self) -> Methods:
        """Return the methods without the members of the models, which no field needs."""
        others = {name: self.ensembles.forecasts[name] for name in self.other_ensembles}
        return replace(self, ensembles=replace(self.ensembles, forecasts=others))

    def check_memory(self, grid: tuple[int, int]) -> None:
        """Raise an error if the forecasts of one case, with its members, take too much memory."""
        levels = [len(model.spec.thresholds) for model in self.models.values() if model.spec.thresholds]
        levels += [len(self.thresholds)] * len(self.other_ensembles)
        check_case_memory(len(self.names), levels, self.ensembles.members, len(self.lead_seconds), grid)

    def forecast(self, frames: Frames, end: int, number: int) -> CaseForecasts:
        """Return the forecasts of one case by the index of its last input frame; `number` seeds ranks."""
        leads = self.lead_seconds
        window = slice(end - self.nowcaster.pipeline.input_length + 1, end + 1)
        every_channel, seconds = frames.read(window), frames.seconds[window]
        inputs = every_channel[:, :1]
        observation = frames.read(slice(end + 1, end + 1 + len(leads)))[:, 0]
        flow = optical_flow(inputs, seconds, leads)[:, 0]
        fields: dict[str, Field] = {}
        probabilities: dict[str, Probabilities] = {}
        means: dict[str, Field] = {}
        for name, model in self.models.items():
            if model.spec.thresholds:
                fields[name], means[name], probabilities[name] = _predict_events(model, frames, end, leads)
            else:
                fields[name] = _predict(model, frames, end, leads)
        for name, rival in self.rivals.items():
            values = rival(inputs, seconds, leads)[:, 0]
            fields[name] = np.where(np.isfinite(values), values, flow)
        members = {
            name: check_shape(name, make(every_channel if name in self.models else inputs, seconds, leads), flow.shape)
            for name, make in self.ensembles.forecasts.items()
        }
        for name in self.other_ensembles:
            by_member = member_fields(members[name], flow, self.thresholds)
            fields[name], means[name] = by_member.median, by_member.mean
            shares = by_member.probability.astype(np.float16)
            probabilities[name] = Probabilities(self.thresholds, shares, len(members[name]))
        fields["optical flow"], fields["persistence"] = flow, persistence(inputs, leads)[:, 0]
        return CaseForecasts(
            self.names,
            np.stack([fields[name] for name in self.names]).astype(np.float32, copy=False),
            observation,
            inputs[-1, 0],
            probabilities,
            means,
            self.ensembles.case_sums(members, observation, number),
        )


def check_case_memory(methods: int, levels: Sequence[int], members: int, leads: int, grid: tuple[int, int]) -> None:
    """Raise an error if the forecasts of one case take too much memory.

    `levels` has the number of thresholds of each method that has probabilities or means. `members` is that of all
    methods together.
    """
    check_member_memory(members, leads, grid, copies=_MEMBER_COPIES)
    numbers = 4 * (methods + 1) + sum(2 * thresholds + 4 for thresholds in levels)
    size = numbers * leads * int(np.prod(grid)) + _MEMBER_COPIES * member_bytes(members, leads, grid)
    if size > _MAX_BYTES:
        raise DataError(
            "grid",
            expected=f"forecasts of at most {_MAX_BYTES / 2**30:.3g} GiB in one case",
            received=f"{size / 2**30:.3g} GiB for {leads} lead times and {grid[0]} x {grid[1]} cells",
            hint="Pass a smaller grid, or fewer lead times, methods or members.",
        )


def _predict(model: Nowcaster, frames: Frames, end: int, leads: NDArray[np.float64]) -> Field:
    """Return the field (lead_time, height, width) of a model of values."""
    window = slice(end - model.pipeline.input_length + 1, end + 1)
    return model.predict(frames.read(window)[None], frames.seconds[None, window], leads)[0, :, 0]


def _predict_events(
    model: Nowcaster, frames: Frames, end: int, leads: NDArray[np.float64]
) -> tuple[Field, Field, Probabilities]:
    """Return field and mean (lead_time, height, width) of a model with thresholds, and its probabilities."""
    window = slice(end - model.pipeline.input_length + 1, end + 1)
    probability, mean = model.predict_events(frames.read(window), frames.seconds[window], leads)
    chance = Probabilities(model.spec.thresholds, probability.astype(np.float16))
    return model.field(probability, leads), mean, chance
