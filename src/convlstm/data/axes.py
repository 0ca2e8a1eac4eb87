"""Find the dimensions time, y and x of a file: by option, CF attributes or name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from cf_xarray.accessor import CFDatasetAccessor

from convlstm.errors import DataError

AXES = ("time", "y", "x")

# Names of dimensions in lower case, used if there are no attributes.
_ALIASES = {
    "time": {"time", "t", "times", "datetime", "date", "valid_time"},
    "y": {"y", "yc", "lat", "latitude", "rlat", "nav_lat", "grid_latitude", "projection_y_coordinate"}
    | {"northing", "south_north", "fnocy", "row", "rows", "j", "nj", "ny"},
    "x": {"x", "xc", "lon", "longitude", "rlon", "nav_lon", "grid_longitude", "projection_x_coordinate"}
    | {"easting", "west_east", "fnocx", "col", "cols", "column", "i", "ni", "nx"},
}
_CF_KEYS = {
    "time": (("axes", "T"), ("coordinates", "time")),
    "y": (("axes", "Y"), ("coordinates", "latitude")),
    "x": (("axes", "X"), ("coordinates", "longitude")),
}


@dataclass(frozen=True)
class Dimensions:
    """Names of a variable's three dimensions.

    Args:
        time: Dimension along time.
        y: Dimension of the rows.
        x: Dimension of the columns.

    Example:
        >>> Dimensions("time", "lat", "lon").y
        'lat'
    """

    time: Hashable
    y: Hashable
    x: Hashable


def find_axes(dataset: xr.Dataset, told: Mapping[str, str | None]) -> dict[Hashable, str]:
    """Return the axis of each dimension of a file, if it can be found.

    Args:
        dataset: The open file.
        told: For "time", "y" and "x" the name of the dimension from the caller, or None.

    Returns:
        From a dimension's name to "time", "y" or "x".

    Raises:
        DataError: if a dimension from the caller is missing.

    Example:
        >>> find_axes(xr.Dataset({"rain": (("t", "lat", "lon"), np.zeros((2, 3, 4)))}), {})
        {'t': 'time', 'lat': 'y', 'lon': 'x'}
    """
    found = {dim: axis for dim in dataset.dims for axis in AXES if str(dim).lower() in _ALIASES[axis]}
    accessor: Any = CFDatasetAccessor(dataset)  # type: ignore[no-untyped-call]
    for axis, keys in _CF_KEYS.items():
        for group, key in keys:
            for name in getattr(accessor, group).get(key, ()):
                if dataset[name].ndim == 1:
                    found[dataset[name].dims[0]] = axis
    for axis, dim in told.items():
        if dim is None:
            continue
        if dim not in dataset.dims:
            raise DataError(
                f"{axis}_dim",
                expected=f"a dimension of the file ({', '.join(map(str, dataset.dims))})",
                received=dim,
                hint="Pass one of the listed dimensions.",
            )
        found = {other: its for other, its in found.items() if its != axis} | {dim: axis}
    return found


def find_dimensions(variable: xr.DataArray, axes: Mapping[Hashable, str]) -> Dimensions:
    """Return the dimensions time, y and x of a variable; any other dimension must have size 1.

    Args:
        variable: The variable.
        axes: The result of `find_axes`.

    Returns:
        The names of its three dimensions.

    Raises:
        DataError: if it has no numbers, lacks one of the three, or has a further dimension longer than 1.

    Example:
        >>> variable = xr.DataArray(np.zeros((2, 1, 3, 4)), dims=("t", "level", "lat", "lon"))
        >>> find_dimensions(variable, {"t": "time", "lat": "y", "lon": "x"})
        Dimensions(time='t', y='lat', x='lon')
    """
    name = str(variable.name)
    if variable.dtype.kind not in "iuf":
        raise DataError(
            name, expected="numbers", received=f"values of type {variable.dtype}", hint="Choose another variable."
        )
    sizes = ", ".join(f"{dim}: {size}" for dim, size in variable.sizes.items())
    named = {axis: [dim for dim in variable.dims if axes.get(dim) == axis] for axis in AXES}
    for axis, dims in named.items():
        if len(dims) > 1:
            dims[:] = [dim for dim in dims if variable.sizes[dim] > 1]
        if len(dims) != 1:
            raise DataError(
                name,
                expected=f"{'one' if dims else 'a'} {axis} axis",
                received=f"the dimensions ({sizes})",
                hint=f"Pass its name as `{axis}_dim`, or choose another variable.",
            )
    dimensions = Dimensions(**{axis: dims[0] for axis, dims in named.items()})
    three = (dimensions.time, dimensions.y, dimensions.x)
    for dim, size in variable.sizes.items():
        if size > 1 and dim not in three:
            raise DataError(
                name,
                expected="only the dimensions time, y and x",
                received=f"{dim} of size {size}",
                hint=f"Write a file with one {dim} first.",
            )
    return dimensions


def find_variables(dataset: xr.Dataset, axes: Mapping[Hashable, str], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the requested variables, or the only one over time, y and x.

    Args:
        dataset: The open file.
        axes: The result of `find_axes`.
        wanted: Names of variables, or () for the only one.

    Returns:
        The names.

    Raises:
        DataError: if a name is missing, or the file does not have exactly one such variable.

    Example:
        >>> dataset = xr.Dataset({"rain": (("t", "y", "x"), np.zeros((3, 2, 2))), "mask": (("y", "x"), np.eye(2))})
        >>> find_variables(dataset, {"t": "time", "y": "y", "x": "x"}, ())
        ('rain',)
    """
    # Zarr lists its arrays in arbitrary order
    there = sorted(str(name) for name in dataset.data_vars)
    for name in wanted:
        if name not in dataset.data_vars:
            raise DataError(
                name,
                expected=f"a variable of the file ({', '.join(there)})",
                received="none",
                hint="Choose one of them.",
            )
    if wanted:
        return wanted
    reasons: dict[str, DataError] = {}
    for name in there:
        try:
            find_dimensions(dataset[name], axes)
        except DataError as error:
            reasons[name] = error
    fitting = [name for name in there if name not in reasons]
    if len(fitting) == 1:
        return (fitting[0],)
    if not fitting:
        raise _nearest(dataset, reasons)
    raise DataError(
        "variables", expected="the name of one or more", received="none", hint=f"Choose from {', '.join(fitting)}."
    )


def _nearest(dataset: xr.Dataset, reasons: Mapping[str, DataError]) -> DataError:
    """Return the error of the variable with the most dimensions, which the user most likely wants."""
    if not reasons:
        return DataError(
            "variables", expected="a variable over time, y and x", received="no variable", hint="Choose another file."
        )
    return reasons[max(reasons, key=lambda name: (dataset[name].ndim, int(np.prod(dataset[name].shape))))]
