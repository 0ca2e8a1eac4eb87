"""The forecasts that `convlstm verify` scores: fields, members, means and probabilities in the files of any tool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.axes import find_axes
from convlstm.data.opening import opened
from convlstm.data.units import Conversion, Field, dbz_to_mm_per_hour
from convlstm.errors import DataError
from convlstm.nowcast.forecast_files import (
    ForecastFiles,
    forecast_paths,
    gridded_variables,
    layout_of,
    open_forecasts,
    threshold_dim,
)
from convlstm.nowcast.forecast_values import (
    MAX_HEADER,
    Layout,
    check_starts,
    evenly,
    file_identity,
    forecast_conversion,
    read_forecast,
    read_start,
    shared_leads,
    sum_interval,
)

_PERCENT = ("%", "percent")
_SURE = 0.5  # a field that is made of probabilities has an event from this probability on
_RANGE = 1e-3  # how far probabilities may be outside 0 to 1 by rounding


@dataclass(frozen=True)
class SourceForecast:
    """One forecast of one method, in the unit of the observations, NaN where missing."""

    field: Field  # (lead_time, height, width): for members their median
    mean: Field | None  # (lead_time, height, width)
    probability: Field | None  # (lead_time, threshold, height, width)
    members: Field | None  # (realization, lead_time, height, width)


@dataclass(frozen=True, eq=False)
class ForecastSource:
    """The forecasts of one method."""

    path: Path
    files: ForecastFiles | None  # fields or members; None in files with probabilities alone
    means: tuple[Layout, ...]  # variables with the mean of each forecast; may be empty
    probabilities: tuple[Layout, ...]  # variables with probabilities over thresholds; may be empty
    thresholds: tuple[float, ...]  # of the probabilities, ascending, in the unit of the observations

    @property
    def members(self) -> int:
        """Number of members; 0 without an ensemble."""
        return 0 if self.files is None else self.files.members

    @property
    def starts(self) -> NDArray[np.float64]:
        """Seconds from the first frame of the observations to the start of each forecast, ascending."""
        if self.files is not None:
            return self.files.starts
        return np.unique(np.concatenate([layout.starts for layout in self.probabilities]))

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The files with the fields; if there are none, those with the probabilities."""
        return self.probabilities if self.files is None else self.files.layouts

    @property
    def lead_seconds(self) -> NDArray[np.float64]:
        """Lead times above 0 that every file has, ascending."""
        return shared_leads(self.layouts)

    def identity(self) -> list[list[str | int]]:
        """Return what tells whether the files are the same ones, as `file_identity`."""
        layouts = () if self.files is None else self.files.layouts
        return file_identity([*layouts, *self.means, *self.probabilities])

    def read(self, start: float, lead_seconds: NDArray[np.float64]) -> SourceForecast:
        """Return the forecast that starts at a number of seconds after the first frame."""
        probability = read_start(self.probabilities, start, lead_seconds)
        if probability is not None:
            probability = self._checked(probability.swapaxes(0, 1), self.probabilities[0].variable)
        if self.files is None:
            assert probability is not None
            return SourceForecast(_events(probability, self.thresholds), None, probability, None)
        values = self.files(np.empty(0, np.float32), np.array([start]), lead_seconds)
        if self.files.members:
            return SourceForecast(np.median(values, axis=0), values.mean(axis=0), probability, values)
        return SourceForecast(values[:, 0], read_start(self.means, start, lead_seconds), probability, None)

    def check_probabilities(self) -> None:
        """Raise an error if a sample of the probabilities is outside 0 to 1, before any forecast is scored."""
        for layout in evenly(self.probabilities):
            for start in evenly(range(len(layout.starts))):
                self._checked(read_forecast(layout, start, layout.leads), layout.variable)

    def _checked(self, probability: Field, variable: str) -> Field:
        low, high = float(np.nanmin(probability, initial=0)), float(np.nanmax(probability, initial=1))
        if low < -_RANGE or high > 1 + _RANGE:
            raise DataError(
                str(self.path),
                expected="probabilities from 0 to 1, or from 0 to 100 %",
                received=f"{low if low < -_RANGE else high:g}",
                hint=f"Write the attribute `units` of {variable} as 1 or %, or correct the values.",
            )
        return np.clip(probability, 0, 1)


def open_source(path: str | Path, frames: Frames) -> ForecastSource:
    """Find the forecasts in a file, a store or a folder of NetCDF files; no field is kept.

    Args:
        path: Forecasts in the units and on the grid of the observations.
        frames: The observations.

    Returns:
        The forecasts: a field or members, probabilities in a variable over thresholds, and the mean in a variable with
        the name of the field and `_mean`.

    Raises:
        DataError: if a file cannot be read as forecasts; see `open_forecasts`.
    """
    path = Path(path)
    fields, means, probabilities = [], [], []
    levels: dict[tuple[float, ...], None] = {}
    for file in forecast_paths(path):
        with opened(file, MAX_HEADER) as dataset:
            gridded = gridded_variables(dataset, find_axes(dataset, {}))
            plain = [name for name in gridded if threshold_dim(dataset, name) is None]
            fields += plain
            name = frames.variables[0]
            if name in plain and f"{name}_mean" in plain:
                conversion = forecast_conversion(file, dataset[f"{name}_mean"], frames)
                means.append(layout_of(file, dataset, f"{name}_mean", None, conversion, frames))
            over_thresholds = [name for name in gridded if name not in plain]
            if over_thresholds:
                layout, thresholds = _probabilities(file, dataset, over_thresholds, frames)
                probabilities.append(layout)
                levels[thresholds] = None
    if len(levels) > 1:
        raise DataError(
            str(path),
            expected="the same thresholds in every file",
            received=" and ".join(str(list(each)) for each in levels),
            hint="Pass the files of one tool and setting.",
        )
    for layouts in (means, probabilities):
        if layouts:
            check_starts(path, layouts, frames)
    files = open_forecasts(path, frames, np.empty(0)) if fields or not probabilities else None
    source = ForecastSource(path, files, tuple(means), tuple(probabilities), next(iter(levels), ()))
    source.check_probabilities()
    return source


def _probabilities(
    path: Path, dataset: xr.Dataset, names: Sequence[str], frames: Frames
) -> tuple[Layout, tuple[float, ...]]:
    """Return the layout of the only variable with probabilities, and its thresholds in the unit of the frames."""
    if len(names) > 1:
        raise DataError(
            str(path),
            expected="one variable with probabilities",
            received=", ".join(names),
            hint="Write a file with one of them.",
        )
    name = names[0]
    dim = threshold_dim(dataset, name)
    assert dim is not None
    unit = str(dataset[name].attrs.get("units", "1")).strip().lower()
    factor = 0.01 if unit in _PERCENT else 1.0
    layout = layout_of(path, dataset, name, dim, Conversion("1", factor, source=unit), frames)
    thresholds = tuple(float(f"{level:.6g}") for level in _levels(path, dataset[dim], layout, frames))
    if any(low >= high for low, high in pairwise(thresholds)):
        raise DataError(
            str(path),
            expected=f"thresholds of {name} that increase",
            received=str(list(thresholds)),
            hint="Sort the dimension by its thresholds.",
        )
    return layout, thresholds


def _levels(path: Path, levels: xr.DataArray, layout: Layout, frames: Frames) -> NDArray[np.float64]:
    """Return thresholds in the unit of the frames; those of sums are over the interval between lead times."""
    values = levels.values.astype(np.float64)
    if not levels.attrs.get("units"):
        if not frames.channels[0].units:
            return values
        raise DataError(
            str(path),
            expected=f"the unit of the thresholds, such as {frames.channels[0].units}",
            received="none",
            hint=f"Write it as the attribute `units` of {levels.name}.",
        )
    conversion = forecast_conversion(path, levels, frames)
    if conversion.reflectivity:
        return np.asarray(dbz_to_mm_per_hour(values), np.float64)
    return values * conversion.scale(sum_interval(path, layout.leads) if conversion.amount else 1.0)


def _events(probability: Field, thresholds: Sequence[float]) -> Field:
    """Return the highest threshold whose probability is at least one half, else 0 (lead_time, height, width)."""
    field = np.zeros((probability.shape[0], *probability.shape[2:]), np.float32)
    for place, threshold in enumerate(thresholds):
        field[probability[:, place] >= _SURE] = threshold
    field[np.isnan(probability).any(axis=1)] = np.nan
    return field
