"""Read and check the times of the frames, and convert them to seconds."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.axes import TIME_NAMES
from convlstm.errors import DataError

Seconds = NDArray[np.float64]

_SECOND = np.timedelta64(1, "s")
_FORMS = {10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # of texts that are digits only, by their number


def read_times(dataset: xr.Dataset, dim: Hashable, time_step: float | None) -> tuple[xr.DataArray, Seconds]:
    """Return the times along a dimension as dates, and as seconds from the first.

    One frame is enough with a `time_step`. Without dates, the times are multiples of `time_step` from 1970-01-01.
    """
    size = dataset.sizes[dim]
    if size < (2 if time_step is None else 1):
        raise DataError(
            str(dim), expected="at least 2 frames", received=size, hint="Pass a longer sequence, or several files."
        )
    time = decoded_times(dataset, dim, or_none=time_step is not None)
    if time is None:
        return _count(dim, size, time_step)
    seconds = _seconds(time)
    _check_order(time, seconds)
    return time, seconds


def decoded_times(dataset: xr.Dataset, dim: Hashable, *, or_none: bool = False) -> xr.DataArray | None:
    """Return the times along a dimension as dates, or None without any.

    Texts of which none is a time are an error, unless `or_none` is true.
    """
    coordinate, text = _dated(dataset, dim), _text(dataset, dim)
    if coordinate is not None:
        return _decode(dataset, coordinate, dim)
    if text is None:
        return None
    parsed = _parsed(dataset, text)
    if parsed.isna().all() and or_none:
        return None
    return _times_of_text(dataset, text, dim, parsed)


def usual_step(seconds: Seconds) -> float:
    """Return the most common gap between frames in seconds; the smaller one if two gaps are equally common."""
    gaps, counts = np.unique(np.diff(seconds).round(3), return_counts=True)
    return float(gaps[counts.argmax()])


def _dated(dataset: xr.Dataset, dim: Hashable) -> Hashable | None:
    """Return the time coordinate along the dimension; the one named like the dimension has priority."""
    along = [name for name in dataset.coords if dataset[name].dims == (dim,)]
    for name in sorted(along, key=lambda name: name != dim):
        if " since " in str(dataset[name].attrs.get("units", "")):
            return name
    return None


def _text(dataset: xr.Dataset, dim: Hashable) -> Hashable | None:
    """Return the variable with times as texts, by its name; the one named like the dimension has priority."""
    along = [
        name
        for name in dataset.variables
        if dataset[name].dims == (dim,)
        and dataset[name].dtype.kind in "OSUT"
        and (name == dim or str(name).lower() in TIME_NAMES or dataset[name].attrs.get("standard_name") == "time")
    ]
    return min(along, key=lambda name: name != dim, default=None)


def _texts(dataset: xr.Dataset, name: Hashable) -> list[str]:
    values = dataset[name].values
    return [value.decode("ascii", "replace") if isinstance(value, bytes) else str(value) for value in values]


def _parsed(dataset: xr.Dataset, name: Hashable) -> pd.DatetimeIndex:
    """Return the times of texts such as 2018-05-13T00:05Z, 20180513 0005 or 201805130005; an offset leads to UTC."""
    texts = [text.strip().replace("_", " ") for text in _texts(dataset, name)]  # WRF writes 2018-05-13_00:05:00
    compact = [text.replace(" ", "") for text in texts]
    if compact[0].isdecimal() and len(compact[0]) in _FORMS:
        form = _FORMS[len(compact[0])]
        same_length = [text if len(text) == len(compact[0]) else "" for text in compact]
        return pd.to_datetime(same_length, errors="coerce", utc=True, format=form)
    return pd.to_datetime(texts, errors="coerce", utc=True, format="ISO8601")


def _times_of_text(dataset: xr.Dataset, name: Hashable, dim: Hashable, parsed: pd.DatetimeIndex) -> xr.DataArray:
    """Return the parsed times as a coordinate; a text that is no time is an error."""
    wrong = np.flatnonzero(parsed.isna())
    if wrong.size:
        raise DataError(
            str(name),
            expected="times such as 2018-05-13T00:05",
            received=f"{_texts(dataset, name)[wrong[0]][:40]!r} for frame {wrong[0]}",
            hint="Write the times as numbers with a unit, or as such texts.",
        )
    return _coordinate(parsed.tz_localize(None).values.astype("datetime64[ns]"), dim, {"standard_name": "time"})


def _count(dim: Hashable, size: int, time_step: float | None) -> tuple[xr.DataArray, Seconds]:
    if time_step is None:
        raise DataError(
            str(dim),
            expected="times with a unit such as 'seconds since 2020-01-01'",
            received="none",
            hint="Pass `time_step`, the seconds between frames.",
        )
    seconds = np.arange(size, dtype=np.float64) * np.float64(time_step)
    dates = np.datetime64("1970-01-01", "ns") + (seconds * 1e9).round().astype("timedelta64[ns]")
    comment = "the file has no dates: frames are counted from an arbitrary day"
    return _coordinate(dates, dim, {"standard_name": "time", "comment": comment}), seconds


def _decode(dataset: xr.Dataset, name: Hashable, dim: Hashable) -> xr.DataArray:
    raw = dataset[name].variable
    try:
        decoded = xr.conventions.decode_cf_variable("raw", xr.Variable((dim,), raw.values, raw.attrs))
    except (ValueError, OverflowError) as error:
        raise DataError(
            str(name),
            expected="times that can be read",
            received=f"units {raw.attrs.get('units')!r}, calendar {raw.attrs.get('calendar', 'standard')!r}",
            hint="Correct the attributes in the file.",
        ) from error
    absent = np.flatnonzero(np.asarray(decoded.isnull().values))
    if absent.size:
        raise DataError(
            str(name),
            expected="a time for every frame",
            received=f"none for frame {absent[0]}",
            hint="Remove that frame.",
        )
    return _coordinate(decoded.values, dim, decoded.attrs)


def _coordinate(values: NDArray[Any], dim: Hashable, attrs: dict[str, Any]) -> xr.DataArray:
    return xr.Dataset(coords={dim: (dim, values, attrs)})[dim]


def _seconds(time: xr.DataArray) -> Seconds:
    values = time.values
    if values.dtype.kind == "M":
        return np.asarray((values - values[0]) / _SECOND, dtype=np.float64)
    return np.array([(date - values[0]).total_seconds() for date in values], dtype=np.float64)


def _check_order(time: xr.DataArray, seconds: Seconds) -> None:
    wrong = np.flatnonzero(np.diff(seconds) <= 0)
    if wrong.size:
        late, early = str(time.values[wrong[0]]), str(time.values[wrong[0] + 1])
        raise DataError(
            str(time.name),
            expected="times that increase from frame to frame",
            received=f"{early} in frame {wrong[0] + 1} after {late} in frame {wrong[0]}",
            hint="Remove the duplicate." if late == early else "Sort the file by time.",
        )
