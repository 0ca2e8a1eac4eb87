"""GRIB files of edition 1 and 2, through cfgrib."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from convlstm.data.formats.packages import load_package
from convlstm.data.formats.sizes import check_size
from convlstm.errors import ConvLSTMError, DataError


def open_grib(path: Path, max_bytes: int) -> xr.Dataset:
    """Open the messages of a file as one dataset over valid times.

    The dimension of the valid times is `time`. With several initial times and several steps, these dimensions are
    `forecast_reference_time` and `step`, and one of them has to be selected.
    """
    load_package("cfgrib", "grib", str(path))
    try:
        check_size(path, 8 * _largest_grid(path), max_bytes)
        dataset = xr.open_dataset(
            path,
            engine="cfgrib",
            mask_and_scale=False,
            decode_times=False,
            decode_coords="all",
            # no index file next to the data, and no variable left out because it does not fit
            backend_kwargs={"indexpath": "", "errors": "raise"},
        )
    except ConvLSTMError:
        raise
    except Exception as error:  # cfgrib raises many types
        raise DataError(
            str(path),
            expected="GRIB messages of one grid and level type",
            received=(str(error).splitlines() or [type(error).__name__])[0][:200],
            hint="Write the variable to a file of its own with `grib_copy -w shortName=tp IN OUT`.",
        ) from error
    return _over_valid_times(dataset)


def _largest_grid(path: Path) -> int:
    """Return the most values that a message declares, without unpacking any: a short message can declare millions."""
    eccodes = load_package("eccodes", "grib", str(path))
    largest = 0
    with path.open("rb") as file:
        while (message := eccodes.codes_grib_new_from_file(file, headers_only=True)) is not None:
            largest = max(largest, int(eccodes.codes_get(message, "numberOfDataPoints")))
            eccodes.codes_release(message)
    return largest


def _over_valid_times(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset with the valid times as its coordinate `time`."""
    for name in ("time", "step"):
        if name in dataset.coords:
            dataset[name].attrs.pop("dtype", None)  # of a decoded time
    close = dataset.close
    if "time" in dataset.coords:
        dataset = dataset.rename({"time": "forecast_reference_time"})
    valid = dataset.coords.get("valid_time")
    if valid is None or valid.ndim == 2:
        return dataset
    times = valid.variable
    if valid.ndim:
        (dim,) = valid.dims
        dataset = dataset.drop_vars(["valid_time", dim]).rename({dim: "time"})
        dataset = dataset.assign_coords(time=("time", times.values, times.attrs))
    else:
        dataset = dataset.drop_vars("valid_time").expand_dims("time")
        dataset = dataset.assign_coords(time=("time", times.values.reshape(1), times.attrs))
    dataset.set_close(close)
    return dataset
