"""The time of a file with one frame and no time axis: from a scalar variable, an attribute, or the file name."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.axes import TIME_NAMES
from convlstm.data.times import decoded_times
from convlstm.errors import DataError

# 201805130005, 20180513_0005, 20180513T000500; 2018-05-13T00:05, 2018-05-13_00-05-00
_COMPACT = re.compile(r"(?<!\d)((?:19|20)\d{2})(\d{2})(\d{2})(?:[-_T.]?(\d{2})(\d{2})?(\d{2})?)?(?!\d)")
_SPACED = re.compile(
    r"(?<!\d)((?:19|20)\d{2})[-_](\d{2})[-_](\d{2})(?:[-_T ](\d{2})[-_:]?(\d{2})(?:[-_:]?(\d{2}))?)?(?!\d)"
)


def time_of_frame(dataset: xr.Dataset, place: str) -> NDArray[np.generic]:
    """Return the time of the only frame of a file, (time,) with one date."""
    for name, variable in dataset.variables.items():
        is_time = str(name).lower() in TIME_NAMES or variable.attrs.get("standard_name") == "time"
        if variable.ndim == 0 and is_time:
            values = variable.values.reshape(1)
            times = decoded_times(xr.Dataset(coords={name: ("time", values, variable.attrs)}), "time")
            if times is not None:
                return np.asarray(times.values)
    for name, value in dataset.attrs.items():
        if str(name).lower() in TIME_NAMES:
            parsed = pd.to_datetime(str(value), errors="coerce", utc=True)
            if not pd.isna(parsed):
                return np.array([parsed.tz_localize(None).to_datetime64()])
    times_of_name = {match for form in (_COMPACT, _SPACED) for match in _times(form, Path(place).name)}
    if len(times_of_name) != 1:
        raise DataError(
            place,
            expected="a time axis, a scalar time, or one time in the file name",
            received=", ".join(sorted(map(str, times_of_name))) or "none",
            hint="Name the files by their time, such as rain_20180513T0005.nc.",
        )
    return np.array([times_of_name.pop()])


def _times(form: re.Pattern[str], name: str) -> list[np.datetime64]:
    """Return the times in a name; digits that are no date are left out."""
    times = []
    for match in form.finditer(name):
        year, month, day, hour, minute, second = (part or "00" for part in match.groups())
        parsed = pd.to_datetime(f"{year}{month}{day}{hour}{minute}{second}", format="%Y%m%d%H%M%S", errors="coerce")
        if not pd.isna(parsed):
            times.append(parsed.to_datetime64())
    return times
