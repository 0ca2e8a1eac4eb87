"""RADOLAN composites of DWD: an ASCII header, then a byte or two for each cell.

Source: RADOLAN/RADVOR Kompositformat, version 2.5, Deutscher Wetterdienst.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.formats.frame import RAIN, REFLECTIVITY, FrameVariable, Grid, frame_dataset, rain_units, read_time
from convlstm.data.formats.lazy import Key, outer
from convlstm.data.formats.projection import centres
from convlstm.data.formats.sizes import check_size
from convlstm.errors import DataError

HEADER = re.compile(rb"[A-Z][A-Z0-9]\d{6}[0-9]{5}\d{4}BY[ 0-9]{7}")
"""The beginning of a file."""

_MOST_HEADER = 4096
_REFLECTIVITIES = ("RX", "EX", "WX")
_SUMS = (
    *("RY", "RZ", "EY", "EZ", "YW", "RV", "RQ", "RE"),
    *("RH", "RB", "RW", "RL", "RU", "EH", "EB", "EW", "SQ", "SH", "SF", "W1", "W2", "W3", "W4"),
)
_VALUE, _NO_DATA, _NEGATIVE, _CLUTTER = 0x0FFF, 0x2000, 0x4000, 0x8000
_MISSING = -1
_NO_REFLECTIVITY, _CLUTTER_REFLECTIVITY = 250, 249
# by (rows, columns): cells of the lower left corner from 9° E, 51° N, to the west and south, and their size in km
_GRIDS = {
    (450, 450): (450, 450, 2.0),
    (460, 460): (460, 460, 2.0),
    (900, 900): (450, 450, 1.0),
    (1100, 900): (370, 550, 1.0),
    (1200, 1100): (470, 600, 1.0),
    (1500, 1400): (600, 800, 1.0),
    (4800, 4400): (470, 600, 0.25),
}
_RADIUS = 6370.04  # of the sphere, in km
_MAPPING = {
    "grid_mapping_name": "polar_stereographic",
    "straight_vertical_longitude_from_pole": 10.0,
    "latitude_of_projection_origin": 90.0,
    "standard_parallel": 60.0,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "earth_radius": 1000 * _RADIUS,
}


@dataclass(frozen=True)
class Header:
    """What the header of a file says."""

    product: str
    time: datetime  # of the end of the period, with the lead time of a forecast
    precision: float
    minutes: int  # of the period of a sum
    shape: tuple[int, int]
    data_start: int  # byte


def open_radolan(path: Path, max_bytes: int) -> xr.Dataset:
    """Open a product of rain sums (two bytes a cell) or of reflectivity (one byte), as packed numbers.

    The first row is the southernmost. Cells with the flags for no data or clutter are missing.
    """
    header = read_header(path)
    check_size(path, 4 * math.prod(header.shape), max_bytes)
    if header.product in _REFLECTIVITIES:
        codes = np.array([_CLUTTER_REFLECTIVITY, _NO_REFLECTIVITY], np.uint8)
        packing = {"scale_factor": 0.5, "add_offset": -32.5, "_FillValue": codes[1], "missing_value": codes}
        variable = FrameVariable("uint8", partial(_read, path, header), REFLECTIVITY | packing)
    else:
        start = header.time - timedelta(minutes=header.minutes)
        attrs: dict[str, Any] = RAIN | {
            "units": rain_units(start, header.time),
            "scale_factor": header.precision,
            "_FillValue": np.int16(_MISSING),
        }
        variable = FrameVariable("int16", partial(_read, path, header), attrs)
    attrs = {"title": f"RADOLAN {header.product}", "institution": "Deutscher Wetterdienst (DWD)"}
    return frame_dataset({header.product: variable}, [header.time], _grid(header.shape), attrs)


def read_header(path: Path) -> Header:
    """Return the header; a product that is not read, and a file that is too short, are errors."""
    with path.open("rb") as file:
        start, end, _ = file.read(_MOST_HEADER).partition(b"\x03")
    text = start.decode("ascii", "replace")
    product = text[:2]
    if product not in (*_SUMS, *_REFLECTIVITIES):
        raise DataError(
            str(path),
            expected=f"a RADOLAN product of {', '.join((*_SUMS, *_REFLECTIVITIES))}",
            received=product,
            hint="Choose another product.",
        )
    fields = text.partition("MS")[0]  # the names of radars follow
    size = re.search(r"GP\s*(\d+)x\s*(\d+)", fields)
    period = re.search(r"INT\s*(\d+)(?:U\s*(\d))?", fields)
    precision = re.search(r"PR\s*(E[-+]\d+)", fields)
    lead = re.search(r"VV\s*(\d+)", fields)
    if not end or size is None or period is None or precision is None:
        raise DataError(
            str(path),
            expected="a RADOLAN header with PR, INT and GP",
            received=repr(text[:80]),
            hint="Download the file again.",
        )
    shape = int(size[1]), int(size[2])
    if shape not in _GRIDS:
        known = ", ".join(f"{rows} × {columns}" for rows, columns in _GRIDS)
        raise DataError(
            str(path), expected=f"a grid of {known}", received=f"{shape[0]} × {shape[1]}", hint="Choose a composite."
        )
    needed = len(start) + 1 + math.prod(shape) * (1 if product in _REFLECTIVITIES else 2)
    if path.stat().st_size < needed:
        raise DataError(
            str(path),
            expected=f"{needed} bytes, as its header says",
            received=f"{path.stat().st_size} bytes",
            hint="Download the file again, because it is truncated.",
        )
    time = read_time(str(path), text[2:8] + text[13:17], "%d%H%M%m%y")
    minutes = int(period[1]) * (1440 if period[2] == "1" else 1)
    time += timedelta(minutes=int(lead[1]) if lead else 0)
    return Header(product, time, float(f"1{precision[1]}"), minutes, shape, len(start) + 1)


def _read(path: Path, header: Header, key: Key) -> NDArray[Any]:
    """Return packed numbers (time, y, x): int16 with -1 for no data, or uint8."""
    is_byte = header.product in _REFLECTIVITIES
    count = math.prod(header.shape)
    with path.open("rb") as file:
        file.seek(header.data_start)
        content = file.read(count * (1 if is_byte else 2))
    raw = np.frombuffer(content, np.uint8 if is_byte else "<u2").reshape(1, *header.shape)
    if is_byte:
        return outer(raw, key)
    values = (raw & _VALUE).astype(np.int16)
    values[(raw & (_NO_DATA | _NEGATIVE | _CLUTTER)) != 0] = _MISSING
    return outer(values, key)


def _grid(shape: tuple[int, int]) -> Grid:
    """Return the polar stereographic coordinates of the cells in m, on the sphere of RADOLAN."""
    west, south, size = _GRIDS[shape]
    latitude, longitude = np.radians(51.0), np.radians(9.0 - 10.0)
    scale = _RADIUS * (1 + np.sin(np.radians(60.0))) / (1 + np.sin(latitude)) * np.cos(latitude)
    left, bottom = scale * np.sin(longitude) - west, -scale * np.cos(longitude) - south
    return Grid(
        x=1000 * centres(left, size, shape[1]),
        y=1000 * centres(bottom, size, shape[0]),
        units=("m", "m"),
        mapping=_MAPPING,
    )
