"""One frame of a radar product as a CF dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.formats.lazy import Reader, lazy_variable
from convlstm.errors import DataError

RAIN = {"standard_name": "rainfall_rate", "long_name": "rainfall rate"}
REFLECTIVITY = {"standard_name": "equivalent_reflectivity_factor", "long_name": "reflectivity", "units": "dBZ"}
_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Grid:
    """Coordinates of the cell centres, and the CF grid mapping."""

    x: NDArray[np.float64]  # (x,)
    y: NDArray[np.float64]  # (y,)
    units: tuple[str, str]  # of x and y
    mapping: Mapping[str, Any]


@dataclass(frozen=True)
class FrameVariable:
    """A variable over (time, y, x) whose values are read when it is indexed."""

    dtype: str
    read: Reader
    attrs: Mapping[str, Any]


def frame_dataset(
    variables: Mapping[str, FrameVariable], times: list[datetime], grid: Grid, attrs: Mapping[str, Any]
) -> xr.Dataset:
    """Return a dataset over time, y and x."""
    dims, shape = ("time", "y", "x"), (len(times), len(grid.y), len(grid.x))
    chunks = dict(zip(dims, (1, *shape[1:]), strict=True))
    seconds = np.array([(time - _EPOCH).total_seconds() for time in times])
    names = (
        ("longitude", "latitude")
        if grid.units[0] == "degrees_east"
        else (
            "projection_x_coordinate",
            "projection_y_coordinate",
        )
    )
    dataset = xr.Dataset(
        {
            name: lazy_variable(dims, shape, variable.dtype, variable.read, variable.attrs, chunks)
            for name, variable in variables.items()
        },
        coords={
            "time": ("time", seconds, {"units": "seconds since 1970-01-01", "standard_name": "time"}),
            "y": ("y", grid.y, {"units": grid.units[1], "standard_name": names[1]}),
            "x": ("x", grid.x, {"units": grid.units[0], "standard_name": names[0]}),
            "crs": ((), np.int32(0), dict(grid.mapping)),
        },
        attrs=dict(attrs),
    )
    for name in variables:
        dataset[name].encoding["grid_mapping"] = "crs"
    return dataset


def rain_units(start: datetime | None, end: datetime | None) -> str:
    """Return the unit of a sum in mm over a period; "mm" if the period is not known."""
    seconds = 0 if start is None or end is None else (end - start).total_seconds()
    if seconds <= 0:
        return "mm"
    return f"mm/{seconds / 60:.0f}min" if seconds % 60 == 0 else f"mm/{seconds:.0f}s"


def read_time(source: str, text: str | None, form: str) -> datetime:
    """Return a time of a header or attribute."""
    try:
        return datetime.strptime(text or "", form)
    except ValueError as error:
        raise DataError(
            source, expected=f"a time as {form}", received=repr(text), hint="Choose a file of the whole product."
        ) from error
