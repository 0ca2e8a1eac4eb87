"""The cases of `verify`: forecasts in files, and the baselines from the observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.units import RAIN_RATE, Field
from convlstm.errors import DataError
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.evaluation_cases import SMALLEST_RAIN
from convlstm.nowcast.evaluation_details import without_inflow
from convlstm.nowcast.evaluation_ensembles import Ensembles
from convlstm.nowcast.evaluation_forecasts import CaseForecasts, Example, Probabilities, check_case_memory
from convlstm.nowcast.nowcaster import Nowcaster
from convlstm.nowcast.verified_cases import VerifiedCases
from convlstm.nowcast.verified_forecasts import ForecastSource, SourceForecast
from convlstm.verification.ensembles import member_share
from convlstm.verification.evaluation_folder import BASELINES


@dataclass(frozen=True, eq=False)
class FileCases:
    """The chosen starts of forecasts in files. All methods are scored on the cells that each of them has."""

    sources: Mapping[str, ForecastSource]  # by method, the main one first
    frames: Frames
    chosen: VerifiedCases
    thresholds: tuple[float, ...]  # of the probabilities of members

    @property
    def variable(self) -> str:
        """The name of the scored variable in the observations."""
        return self.frames.variables[0]

    @property
    def models(self) -> Mapping[str, Nowcaster]:
        """No models."""
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """The files, and the baselines if every case has input frames."""
        return (*self.sources, *(BASELINES if self.chosen.has_inputs else ()))

    @property
    def lead_seconds(self) -> NDArray[np.float64]:
        """The lead times in seconds."""
        return self.chosen.lead_seconds

    @property
    def input_minutes(self) -> NDArray[np.float64]:
        """The times of the input frames from the start, in minutes."""
        count = self.chosen.inputs.shape[1]
        return np.arange(1 - count, 1, dtype=np.float64) * self.frames.time_step / 60.0

    @property
    def starts(self) -> xr.DataArray:
        """The time of the start of each case."""
        return xr.DataArray(self.chosen.dates(self.frames), dims="case")

    @property
    def start_steps(self) -> NDArray[np.intp]:
        """The start of each case as a number of time steps."""
        return np.rint(self.chosen.starts / self.frames.time_step).astype(np.intp)

    @property
    def targets(self) -> NDArray[np.intp]:
        """The frames at the lead times (case, lead_time)."""
        return self.chosen.targets

    def identity(self) -> dict[str, Any]:
        """Return what tells whether the files are the same ones."""
        return {"forecasts": {name: source.identity() for name, source in self.sources.items()}}

    def check_memory(self) -> None:
        """Raise an error if the forecasts of one case take too much memory."""
        levels = [len(self._levels(source)) for source in self.sources.values() if source.means or self._levels(source)]
        members = sum(source.members for source in self.sources.values())
        grid = (self.frames.shape[2], self.frames.shape[3])
        check_case_memory(len(self.names), levels, members, len(self.lead_seconds), grid)

    def with_common_cells(self) -> FileCases:
        """Return the cases in which the observation, every file and every member have a common cell.

        Raises:
            DataError: if no case has one. A member that is missing in all of them is named.
        """
        known: dict[str, NDArray[np.bool_]] = {}
        is_empty = np.array([not self._has_common_cell(number, known) for number in range(len(self.chosen.starts))])
        if is_empty.all():
            self._raise_no_common_cell(known)
        return replace(self, chosen=self.chosen.without(is_empty, "no_common_cell"))

    def _has_common_cell(self, number: int, known: dict[str, NDArray[np.bool_]]) -> bool:
        """Return whether a case has a common cell; add to `known` which members (realization,) of a file have values.

        Lead times are read one by one, up to the first with a common cell. A field is one member.
        """
        start, window = float(self.chosen.starts[number]), self.chosen.inputs[number]
        is_seen = np.ones(self.frames.shape[2:], bool)
        if self.chosen.has_inputs:  # persistence has no value in the missing cells of this frame
            is_seen = np.isfinite(self.frames.read(window[-1:])[0, 0])
        for lead, target in zip(self.lead_seconds, self.targets[number], strict=True):
            common = is_seen & np.isfinite(self.frames.read(np.array([target]))[0, 0])
            for name, source in self.sources.items():
                part = source.read(start, np.array([lead]))
                values = np.isfinite(part.field[None] if part.members is None else part.members)[:, 0]
                known[name] = known.get(name, np.zeros(len(values), bool)) | values.any(axis=(1, 2))
                common &= values.all(axis=0)
            if common.any():
                return True
        return False

    def _raise_no_common_cell(self, known: Mapping[str, NDArray[np.bool_]]) -> NoReturn:
        received, hint = "no such cell in any case", "Pass forecasts and observations of the same area."
        path = str(next(iter(self.sources.values())).path)
        for name, has_values in known.items():
            if not has_values.all():
                path = str(self.sources[name].path)
                received = "missing values only"
                hint = "Pass forecasts with values at the scored times."
                if has_values.any():
                    received = f"no value of member {int(np.argmin(has_values)) + 1} of {len(has_values)} in any case"
                    hint = "Remove this member from the file."
                break
        raise DataError(
            path,
            expected="a cell that the observation, every forecast and every member have",
            received=received,
            hint=hint,
        )

    def forecast(self, number: int) -> CaseForecasts:
        """Return the forecasts of one case; its number seeds ranks."""
        parts = self._read(number)
        fields, observation = self._fields(number, parts)
        inputs, _ = self._inputs(number)
        ranked_from = SMALLEST_RAIN if self.frames.channels[0].units == RAIN_RATE else None
        members = {name: part.members for name, part in parts.items() if part.members is not None}
        return CaseForecasts(
            self.names,
            fields,
            observation,
            np.nan_to_num(inputs[-1, 0]),  # without inputs, structures have no correlation with the last frame
            {name: self._probabilities(name, part) for name, part in parts.items() if self._levels(self.sources[name])},
            {name: part.mean for name, part in parts.items() if part.mean is not None},
            Ensembles({}, ranked_from).case_sums(members, observation, number),
        )

    def example(self, number: int) -> Example:
        """Read a case again, and return it for the maps of the report."""
        fields, observation = self._fields(number, self._read(number))
        inputs, seconds = self._inputs(number)
        if self.chosen.has_inputs:
            flow = self.names.index(BASELINES[0])
            fields[flow] = without_inflow(fields[flow], inputs, seconds, self.lead_seconds)
        return Example(fields, observation, inputs[:, 0])

    def _read(self, number: int) -> dict[str, SourceForecast]:
        start = float(self.chosen.starts[number])
        return {name: source.read(start, self.lead_seconds) for name, source in self.sources.items()}

    def _inputs(self, number: int) -> tuple[Field, NDArray[np.float64]]:
        """Return the frames up to the start (input_time, 1, height, width) and their times in seconds.

        Without inputs, the frames are missing.
        """
        window = self.chosen.inputs[number]
        if not self.chosen.has_inputs:
            return np.full((len(window), 1, *self.frames.shape[2:]), np.nan, np.float32), np.empty(0)
        return self.frames.read(window)[:, :1], self.frames.seconds[window]

    def _fields(self, number: int, parts: Mapping[str, SourceForecast]) -> tuple[Field, Field]:
        """Return the fields of all methods, and the observation where none of them and no member is missing."""
        fields = [part.field for part in parts.values()]
        if self.chosen.has_inputs:
            inputs, seconds = self._inputs(number)
            fields.append(optical_flow(inputs, seconds, self.lead_seconds)[:, 0])
            fields.append(persistence(inputs, self.lead_seconds)[:, 0])
        stacked = np.stack(fields).astype(np.float32, copy=False)
        known = np.isfinite(stacked).all(axis=0)
        for part in parts.values():
            if part.members is not None:
                known &= np.isfinite(part.members).all(axis=0)
        observed = self.frames.read(self.targets[number])[:, 0]
        return stacked, np.where(known, observed, np.float32(np.nan))

    def _levels(self, source: ForecastSource) -> tuple[float, ...]:
        """Return the thresholds of the probabilities of a method; empty without probabilities."""
        return source.thresholds or (self.thresholds if source.members else ())

    def _probabilities(self, name: str, part: SourceForecast) -> Probabilities:
        """Return the probabilities in the file, or else the shares of the members; NaN without both."""
        source = self.sources[name]
        levels = self._levels(source)
        values = part.probability
        if values is None and part.members is not None:
            values = member_share(part.members, levels)
        if values is None:
            leads, *grid = part.field.shape
            values = np.full((leads, len(levels), *grid), np.nan, np.float32)
        members = None if source.thresholds else source.members or None  # those in the file need not be shares
        return Probabilities(levels, values.astype(np.float16), members)
