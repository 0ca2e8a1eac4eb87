"""The kinds of files and stores that are read, and how each is recognised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from convlstm.data.classic import FORMATS as CLASSIC
from convlstm.data.formats import hdf5
from convlstm.data.formats.grib import open_grib
from convlstm.data.formats.knmi import open_knmi
from convlstm.data.formats.netcdf import open_netcdf
from convlstm.data.formats.odim import open_odim
from convlstm.data.formats.radolan import HEADER, open_radolan
from convlstm.data.formats.zarr_store import open_zarr
from convlstm.errors import DataError

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ARCHIVES = (".tar", ".tgz", ".zip", ".7z")
_ENCODING = "kind"  # of a dataset: the kind of file it was read from


@dataclass(frozen=True)
class Kind:
    """A kind of file or store."""

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Path, int], xr.Dataset]


NETCDF = Kind("NetCDF", (".nc", ".nc4", ".cdf", ".netcdf"), open_netcdf)
ZARR = Kind("Zarr", (".zarr",), open_zarr)
ODIM = Kind("ODIM HDF5", (".h5", ".hdf", ".hdf5"), open_odim)
KNMI = Kind("KNMI HDF5", (".h5", ".hdf", ".hdf5"), open_knmi)
GRIB = Kind("GRIB", (".grib", ".grb", ".grib2", ".grb2", ".grib1", ".grb1"), open_grib)
RADOLAN = Kind("RADOLAN", (), open_radolan)
KINDS = (NETCDF, ZARR, ODIM, KNMI, GRIB, RADOLAN)

SUFFIXES = tuple(dict.fromkeys(suffix for kind in KINDS for suffix in kind.suffixes))
"""Suffixes of all kinds."""


def find_kind(path: Path) -> Kind | None:
    """Return the kind of a file by its first bytes, then by its suffix; None if neither is known."""
    with path.open("rb") as file:
        start = file.read(32)
    suffix = path.suffix.lower()
    if start.startswith(CLASSIC) or suffix in NETCDF.suffixes:
        return NETCDF
    if start.startswith(_HDF5):
        return _kind_of_hdf5(path)
    if start.startswith(b"GRIB"):
        return GRIB
    if HEADER.match(start):
        return RADOLAN
    return next((kind for kind in (ODIM, GRIB) if suffix in kind.suffixes), None)


def open_file(path: Path, max_bytes: int) -> xr.Dataset:
    """Open a file of any kind with packed numbers and undecoded times."""
    kind = find_kind(path)
    if kind is None:
        is_archive = path.suffix.lower() in _ARCHIVES
        raise DataError(
            str(path),
            expected=f"a file of a kind that is read ({', '.join(kind.name for kind in KINDS)})",
            received="an archive of files" if is_archive else "a file of another kind",
            hint="Unpack it first." if is_archive else "Convert it to NetCDF or Zarr, for example with xarray.",
        )
    return marked(kind.open(path, max_bytes), kind)


def marked(dataset: xr.Dataset, kind: Kind) -> xr.Dataset:
    """Note the kind of its file in a dataset."""
    dataset.encoding[_ENCODING] = kind.name
    return dataset


def has_default_fill(dataset: xr.Dataset) -> bool:
    """Return whether a number that nobody declared means no data, as in NetCDF."""
    return dataset.encoding.get(_ENCODING) == NETCDF.name


def _kind_of_hdf5(path: Path) -> Kind:
    with hdf5.open_hdf5(path) as file:
        if (hdf5.text(file, "Conventions") or "").upper().startswith("ODIM"):
            return ODIM
        if {"overview", "geographic", "image1"} <= set(file):
            return KNMI
    return NETCDF
