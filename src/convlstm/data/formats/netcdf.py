"""NetCDF files, of version 4 and of the classic formats."""

from __future__ import annotations

from pathlib import Path

import netCDF4
import xarray as xr

from convlstm.data.classic import check_complete
from convlstm.data.formats.hdf5 import check_contained
from convlstm.data.formats.sizes import check_size

_EXTRA = "nowcast"


def open_netcdf(path: Path, max_bytes: int) -> xr.Dataset:
    """Open a file with packed numbers and undecoded times."""
    check_file(path)
    check_size(path, _coordinate_bytes(path), max_bytes)
    return xr.open_dataset(path, engine="netcdf4", mask_and_scale=False, decode_times=False, decode_coords="all")


def check_file(path: Path) -> None:
    """Raise an error for a file that is truncated, leads to other files, or declares more than it can have."""
    check_complete(path)
    check_contained(path, _EXTRA)


def _coordinate_bytes(path: Path) -> int:
    """Return the bytes of all one-dimensional variables; xarray reads index variables when it opens the file."""
    with netCDF4.Dataset(path) as dataset:
        lines = [variable for variable in dataset.variables.values() if variable.ndim == 1]
        return sum(int(line.size) * getattr(line.dtype, "itemsize", 8) for line in lines)
