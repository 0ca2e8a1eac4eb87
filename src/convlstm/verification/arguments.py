"""Checks of arrays that are compared with each other."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from convlstm.errors import DataError


def check_dimensions(name: str, array: xr.DataArray, dims: Sequence[str]) -> None:
    """Raise an error unless the array has these dimensions in this order, none of them empty."""
    if array.dims != tuple(dims) or array.size == 0:
        raise DataError(
            name,
            expected=f"dimensions ({', '.join(dims)}), none empty",
            received=str(dict(array.sizes)),
            hint="Transpose or select the array to match.",
        )


def check_same_entries(name: str, array: xr.DataArray, observation: xr.DataArray, dims: Sequence[str]) -> None:
    """Raise an error unless a dimension has the same size, and where it is named the same entries, in both arrays."""
    for dim in dims:
        same_size = array.sizes[dim] == observation.sizes[dim]
        named = dim in array.coords and dim in observation.coords
        # xarray would silently score the common part only.
        if not same_size or (named and not array[dim].equals(observation[dim])):
            raise DataError(
                dim,
                expected=f"the same entries in {name} and observation",
                received=f"{array.sizes[dim]} and {observation.sizes[dim]} entries that differ",
                hint=f"Select the observations at the valid times and pixels of the {name}.",
            )


def check_minutes(name: str, array: xr.DataArray, required: Sequence[str]) -> None:
    """Raise an error unless the array has the required coordinates, with lead_time in numbers."""
    if not all(coordinate in array.coords for coordinate in required):
        received = f"coordinates {', '.join(map(str, array.coords)) or 'none'}"
    elif array["lead_time"].dtype.kind not in "iuf":
        received = f"lead_time of type {array['lead_time'].dtype}"
    else:
        return
    raise DataError(
        name,
        expected=f"the coordinates {' and '.join(required)} (numbers, in minutes)",
        received=received,
        hint="Assign them with `assign_coords`.",
    )
