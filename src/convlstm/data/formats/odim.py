"""ODIM HDF5: composites and other Cartesian products of weather radar.

Source: OPERA Data Information Model for HDF5, version 2.4, EUMETNET.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.formats import hdf5
from convlstm.data.formats.frame import RAIN, REFLECTIVITY, FrameVariable, Grid, frame_dataset, rain_units, read_time
from convlstm.data.formats.lazy import Key, outer
from convlstm.data.formats.projection import centres, grid_mapping, is_geographic, to_metres
from convlstm.errors import DataError

NO_ECHO = -32.0
"""Reflectivity in dBZ of a cell that was observed and has no echo; far below any echo of rain."""

_POLAR = {"PVOL", "SCAN", "RAY", "AZIM", "ELEV", "XSEC", "VP", "PIC", "CVOL"}
_REFLECTIVITIES = ("DBZH", "DBZV", "TH", "TV", "DBZ")
_TIME = "%Y%m%d%H%M%S"


def open_odim(path: Path, max_bytes: int) -> xr.Dataset:
    """Open the quantities RATE, ACRR and DBZH of a Cartesian product, as float32 with NaN for no data.

    Cells without an echo (`undetect`) have rain 0 and reflectivity `NO_ECHO`.
    """
    with hdf5.open_hdf5(path) as file:
        what = hdf5.child(file, "what")
        kind = hdf5.text(what, "object")
        if kind in _POLAR:
            raise DataError(
                str(path),
                expected="a composite or another Cartesian product",
                received=f"an ODIM file of the object {kind}",
                hint="Grid it first, for example with wradlib or Py-ART.",
            )
        time = _time(path, what, "")
        variables: dict[str, FrameVariable] = {}
        shape, found = None, []
        for dataset_name, dataset in hdf5.children(file, "dataset"):
            for data_name, data in hdf5.children(dataset, "data"):
                nodes = (hdf5.child(data, "what"), hdf5.child(dataset, "what"))
                quantity = _first(nodes, "quantity") or ""
                found.append(quantity)
                attrs = _attributes(path, quantity, nodes[1])
                values = hdf5.child(data, "data")
                if attrs is None or values is None:
                    continue
                sizes = hdf5.check_dataset(values, max_bytes)
                if shape not in (None, sizes):
                    raise _two_grids(path)
                shape = sizes
                name = quantity if quantity not in variables else f"{quantity}_{dataset_name}_{data_name}"
                packing = tuple(_number(nodes, key, path) for key in ("gain", "offset", "nodata", "undetect"))
                read = partial(
                    _read,
                    path,
                    f"{dataset_name}/{data_name}/data",
                    packing,
                    NO_ECHO if quantity in _REFLECTIVITIES else 0.0,
                )
                variables[name] = FrameVariable("float32", read, attrs)
        if shape is None:
            raise DataError(
                str(path),
                expected=f"a quantity of rain or reflectivity (RATE, ACRR, {', '.join(_REFLECTIVITIES)})",
                received=", ".join(found) or "no data",
                hint="Choose another product.",
            )
        where = [hdf5.child(file, "where"), hdf5.child(file, "dataset1/where")]
        grid = _grid(path, where, shape)
        source = hdf5.text(what, "source") or ""
        return frame_dataset(variables, [time], grid, {"source": f"ODIM HDF5 {kind or ''} {source}".strip()})


def _attributes(path: Path, quantity: str, what: Any) -> dict[str, str] | None:
    """Return the CF attributes of a quantity, or None for one that is not read."""
    if quantity == "RATE":
        return RAIN | {"units": "mm/h"}
    if quantity == "ACRR":
        return RAIN | {"units": rain_units(_time(path, what, "start"), _time(path, what, "end"))}
    return dict(REFLECTIVITY) if quantity in _REFLECTIVITIES else None


def _read(path: Path, name: str, packing: tuple[float | None, ...], no_echo: float, key: Key) -> NDArray[np.float32]:
    """Return values in the unit of the quantity, NaN for no data."""
    gain, offset, no_data, undetect = packing
    with hdf5.open_hdf5(path) as file:
        packed = hdf5.member(file, name)[()]
    values = packed.astype(np.float64) * (1.0 if gain is None else gain) + (offset or 0.0)
    if undetect is not None:
        values[packed == undetect] = no_echo
    if no_data is not None:
        values[packed == no_data] = np.nan
    return outer(values.astype(np.float32)[None], key)


def _grid(path: Path, where: list[Any], shape: tuple[int, int]) -> Grid:
    """Return the coordinates; the first row is the northernmost."""
    projection = _first(where, "projdef")
    if projection is None:
        raise hdf5.missing_attribute(path, "where/projdef")
    rows, columns = shape
    corners = {
        corner: (_required(where, f"{corner}_lon", path), _required(where, f"{corner}_lat", path))
        for corner in ("LL", "UR")
    }
    if is_geographic(projection, hdf5.EXTRA, str(path)):
        (left, bottom), (right, top) = corners["LL"], corners["UR"]
        units = ("degrees_east", "degrees_north")
    else:
        left, bottom = to_metres(projection, corners["LL"], hdf5.EXTRA, str(path))
        right, top = to_metres(projection, corners["UR"], hdf5.EXTRA, str(path))
        units = ("m", "m")
    return Grid(
        x=centres(left, (right - left) / columns, columns),
        y=centres(top, (bottom - top) / rows, rows),
        units=units,
        mapping=grid_mapping(projection, hdf5.EXTRA, str(path)),
    )


def _time(path: Path, node: Any, prefix: str) -> datetime:
    """Return the nominal time, or the start or end of a dataset."""
    parts = [hdf5.text(node, f"{prefix}{name}") or "" for name in ("date", "time")]
    return read_time(str(path), "".join(parts), _TIME)


def _first(nodes: Any, name: str) -> str | None:
    return next((value for node in nodes if (value := hdf5.text(node, name)) is not None), None)


def _number(nodes: Any, name: str, path: Path) -> float | None:
    return next((value for node in nodes if (value := hdf5.number(node, name)) is not None), None)


def _required(nodes: Any, name: str, path: Path) -> float:
    value = _number(nodes, name, path)
    if value is None:
        raise hdf5.missing_attribute(path, f"where/{name}")
    return value


def _two_grids(path: Path) -> DataError:
    return DataError(
        str(path),
        expected="one grid for all quantities",
        received="data of two sizes",
        hint="Write the quantity to a file of its own.",
    )
