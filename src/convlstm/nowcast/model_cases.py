"""The cases of `evaluate`: forecasts of a model and of the methods that it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.nowcast.evaluation_details import without_inflow
from convlstm.nowcast.evaluation_forecasts import CaseForecasts, Example, Methods
from convlstm.nowcast.forecast_files import ForecastFiles
from convlstm.nowcast.nowcaster import Nowcaster

_MAP_LEAD = 30.0  # minutes; the maps of probabilities are at the nearest lead time
_LOWEST_MAPPED = 1.0  # mm/h; lower thresholds have no maps of probabilities


@dataclass(frozen=True, eq=False)
class ModelCases:
    """Some windows of the observations, for each of which every method makes a forecast."""

    methods: Methods
    frames: Frames
    ends: NDArray[np.intp]  # index of the last input frame of each case

    @property
    def variable(self) -> str:
        """The name of the scored variable in the model."""
        return self.methods.nowcaster.pipeline.variables[0]

    @property
    def models(self) -> Mapping[str, Nowcaster]:
        """The models among the methods, by name."""
        return self.methods.models

    @property
    def names(self) -> tuple[str, ...]:
        """All methods, the first model first."""
        return self.methods.names

    @property
    def lead_seconds(self) -> NDArray[np.float64]:
        """The lead times of the first model in seconds."""
        return self.methods.lead_seconds

    @property
    def input_minutes(self) -> NDArray[np.float64]:
        """The times of the input frames from the start, in minutes."""
        pipeline = self.methods.nowcaster.pipeline
        return np.arange(1 - pipeline.input_length, 1, dtype=np.float64) * pipeline.time_step / 60.0

    @property
    def starts(self) -> xr.DataArray:
        """The time of the last input frame of each case."""
        return self.frames.time[self.ends]

    @property
    def start_steps(self) -> NDArray[np.intp]:
        """The index of the last input frame of each case."""
        return self.ends

    @property
    def targets(self) -> NDArray[np.intp]:
        """The frames at the lead times (case, lead_time)."""
        return self.ends[:, None] + np.arange(1, len(self.lead_seconds) + 1)

    def identity(self) -> dict[str, Any]:
        """Return the numbers of members, and what tells whether the files of other tools are the same ones."""
        ensembles = self.methods.ensembles.forecasts
        compared = {**self.methods.rivals, **ensembles}
        return {
            "members": {name: int(getattr(source, "members", 0)) for name, source in ensembles.items()},
            "forecasts": {
                name: source.identity() for name, source in compared.items() if isinstance(source, ForecastFiles)
            },
        }

    def forecast(self, number: int) -> CaseForecasts:
        """Return the forecasts of one case; its number seeds ranks."""
        return self.methods.forecast(self.frames, int(self.ends[number]), number)

    def example(self, number: int) -> Example:
        """Forecast a case again, and return it for the maps of the report."""
        end = int(self.ends[number])
        case = self.methods.without_members_of_models().forecast(self.frames, end, number)
        window = slice(end - self.methods.nowcaster.pipeline.input_length + 1, end + 1)
        inputs, seconds = self.frames.read(window)[:, :1], self.frames.seconds[window]
        never_observed = np.asarray(np.isnan(inputs).all(axis=(0, 1)))
        forecast = np.where(never_observed, np.float32(np.nan), case.forecast)
        flow = self.names.index("optical flow")
        forecast[flow] = without_inflow(forecast[flow], inputs, seconds, self.lead_seconds)
        return Example(forecast, case.observation, inputs[:, 0], self._probability_maps(case, never_observed))

    def _probability_maps(self, case: CaseForecasts, never_observed: NDArray[np.bool_]) -> xr.Dataset:
        """Return the probabilities of every method that has some, near half an hour; empty without any.

        `probability` is (probability_method, threshold, y, x), NaN where a method does not have a threshold, and in
        cells that were never observed (y, x).
        """
        sources = {name: case.probabilities[name] for name in self.names if name in case.probabilities}
        levels = sorted({float(t) for source in sources.values() for t in source.thresholds})
        is_rain = self.methods.nowcaster.pipeline.rain
        thresholds = [t for t in levels if not is_rain or t >= _LOWEST_MAPPED] or levels
        if not thresholds:
            return xr.Dataset()
        minutes = self.lead_seconds / 60.0
        lead = int(np.abs(minutes - _MAP_LEAD).argmin())
        maps = np.full((len(sources), len(thresholds), *never_observed.shape), np.nan, np.float32)
        for row, source in zip(maps, sources.values(), strict=True):
            for place, threshold in enumerate(thresholds):
                if threshold in source.thresholds:
                    row[place] = source.values[lead, source.thresholds.index(threshold)]
        maps[..., never_observed] = np.nan
        return xr.Dataset(
            {"probability": (("probability_method", "threshold", "y", "x"), maps)},
            coords={
                "probability_method": list(sources),
                "threshold": thresholds,
                "probability_lead_time": minutes[lead],
            },
        )
