"""A small rain sequence as a dataset, and the two ways it is written."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

FORMATS = ("netcdf", "zarr2", "zarr3")


def _rain_counts(time=5, height=4, width=6):
    """Counts 0, 1, 2 … in the order (time, y, x)."""
    return np.arange(time * height * width, dtype=np.int16).reshape(time, height, width)


def _rain_dataset(counts=None, *, attrs=None, seconds=None, dims=("time", "y", "x")):
    """Rain in mm/h packed in int16 (0.12 mm/h a count), every five minutes."""
    counts = _rain_counts() if counts is None else counts
    seconds = np.arange(counts.shape[0]) * 300 if seconds is None else seconds
    attrs = {"units": "mm/h", "scale_factor": 0.12, "_FillValue": np.int16(-9999)} if attrs is None else attrs
    time, y, x = dims
    return xr.Dataset(
        {"rain": (dims, counts, attrs)},
        coords={
            time: (time, seconds, {"units": "seconds since 2018-05-10 00:00:00", "standard_name": "time"}),
            y: (y, np.arange(counts.shape[1])[::-1] * 1000.0, {"units": "m"}),
            x: (x, np.arange(counts.shape[2]) * 1000.0, {"units": "m"}),
        },
        attrs={"title": "Rain", "institution": "Nobody", "secret": "x"},
    )


def _write_as(dataset: xr.Dataset, folder: Path, form: str) -> Path:
    """Write a dataset as it stands, its packed numbers included."""
    if form == "netcdf":
        path = folder / "rain.nc"
        dataset.to_netcdf(path, engine="netcdf4")
    else:
        path = folder / "rain.zarr"
        dataset.to_zarr(path, zarr_format=int(form[-1]), consolidated=False)
    return path


@pytest.fixture
def rain_counts():
    return _rain_counts


@pytest.fixture
def rain_dataset():
    return _rain_dataset


@pytest.fixture(params=FORMATS)
def save(request, tmp_path):
    """Write a dataset in each of the formats in turn."""
    return lambda dataset: _write_as(dataset, tmp_path, request.param)


@pytest.fixture
def save_netcdf(tmp_path):
    """Write a dataset as NetCDF."""
    return lambda dataset: _write_as(dataset, tmp_path, "netcdf")
