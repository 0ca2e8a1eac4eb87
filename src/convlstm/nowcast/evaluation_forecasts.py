"""The forecasts of one case of an evaluation by every method, and the observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

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
    """The probabilities of a method with thresholds in one case, and the means that follow from them."""

    thresholds: tuple[float, ...]  # ascending, in the unit of the observation
    values: NDArray[np.float16]  # that a threshold is reached (lead_time, threshold, height, width)
    means: NDArray[np.float32]  # (lead_time, height, width)
    members: int | None = None  # for shares of an ensemble, its number of members


@dataclass(frozen=True, eq=False)
class CaseForecasts:
    """The forecasts of every method and the observations of one case, in physical units."""

    methods: tuple[str, ...]
    forecast: NDArray[np.float32]  # (method, lead_time, height, width)
    observation: NDArray[np.float32]  # (lead_time, height, width)
    last_frame: NDArray[np.float32]  # the last input frame (height, width)
    probabilities: Mapping[str, Probabilities] = field(default_factory=dict)  # by method, of those that have some
    ensembles: Mapping[str, xr.Dataset] = field(default_factory=dict)  # by method, as `case_ensemble_sums` returns


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
        leads = len(self.lead_seconds)
        check_member_memory(self.ensembles.members, leads, grid, copies=_MEMBER_COPIES)
        thresholds = [model.spec.thresholds for model in self.models.values() if model.spec.thresholds]
        thresholds += [self.thresholds] * len(self.other_ensembles)
        numbers = 4 * (len(self.names) + 1) + sum(2 * len(levels) + 4 for levels in thresholds)
        size = numbers * leads * int(np.prod(grid)) + _MEMBER_COPIES * member_bytes(self.ensembles.members, leads, grid)
        if size > _MAX_BYTES:
            raise DataError(
                "grid",
                expected=f"forecasts of at most {_MAX_BYTES / 2**30:.3g} GiB in one case",
                received=f"{size / 2**30:.3g} GiB for {leads} lead times and {grid[0]} x {grid[1]} cells",
                hint="Pass a smaller grid, fewer methods, or fewer members.",
            )

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
        for name, model in self.models.items():
            fields[name], chance = _predict(model, frames, end, leads)
            if chance is not None:
                probabilities[name] = chance
        for name, rival in self.rivals.items():
            values = rival(inputs, seconds, leads)[:, 0]
            fields[name] = np.where(np.isfinite(values), values, flow)
        members = {
            name: check_shape(name, make(every_channel if name in self.models else inputs, seconds, leads), flow.shape)
            for name, make in self.ensembles.forecasts.items()
        }
        for name in self.other_ensembles:
            by_member = member_fields(members[name], flow, self.thresholds)
            fields[name] = by_member.median
            shares = by_member.probability.astype(np.float16)
            probabilities[name] = Probabilities(self.thresholds, shares, by_member.mean, len(members[name]))
        fields["optical flow"], fields["persistence"] = flow, persistence(inputs, leads)[:, 0]
        return CaseForecasts(
            self.names,
            np.stack([fields[name] for name in self.names]).astype(np.float32, copy=False),
            observation,
            inputs[-1, 0],
            probabilities,
            self.ensembles.case_sums(members, observation, number),
        )


def _predict(
    model: Nowcaster, frames: Frames, end: int, leads: NDArray[np.float64]
) -> tuple[Field, Probabilities | None]:
    """Return the field (lead_time, height, width) of a model, and its probabilities if it has thresholds."""
    window = slice(end - model.pipeline.input_length + 1, end + 1)
    inputs, seconds = frames.read(window)[None], frames.seconds[None, window]
    if not model.spec.thresholds:
        return model.predict(inputs, seconds, leads)[0, :, 0], None
    probability = model.predict_probability(inputs, seconds, leads)
    mean = model.mean(probability, inputs, seconds, leads)[0]
    chance = Probabilities(model.spec.thresholds, probability[0].astype(np.float16), mean)
    return model.field(probability, leads)[0], chance
