"""Sequences in memory, as arrays or xarray objects, in the form in which files are read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from convlstm.data.checks import require_positive
from convlstm.errors import DataError, ShapeError

Time = str | datetime | np.datetime64
"""A time in UTC; a text such as 2018-05-20T12:00, or an object."""


def undecoded(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset as if it were opened from a file: times as numbers with a unit, projections as coordinates.

    Example:
        >>> time = ("time", np.array(["2020-06-01T00:00", "2020-06-01T00:05"], "datetime64[ns]"))
        >>> undecoded(xr.Dataset(coords={"time": time}))["time"].attrs["units"]
        'minutes since 2020-06-01 00:00:00'
    """
    plain = dataset.drop_encoding()
    for name, variable in dataset.variables.items():
        if "grid_mapping" in variable.encoding:
            plain[name].attrs["grid_mapping"] = variable.encoding["grid_mapping"]
    variables, attributes = xr.conventions.cf_encoder(dict(plain.variables), plain.attrs)
    encoded = xr.Dataset(variables, attrs=attributes).set_coords(list(dataset.coords))
    return xr.decode_cf(encoded, mask_and_scale=False, decode_times=False, decode_coords="all")


def dataset_of_array(values: ArrayLike, variables: Sequence[str], *, time_step: float, last_time: Time) -> xr.Dataset:
    """Return an array as a dataset with times, for `open_frames`.

    Args:
        values: (time, height, width), or (time, channel, height, width) for several variables; NaN where missing.
        variables: Names of the channels.
        time_step: Seconds between frames.
        last_time: Time of the last frame.

    Returns:
        A dataset with one variable (time, y, x) for each channel.

    Raises:
        ShapeError: if the array has other axes, or another number of channels.
        ConfigError: if the time step is not above 0.
        DataError: if the time is none.

    Example:
        >>> rain = np.zeros((3, 8, 8), np.float32)
        >>> dataset = dataset_of_array(rain, ["rain"], time_step=300, last_time="2020-06-01T12:00")
        >>> str(dataset["time"].values[0])[:16]
        '2020-06-01T11:50'
    """
    require_positive("time_step", time_step)
    array = np.asarray(values)
    if array.ndim == 3 and len(variables) == 1:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1] != len(variables) or 0 in array.shape:
        axes = "(time, height, width)" if len(variables) == 1 else f"(time, {len(variables)}, height, width)"
        raise ShapeError(
            "frames",
            expected=f"shape {axes}",
            received=f"shape {np.shape(values)}",
            hint="Pass the frames in this form.",
        )
    steps = np.arange(1 - len(array), 1) * round(time_step * 1e9)
    time: NDArray[np.datetime64] = as_datetime64(last_time) + steps.astype("timedelta64[ns]")
    fields = {name: (("time", "y", "x"), array[:, channel]) for channel, name in enumerate(variables)}
    return xr.Dataset(fields, coords={"time": ("time", time, {"standard_name": "time"})})


def as_datetime64(time: Time) -> np.datetime64:
    """Return a time as datetime64 in nanoseconds; an offset leads to UTC.

    Example:
        >>> str(as_datetime64("2018-05-20T14:00+02:00"))[:16]
        '2018-05-20T12:00'
    """
    if isinstance(time, np.datetime64):
        converted: np.datetime64 = time.astype("datetime64[ns]")
        return converted
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
        plain = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
        return np.datetime64(plain, "ns")
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "init time",
            expected="a time such as 2018-05-20T12:00",
            received=repr(time)[:60],
            hint="Pass a text, a datetime or a datetime64.",
        ) from error
