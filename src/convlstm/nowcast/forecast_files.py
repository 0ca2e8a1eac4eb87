"""Forecasts of other tools in NetCDF and Zarr, with or without ensemble members, read one case at a time."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.data.axes import find_axes, find_realization
from convlstm.data.formats.zarr_store import is_store
from convlstm.data.opening import opened
from convlstm.data.units import Conversion, Field
from convlstm.errors import DataError
from convlstm.nowcast.forecast_values import (
    MAX_HEADER,
    Layout,
    check_starts,
    check_values,
    file_identity,
    forecast_conversion,
    nearest_leads,
    read_start,
    shared_leads,
    sum_interval,
)

_LEAD_NAMES = ("lead_time", "leadtime", "forecast_period", "prediction_timedelta", "step")
_START_NAMES = ("forecast_reference_time", "init_time", "reference_time", "initial_time", "start_time", "base_time")
_THRESHOLD_NAMES = ("threshold", "thresholds")
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **{"milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9},
}
_LONGEST = 86400.0  # seconds from the start in the unit of the times to a valid time


@dataclass(frozen=True, eq=False)
class ForecastFiles:
    """Forecasts by time of their start, called as `optical_flow`.

    The result of a call is (lead_time, 1, height, width), or with members (realization, lead_time, height, width).
    """

    members: int  # 0 without an ensemble
    starts: NDArray[np.float64]  # seconds from the first frame of the observations, ascending
    layouts: tuple[Layout, ...]

    def identity(self) -> list[list[str | int]]:
        """Return what tells whether the files are the same ones, as `file_identity`."""
        return file_identity(self.layouts)

    @property
    def lead_seconds(self) -> NDArray[np.float64]:
        """Lead times above 0 that every file has, in seconds, ascending."""
        return shared_leads(self.layouts)

    def __call__(self, inputs: Field, input_seconds: NDArray[np.float64], lead_seconds: NDArray[np.float64]) -> Field:
        """Return the forecast that starts at the last input frame."""
        start = float(input_seconds[-1])
        values = read_start(self.layouts, start, lead_seconds)
        if values is None:
            raise DataError(
                str(self.layouts[0].path),
                expected="a forecast for each case",
                received=f"none that starts {start:g} s after the first frame",
                hint="Add the forecast, or score fewer days.",
            )
        return values if self.members else values[:, None]


def open_forecasts(path: str | Path, frames: Frames, lead_seconds: NDArray[np.float64]) -> ForecastFiles:
    """Read where the forecasts of a file, or of all NetCDF files of a folder, are; no field is read yet.

    Args:
        path: A NetCDF file, a Zarr folder, or a folder of NetCDF files, in the units and on the grid of the frames.
        frames: The observations.
        lead_seconds: Lead times that every file must have.

    Returns:
        The forecasts.

    Raises:
        DataError: if a file has no time of the start or no lead times, or lacks one of the lead times. Also if grid,
            unit or number of members differ, if two forecasts have the same start, and for sums over uneven lead times
            or since the start.

    Example:
        `open_forecasts("steps.nc", frames, lead_seconds(nowcaster)).members` is 24 for 24 members.
    """
    path = Path(path)
    layouts = tuple(_layout(file, frames, lead_seconds) for file in forecast_paths(path))
    check_values(layouts)
    counts = sorted({layout.members for layout in layouts})
    if len(counts) > 1:
        raise DataError(
            str(path),
            expected="the same number of members in every file",
            received=" and ".join(map(str, counts)),
            hint="Pass the files of one tool and setting.",
        )
    check_starts(path, layouts, frames)
    starts = np.unique(np.concatenate([layout.starts for layout in layouts]))
    return ForecastFiles(counts[0], starts, layouts)


def forecast_paths(path: Path) -> list[Path]:
    """Return the NetCDF files of a folder in order of their names, or the path itself if it is a file or a store."""
    files = sorted(path.glob("*.nc")) if path.is_dir() else []
    if path.is_dir() and not files and not is_store(path):
        raise DataError(
            str(path),
            expected="a NetCDF file, a Zarr folder, or a folder of NetCDF files",
            received="a folder without files that end in .nc, and without Zarr metadata",
            hint="Correct the path, or let the names of the files end in .nc.",
        )
    return files or [path]


def _layout(path: Path, frames: Frames, lead_seconds: NDArray[np.float64]) -> Layout:
    with opened(path, MAX_HEADER) as dataset:
        axes = find_axes(dataset, {})
        variable = _variable(path, dataset, axes, frames)
        conversion = forecast_conversion(path, dataset[variable], frames)
        layout = layout_of(path, dataset, variable, _member_dim(dataset, variable), conversion, frames)
        nearest_leads(path, layout.leads, lead_seconds)
        return layout


def layout_of(
    path: Path,
    dataset: xr.Dataset,
    variable: str,
    member_dim: Hashable | None,
    conversion: Conversion,
    frames: Frames,
) -> Layout:
    """Return the layout of one variable of an open file; `member_dim` is its dimension other than start and lead."""
    axes = find_axes(dataset, {})
    field = dataset[variable]
    y, x = (next(dim for dim in field.dims if axes.get(dim) == axis) for axis in ("y", "x"))
    start = _named(dataset, "forecast_reference_time", _START_NAMES)
    lead = _named(dataset, "forecast_period", _LEAD_NAMES)
    times = [dim for dim in field.dims if axes.get(dim) == "time"]
    if lead is None and times:
        starts, leads = _valid_times(path, dataset, times[0], start, frames)
        lead_dim, start_dim = times[0], None
    elif lead is not None and dataset[lead].ndim == 1:
        lead_dim, leads = dataset[lead].dims[0], _lead_seconds(path, dataset[lead])
        start = start if start is not None else next((dim for dim in times if dim != lead_dim), None)
        if start is None:
            raise _no_start(path)
        start_dim = dataset[start].dims[0] if dataset[start].ndim else None
        starts = _dates(path, dataset[start], frames)
    else:
        raise DataError(
            str(path),
            expected="lead times, or valid times",
            received=f"the variables {', '.join(map(str, dataset.variables))}",
            hint="Add the coordinate `lead_time` with its unit.",
        )
    dims = tuple(dim for dim in (start_dim, member_dim, lead_dim, y, x) if dim is not None and dim in field.dims)
    _check_dims(path, field, dims)
    return Layout(
        path=path,
        variable=variable,
        dims=dims,
        starts=starts,
        leads=leads,
        members=field.sizes[member_dim] if member_dim is not None else 0,
        has_start_dim=start_dim is not None and start_dim in field.dims,
        flipped=_flipped(path, dataset, (y, x), field, frames),
        conversion=conversion,
        interval=sum_interval(path, leads) if conversion.amount else 0.0,
    )


def _member_dim(dataset: xr.Dataset, variable: Hashable) -> Hashable | None:
    """Return the dimension of the members of a variable; one member is no ensemble."""
    dim = find_realization(dataset, variable)
    return None if dim is None or dataset.sizes[dim] < 2 else dim


def gridded_variables(dataset: xr.Dataset, axes: Mapping[Hashable, str]) -> list[str]:
    """Return the names of the numeric variables over y, x and at least one further dimension."""
    return [
        str(name)
        for name, field in dataset.data_vars.items()
        if field.dtype.kind in "iuf" and field.ndim >= 3 and {"y", "x"} <= {axes.get(dim) for dim in field.dims}
    ]


def threshold_dim(dataset: xr.Dataset, variable: Hashable) -> Hashable | None:
    """Return the dimension of a variable whose coordinate has thresholds, by its name."""
    named = (dim for dim in dataset[variable].dims if str(dim).lower() in _THRESHOLD_NAMES)
    return next((dim for dim in named if dim in dataset.variables and dataset[dim].dtype.kind in "iuf"), None)


def _variable(path: Path, dataset: xr.Dataset, axes: Mapping[Hashable, str], frames: Frames) -> str:
    """Return the variable over lead time, y and x.

    It is the only one with members, the one with the name of the observations, or the only one at all.
    """
    gridded = [name for name in gridded_variables(dataset, axes) if threshold_dim(dataset, name) is None]
    ensembles = [name for name in gridded if _member_dim(dataset, name) is not None]
    if len(ensembles) == 1:
        return ensembles[0]
    if frames.variables[0] in gridded:
        return frames.variables[0]
    if len(gridded) == 1:
        return gridded[0]
    raise DataError(
        str(path),
        expected=f"the variable {frames.variables[0]}, or one variable over lead time, y and x",
        received=", ".join(gridded) or "none",
        hint="Rename the variable, or write a file with it alone.",
    )


def _named(dataset: xr.Dataset, standard_name: str, names: tuple[str, ...]) -> Hashable | None:
    """Return the variable with a CF standard name, or else with a usual name."""
    for name, variable in dataset.variables.items():
        if variable.attrs.get("standard_name") == standard_name and variable.ndim <= 1:
            return name
    return next((name for name in names if name in dataset.variables), None)


def _lead_seconds(path: Path, lead: xr.DataArray) -> NDArray[np.float64]:
    unit = str(lead.attrs.get("units", "")).lower()
    if unit not in _SECONDS or lead.dtype.kind not in "iuf":
        raise DataError(
            str(path),
            expected=f"{lead.name} as numbers with a unit such as 'minutes'",
            received=f"type {lead.dtype}, unit {unit!r}",
            hint="Write the unit as the attribute `units`.",
        )
    seconds: NDArray[np.float64] = lead.values.astype(np.float64) * _SECONDS[unit]
    return seconds


def _dates(path: Path, times: xr.DataArray, frames: Frames) -> NDArray[np.float64]:
    """Return dates as seconds from the first frame of the observations (time,)."""
    decoded = xr.decode_cf(xr.Dataset({"raw": (times.dims, times.values, times.attrs)}))["raw"].values
    first = frames.time.values[0]
    if decoded.dtype.kind != "M" or not isinstance(first, np.datetime64):
        raise DataError(
            str(path),
            expected=f"{times.name} as dates of the standard calendar",
            received=f"type {times.dtype}, units {times.attrs.get('units')!r}",
            hint="Write times such as 'seconds since 2020-01-01'.",
        )
    seconds: NDArray[np.float64] = np.atleast_1d((decoded - first) / np.timedelta64(1, "s"))
    return seconds


def _valid_times(
    path: Path, dataset: xr.Dataset, dim: Hashable, start: Hashable | None, frames: Frames
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the only start and the lead times in seconds, from valid times.

    Without a time of the start, the date in the unit of the times is the start, as pysteps writes it.
    """
    times = dataset[dim]
    valid = _dates(path, times, frames)
    starts = _dates(path, times.copy(data=np.zeros_like(times.values)) if start is None else dataset[start], frames)
    leads = valid - starts[0]
    several = start is not None and len(starts) > 1
    if several or leads[0] < 0 or leads[-1] > _LONGEST:
        raise _no_start(path)
    return starts[:1], leads


def _no_start(path: Path) -> DataError:
    return DataError(
        str(path),
        expected="the time at which each forecast starts",
        received="none",
        hint="Add the coordinate `forecast_reference_time`.",
    )


def _check_dims(path: Path, field: xr.DataArray, dims: tuple[Hashable, ...]) -> None:
    other = [f"{dim} of size {size}" for dim, size in field.sizes.items() if dim not in dims and size > 1]
    if other or len(set(dims)) < 3:
        raise DataError(
            str(path),
            expected=f"{field.name} over start, member, lead time, y and x",
            received=", ".join(other) or ", ".join(map(str, field.dims)),
            hint="Rename the dimension to `realization` if it has the members, or write a file without it.",
        )


def _flipped(
    path: Path, dataset: xr.Dataset, dims: tuple[Hashable, Hashable], field: xr.DataArray, frames: Frames
) -> tuple[bool, bool]:
    """Return whether rows and columns run against those of the observations; other grids are refused."""
    flips = []
    for dim, name, size in zip(dims, (frames.y_dim, frames.x_dim), frames.shape[2:], strict=True):
        problem = "" if field.sizes[dim] == size else f"{field.sizes[dim]} cells"
        flip = False
        if not problem and dim in dataset.variables and name in frames.grid.variables:
            theirs, ours = dataset[dim].values.astype(np.float64), frames.grid[name].values.astype(np.float64)
            flip = bool((theirs[-1] - theirs[0]) * (ours[-1] - ours[0]) < 0)
            same_unit = str(dataset[dim].attrs.get("units")) == str(frames.grid[name].attrs.get("units"))
            step = abs(ours[-1] - ours[0]) / max(size - 1, 1)
            if same_unit and np.abs((theirs[::-1] if flip else theirs) - ours).max() > 0.1 * step:
                problem = f"coordinates from {theirs[0]:g} to {theirs[-1]:g}"
        if problem:
            raise DataError(
                str(path),
                expected=f"the grid of the observations ({size} cells along {name})",
                received=problem,
                hint="Interpolate the forecasts to this grid.",
            )
        flips.append(flip)
    return flips[0], flips[1]
