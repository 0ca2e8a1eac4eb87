"""Open files of unknown origin: accept NetCDF and Zarr only, and check every size before allocation."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr
import zarr

from convlstm.data.classic import check_complete
from convlstm.data.in_memory import undecoded
from convlstm.errors import ConvLSTMError, DataError

_ZARR_GROUP = (".zgroup", ".zmetadata", "zarr.json")
_ZARR_METADATA = (".zmetadata", ".zarray", "zarr.json")
_CODEC_LISTS = {"filters", "compressor", "codecs"}


@contextmanager
def opened(path: Path | xr.Dataset, max_bytes: int) -> Iterator[xr.Dataset]:
    """Open a file with packed numbers and undecoded times, and close it at the end of the block.

    A dataset in memory is returned in this form. The coordinates, which xarray reads at once, may have at most
    `max_bytes`. Any error of the libraries, now or in the block, becomes a `DataError`.
    """
    if isinstance(path, xr.Dataset):
        yield undecoded(path)
        return
    engine = _engine(path)
    try:
        # xarray, zarr and cf-xarray warn about problems that are checked here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if engine == "zarr":
                _refuse_pickle(path)
            else:
                check_complete(path)
            check_size(path, _coordinate_bytes(path, engine), max_bytes)
            with xr.open_dataset(
                path, engine=engine, mask_and_scale=False, decode_times=False, decode_coords="all"
            ) as dataset:
                if engine == "zarr":
                    _keep_zero_coordinates(dataset)
                yield dataset
    except ConvLSTMError:
        raise
    # the libraries raise many types for a damaged file: OSError, RuntimeError, KeyError, zlib.error
    except Exception as error:
        raise DataError(
            str(path),
            expected="a NetCDF file or Zarr folder that can be read",
            received=(str(error).splitlines() or [type(error).__name__])[0][:200],
            hint="Check the format, or download the file again.",
        ) from error


def _keep_zero_coordinates(dataset: xr.Dataset) -> None:
    """Remove the fill value 0 of coordinates, which Zarr writes by default: a time or a distance of 0 is a value."""
    for coordinate in dataset.coords.values():
        if np.array_equal(coordinate.attrs.get("_FillValue"), 0):
            del coordinate.attrs["_FillValue"]


def check_size(path: Path, size: int, max_bytes: int) -> None:
    """Raise an error for data of more than `max_bytes`, before allocation."""
    if size > max_bytes:
        raise DataError(
            str(path),
            expected=f"at most {max_bytes / 2**30:.3g} GiB",
            received=f"{size / 2**30:.3g} GiB declared",
            hint="Select a part in time or space first.",
        )


def _engine(path: Path) -> str:
    if path.is_file():
        return "netcdf4"
    if any((path / name).is_file() for name in _ZARR_GROUP):
        return "zarr"
    if path.is_dir():
        received = "a folder without Zarr metadata"
    else:
        received = "a device or pipe" if path.exists() else "nothing there"
    raise DataError(str(path), expected="a NetCDF file or a Zarr folder", received=received, hint="Correct the path.")


def _coordinate_bytes(path: Path, engine: str) -> int:
    """Return the bytes of all one-dimensional variables; xarray reads index variables when it opens the file."""
    if engine == "zarr":
        return sum(array.nbytes for _, array in zarr.open_group(path, mode="r").arrays() if array.ndim == 1)
    with netCDF4.Dataset(path) as dataset:
        lines = [variable for variable in dataset.variables.values() if variable.ndim == 1]
        return sum(int(line.size) * getattr(line.dtype, "itemsize", 8) for line in lines)


def _refuse_pickle(path: Path) -> None:
    for folder in (path, *(child for child in path.iterdir() if child.is_dir())):
        for name in _ZARR_METADATA:
            if (folder / name).is_file() and "pickle" in " ".join(_codecs(json.loads((folder / name).read_text()))):
                raise DataError(
                    str(folder / name),
                    expected="codecs for numbers",
                    received="pickle, which executes code",
                    hint="Write the file again without this codec.",
                )


def _codecs(node: Any, listed: bool = False) -> Iterator[str]:
    """Return the names of the codecs in Zarr metadata of either format, including nested ones."""
    if isinstance(node, list):
        for item in node:
            yield from _codecs(item, listed)
    elif isinstance(node, dict):
        if listed:
            yield str(node.get("id", node.get("name", "")))
        for key, value in node.items():
            yield from _codecs(value, listed or key in _CODEC_LISTS)
