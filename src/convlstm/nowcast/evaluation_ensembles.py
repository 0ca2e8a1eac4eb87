"""The ensembles of an evaluation: members of a case, their scores as sums, and the field that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.units import Field
from convlstm.errors import DataError
from convlstm.nowcast.members import make_members
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.verification.ensembles import case_ensemble_sums, member_share

EnsembleForecast = Callable[[Field, NDArray[np.float64], NDArray[np.float64]], Field]
"""A function with the arguments of `optical_flow` and the result (realization, lead_time, height, width).

If its attribute `members` is the number of members, their memory is checked before any forecast.
"""

MemberForecast = Callable[[Field, NDArray[np.float64], NDArray[np.float64], int], xr.DataArray]
"""A function of inputs (time, channel, height, width), their times, lead times and the number of members.

Times are in seconds. The result is (realization, lead_time, y, x) in the unit of the first channel.
"""

MEMBER_DIMS = ("realization", "lead_time", "y", "x")


@dataclass(frozen=True, eq=False)
class Ensembles:
    """The ensembles to score, by method."""

    forecasts: Mapping[str, EnsembleForecast]
    ranked_from: float | None = None  # as in `ensemble_sums`

    @property
    def members(self) -> int:
        """The number of members of all methods together, without those of unknown number."""
        return sum(int(getattr(forecast, "members", 0)) for forecast in self.forecasts.values())

    def case_sums(self, members: Mapping[str, Field], observed: Field, number: int) -> dict[str, xr.Dataset]:
        """Return the sums of a case by method, on the cells that every member of every method knows.

        The number of the case seeds the ranks among equal values.
        """
        common = np.isfinite(observed)
        for values in members.values():
            common &= np.isfinite(values).all(axis=0)
        truth = np.where(common, observed, np.nan)
        return {
            method: case_ensemble_sums(values.swapaxes(0, 1), truth, ranked_from=self.ranked_from, seed=(0, number))
            for method, values in members.items()
        }


@dataclass(frozen=True, eq=False)
class MemberFields:
    """The field and the probabilities that follow from the members of one case."""

    median: Field  # (lead_time, height, width): an event where at least half of the members have it
    mean: Field  # (lead_time, height, width)
    probability: Field  # (lead_time, threshold, height, width)


def member_fields(members: Field, fallback: Field, thresholds: tuple[float, ...]) -> MemberFields:
    """Return median, mean and probabilities of members; `fallback` (lead_time, height, width) replaces missing values.

    So a method is scored on all cells, as one without an ensemble.
    """
    filled = np.where(np.isfinite(members), members, fallback)
    return MemberFields(np.median(filled, axis=0), filled.mean(axis=0), member_share(filled, thresholds))


def with_members(forecast: MemberForecast, members: int) -> EnsembleForecast:
    """Return the members of a model as an `EnsembleForecast`."""
    return _WithMembers(forecast, members)


@dataclass(frozen=True, eq=False)
class _WithMembers:
    """A `MemberForecast` with its number of members."""

    forecast: MemberForecast
    members: int

    def __call__(self, inputs: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]) -> Field:
        fields = self.forecast(inputs, input_seconds, lead_seconds, self.members).transpose(*MEMBER_DIMS)
        return np.asarray(fields.values, np.float32)


def model_members(nowcaster: Nowcaster, spacing: float | None = None) -> MemberForecast:
    """Return the function that makes the members of a model of rain with thresholds, with a seed for each start.

    `spacing` is that of `make_members`.
    """
    return partial(_members_of, nowcaster, spacing)


def _members_of(
    nowcaster: Nowcaster,
    spacing: float | None,
    inputs: Field,
    input_seconds: NDArray[np.float64],
    lead_seconds: NDArray[np.float64],
    members: int,
) -> xr.DataArray:
    probability = nowcaster.predict_probability(inputs[None], input_seconds[None], lead_seconds)[0]
    seed = abs(round(float(input_seconds[-1])))
    fields = make_members(nowcaster, probability, inputs, input_seconds, lead_seconds, members, seed, spacing=spacing)
    return xr.DataArray(np.stack(list(fields)), dims=MEMBER_DIMS)


def check_shape(method: str, members: Field, shape: tuple[int, ...]) -> Field:
    """Return the members of one case, or raise an error unless there are at least 2 with this shape."""
    if members.ndim != 4 or len(members) < 2 or members.shape[1:] != shape:
        raise DataError(
            method,
            expected=f"at least 2 members of shape {shape}",
            received=f"shape {members.shape}",
            hint="Return (realization, lead_time, height, width).",
        )
    return members
