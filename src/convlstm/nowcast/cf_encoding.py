"""How a dataset is stored: times as numbers with a unit, and no fill value for coordinates, as CF asks."""

from __future__ import annotations

from typing import Any

import cftime
import numpy as np
import xarray as xr

TIME_UNITS = "seconds since 1970-01-01 00:00:00"
DURATION_UNITS = "minutes"

_LONGEST_CHUNK = 1024  # cells along one side


def encoded(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset with the encoding that CF asks for; the values of the argument do not change.

    Dates are float64, in seconds unless the encoding has a unit. Durations become float64 minutes with the attribute
    `units`, because xarray would add an attribute `dtype` that CF does not have. Coordinates have no `_FillValue`.

    Example:
        >>> lead = np.array([300, 600], "timedelta64[s]").astype("timedelta64[ns]")
        >>> encoded(xr.Dataset(coords={"lead_time": lead}))["lead_time"].values.tolist()
        [5.0, 10.0]
    """
    result = dataset.copy()
    for name in list(result.variables):
        if result[name].dtype.kind == "m":
            variable = result[name].variable
            minutes = variable.values / np.timedelta64(60, "s")
            attributes = {key: text for key, text in variable.attrs.items() if key != "dtype"}
            result = result.assign_coords({name: (variable.dims, minutes, attributes | {"units": DURATION_UNITS})})
        if _is_date(result[name]):
            result[name].encoding["dtype"] = "float64"
            result[name].encoding.setdefault("units", TIME_UNITS)
            if result[name].dtype.kind == "M":
                result[name].encoding["calendar"] = "standard"  # understood by more software than proleptic_gregorian
                result[name].attrs["units_metadata"] = "leap_seconds: none"  # as NumPy counts
        if name in result.coords:
            result[name].encoding["_FillValue"] = None
    return result


def packing(dataset: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Return the encoding of a dataset for NetCDF: fields compressed, in chunks of one field or a part of it.

    Other arrays of numbers have a checksum, which the compression of the fields contains. A single number has none.
    """
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        if 0 < variable.ndim <= 2 and variable.size and (variable.dtype.kind in "fiuM" or _is_date(dataset[name])):
            chunk = tuple(min(size, _LONGEST_CHUNK) for size in variable.shape)
            encoding[str(name)] = variable.encoding | {"fletcher32": True, "chunksizes": chunk}
        if variable.ndim > 2:
            chunk = (*(1 for _ in variable.dims[:-2]), *(min(size, _LONGEST_CHUNK) for size in variable.shape[-2:]))
            encoding[str(name)] = variable.encoding | {"zlib": True, "complevel": 4, "chunksizes": chunk}
    return encoding


def zarr_packed(dataset: xr.Dataset) -> xr.Dataset:
    """Return an encoded dataset with the compression of a Zarr store, whose checksum finds a changed chunk."""
    from numcodecs import Shuffle, Zstd

    result = dataset.copy()
    for name, variable in result.variables.items():
        packing = {"compressors": [Zstd(level=3, checksum=True)]}
        if variable.dtype.kind == "f":
            packing["filters"] = [Shuffle(variable.dtype.itemsize)]
        result[name].encoding |= packing
    return result


def _is_date(variable: xr.DataArray) -> bool:
    if variable.dtype.kind == "M":
        return True
    first = variable.values.flat[0] if variable.dtype.kind == "O" and variable.size else None
    return isinstance(first, cftime.datetime)
