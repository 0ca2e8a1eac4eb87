"""Find the dimensions time, y and x of a file: by option, CF attributes or name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from cf_xarray.accessor import CFDatasetAccessor

from convlstm.data.selection import example
from convlstm.errors import DataError

AXES = ("time", "y", "x")

TIME_NAMES = frozenset({"time", "t", "times", "datetime", "date", "valid_time", "timestamp", "timestamps"})
"""Names of the time in lower case, for a dimension or its variable."""

# Names of dimensions in lower case, used if there are no attributes.
_ALIASES = {
    "time": TIME_NAMES,
    "y": {"y", "yc", "lat", "latitude", "rlat", "nav_lat", "grid_latitude", "projection_y_coordinate"}
    | {"northing", "south_north", "fnocy", "row", "rows", "j", "nj", "ny"},
    "x": {"x", "xc", "lon", "longitude", "rlon", "nav_lon", "grid_longitude", "projection_x_coordinate"}
    | {"easting", "west_east", "fnocx", "col", "cols", "column", "i", "ni", "nx"},
}
_ENSEMBLE_NAMES = {
    "realization",
    "ens_number",
    "number",
    "ensemble",
    "member",
    "members",
    "ensemble_member",
    "ens",
    "mem",
    "perturbation",
}
_CF_KEYS = {
    "time": (("axes", "T"), ("coordinates", "time")),
    "y": (("axes", "Y"), ("coordinates", "latitude")),
    "x": (("axes", "X"), ("coordinates", "longitude")),
}


@dataclass(frozen=True)
class Dimensions:
    """Names of a variable's three dimensions."""

    time: Hashable
    y: Hashable
    x: Hashable


def find_axes(dataset: xr.Dataset, names: Mapping[str, str | None]) -> dict[Hashable, str]:
    """Return the axis ("time", "y" or "x") of each dimension; `names` has the caller's dimension of each, or None."""
    axis_of = {dim: axis for dim in dataset.dims for axis in AXES if str(dim).lower() in _ALIASES[axis]}
    accessor: Any = CFDatasetAccessor(dataset)  # type: ignore[no-untyped-call]
    for axis, keys in _CF_KEYS.items():
        for group, key in keys:
            for name in getattr(accessor, group).get(key, ()):
                if dataset[name].ndim == 1:
                    axis_of[dataset[name].dims[0]] = axis
    for axis, dim in names.items():
        if dim is None:
            continue
        if dim not in dataset.dims:
            raise DataError(
                f"{axis}_dim",
                expected=f"a dimension of the file ({', '.join(map(str, dataset.dims))})",
                received=dim,
                hint="Pass one of the listed dimensions.",
            )
        axis_of = {other: other_axis for other, other_axis in axis_of.items() if other_axis != axis}
        axis_of[dim] = axis
    return axis_of


def find_realization(dataset: xr.Dataset, variable: Hashable) -> Hashable | None:
    """Return the dimension of the ensemble members of a variable, by `standard_name: realization` or by name."""
    dims = dataset[variable].dims
    for coordinate in dataset.variables.values():
        if (
            coordinate.ndim == 1
            and coordinate.dims[0] in dims
            and coordinate.attrs.get("standard_name") == "realization"
        ):
            return coordinate.dims[0]
    return next((dim for dim in dims if str(dim).lower() in _ENSEMBLE_NAMES), None)


def find_dimensions(variable: xr.DataArray, axes: Mapping[Hashable, str]) -> Dimensions:
    """Return the dimensions time, y and x of a variable; any other dimension must have size 1."""
    name = str(variable.name)
    if variable.dtype.kind not in "iuf":
        raise DataError(
            name, expected="numbers", received=f"values of type {variable.dtype}", hint="Choose another variable."
        )
    sizes = ", ".join(f"{dim}: {size}" for dim, size in variable.sizes.items())
    dims_of = {axis: [dim for dim in variable.dims if axes.get(dim) == axis] for axis in AXES}
    for axis, dims in dims_of.items():
        if len(dims) > 1:
            dims[:] = [dim for dim in dims if variable.sizes[dim] > 1]
        if len(dims) != 1:
            others = [dim for dim, size in variable.sizes.items() if dim not in axes and size > 1]
            hint = f"Pass its name as `{axis}_dim`, or choose another variable."
            if axis == "time" and len(others) > 1:
                hint = f"Select a value of all but one of them, such as `{example(variable, others[0])}`."
            raise DataError(
                name,
                expected=f"{'one' if dims else 'a'} {axis} axis",
                received=f"the dimensions ({sizes})",
                hint=hint,
            )
    dimensions = Dimensions(dims_of["time"][0], dims_of["y"][0], dims_of["x"][0])
    for dim, size in variable.sizes.items():
        if size > 1 and dim not in (dimensions.time, dimensions.y, dimensions.x):
            raise DataError(
                name,
                expected="only the dimensions time, y and x",
                received=f"{dim} of size {size}",
                hint=f"Pass one of its values, such as `{example(variable, dim)}`.",
            )
    return dimensions


def find_variables(dataset: xr.Dataset, axes: Mapping[Hashable, str], requested: tuple[str, ...]) -> tuple[str, ...]:
    """Return the requested variables; for an empty tuple the only one over time, y and x."""
    # Zarr lists its arrays in arbitrary order
    available = sorted(str(name) for name in dataset.data_vars)
    for name in requested:
        if name not in dataset.data_vars:
            raise DataError(
                name,
                expected=f"a variable of the file ({', '.join(available)})",
                received="none",
                hint="Choose one of them.",
            )
    if requested:
        return requested
    reasons: dict[str, DataError] = {}
    for name in available:
        try:
            find_dimensions(dataset[name], axes)
        except DataError as error:
            reasons[name] = error
    gridded = [name for name in available if name not in reasons]
    if len(gridded) == 1:
        return (gridded[0],)
    if not gridded:
        raise _nearest(dataset, reasons)
    raise DataError(
        "variables", expected="the name of one or more", received="none", hint=f"Choose from {', '.join(gridded)}."
    )


def _nearest(dataset: xr.Dataset, reasons: Mapping[str, DataError]) -> DataError:
    """Return the error of the variable with the most dimensions, which the user most likely wants."""
    if not reasons:
        return DataError(
            "variables", expected="a variable over time, y and x", received="no variable", hint="Choose another file."
        )
    return reasons[max(reasons, key=lambda name: (dataset[name].ndim, int(np.prod(dataset[name].shape))))]
