"""HDF5 files of KNMI: radar composites with the groups overview, geographic and image1, image2, ….

Source: H. Roozekrans and I. Holleman, KNMI HDF5 Data Format Specification, version 3.5.
"""

from __future__ import annotations

import re
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
from convlstm.data.formats.projection import centres, grid_mapping
from convlstm.errors import DataError

_FORMULA = re.compile(r"GEO=(?P<scale>[-+0-9.eE]+)\*PV(?P<offset>[-+][-+0-9.eE]+)?")
_PARAMETER = re.compile(r"(?P<name>.*?)_?\[(?P<unit>.*)\]")
_AUXILIARY = ("QUALITY", "ADJUSTMENT")  # images that describe another image
_TIME = "%d-%b-%Y;%H:%M:%S.%f"
_LENGTHS = {"KM": ("km", "km"), "M": ("m", "m"), "DEG": ("degrees_east", "degrees_north")}


def open_knmi(path: Path, max_bytes: int) -> xr.Dataset:
    """Open the images of rain or reflectivity, as packed numbers; a forecast file has one image for each time."""
    with hdf5.open_hdf5(path) as file:
        overview = hdf5.child(file, "overview")
        start, end = (
            read_time(str(path), hdf5.text(overview, f"product_datetime_{name}"), _TIME) for name in ("start", "end")
        )
        groups: dict[str, list[tuple[str, Any]]] = {}
        for name, image in hdf5.children(file, "image"):
            parameter = hdf5.text(image, "image_geo_parameter") or ""
            if not parameter.startswith(_AUXILIARY):
                groups.setdefault(parameter, []).append((name, image))
        times = _times(path, next(iter(groups.values()), []), end)
        variables = {}
        for parameter, images in groups.items():
            if _times(path, images, end) != times:
                raise DataError(
                    str(path),
                    expected="images of one product, or one for each time",
                    received=f"{len(images)} images of {parameter or 'no parameter'}",
                    hint="Choose another product.",
                )
            name, variable = _variable(path, parameter, images, rain_units(start, end), max_bytes)
            variables[name] = variable
        if not variables:
            raise DataError(
                str(path), expected="an image of rain or reflectivity", received="none", hint="Choose another product."
            )
        grid = _grid(path, file, hdf5.check_dataset(hdf5.member(images[0][1], "image_data"), max_bytes))
        attrs = {
            "title": hdf5.text(overview, "product_group_name") or "KNMI radar",
            "institution": "KNMI, Royal Netherlands Meteorological Institute",
        }
        return frame_dataset(variables, times, grid, attrs)


def _times(path: Path, images: list[tuple[str, Any]], end: datetime) -> list[datetime]:
    """Return the valid time of each image; one image alone has the end of the product."""
    texts = [hdf5.text(image, "image_datetime_valid") for _, image in images]
    if len(texts) == 1 and texts[0] is None:
        return [end]
    return [read_time(str(path), text, _TIME) for text in texts]


def _variable(
    path: Path, parameter: str, images: list[tuple[str, Any]], sum_units: str, max_bytes: int
) -> tuple[str, FrameVariable]:
    """Return name and packed numbers of a parameter such as PRECIP_[MM]."""
    match = _PARAMETER.fullmatch(parameter)
    name = (match["name"] if match else parameter).lower() or "image"
    unit = {"MM": sum_units, "MM/H": "mm/h", "DBZ": "dBZ"}.get(match["unit"].upper() if match else "", "")
    packings = [_packing(path, image) for _, image in images]
    arrays = [hdf5.member(image, "image_data") for _, image in images]
    if len(set(packings)) > 1 or len({(array.dtype, hdf5.check_dataset(array, max_bytes)) for array in arrays}) > 1:
        raise DataError(
            str(path),
            expected="images of one size and calibration",
            received=f"several of {parameter}",
            hint="Choose another product.",
        )
    scale, offset, *codes = packings[0]
    attrs = (RAIN if unit.startswith("mm") else REFLECTIVITY if unit == "dBZ" else {}) | {
        "units": unit or (match["unit"] if match else ""),
        "long_name": parameter,
        "scale_factor": scale,
        "add_offset": offset,
        "_FillValue": arrays[0].dtype.type(codes[0]),
        # as `missing_value` too: a code of 0 is one that the file declares
        "missing_value": np.unique(np.array(codes)).astype(arrays[0].dtype),
    }
    read = partial(_read, path, [name for name, _ in images])
    return name, FrameVariable(arrays[0].dtype.str, read, attrs)


def _packing(path: Path, image: Any) -> tuple[float, ...]:
    """Return scale, offset, and the numbers for missing data and for cells outside the image."""
    calibration = hdf5.child(image, "calibration")
    formula = (hdf5.text(calibration, "calibration_formulas") or "").replace(" ", "").replace("+-", "-")
    match = _FORMULA.fullmatch(formula)
    if match is None:
        raise DataError(
            str(path),
            expected="a calibration such as GEO=0.01*PV+0.0",
            received=repr(formula[:60]),
            hint="Choose another product.",
        )
    codes = (hdf5.required(calibration, f"calibration_{name}", path) for name in ("missing_data", "out_of_image"))
    return float(match["scale"]), float(match["offset"] or 0), *codes


def _read(path: Path, names: list[str], key: Key) -> NDArray[Any]:
    chosen = np.arange(len(names))[key[0]]
    with hdf5.open_hdf5(path) as file:
        frames = [hdf5.member(file, f"{names[index]}/image_data")[()] for index in np.atleast_1d(chosen)]
    if np.ndim(chosen) == 0:
        return outer(frames[0], key[1:])
    stacked = np.stack(frames) if frames else np.zeros((0, 0, 0))
    return outer(stacked, (slice(None), *key[1:]))


def _grid(path: Path, file: Any, shape: tuple[int, int]) -> Grid:
    """Return the coordinates; offsets are in cells."""
    geographic = hdf5.child(file, "geographic")
    step_x, step_y, columns, rows = (
        hdf5.required(geographic, f"geo_{name}", path)
        for name in ("pixel_size_x", "pixel_size_y", "column_offset", "row_offset")
    )
    projection = hdf5.text(hdf5.child(file, "geographic/map_projection"), "projection_proj4_params")
    if projection is None:
        raise hdf5.missing_attribute(path, "projection_proj4_params")
    # files before 2010 have the axes of the ellipsoid in km, and a parameter without its plus sign
    projection = re.sub(r" y_0", " +y_0", projection)
    projection = re.sub(r"\+(a|b)=(6\d{3}\.\d+)(?= |$)", _axis_in_metres, projection)
    dim = (hdf5.text(geographic, "geo_dim_pixel") or "KM,KM").split(",")[0]
    return Grid(
        x=centres(columns * step_x, step_x, shape[1]),
        y=centres(rows * step_y, step_y, shape[0]),
        units=_LENGTHS.get(dim.upper(), ("km", "km")),
        mapping=grid_mapping(projection, hdf5.EXTRA, str(path)),
    )


def _axis_in_metres(match: re.Match[str]) -> str:
    return f"+{match[1]}={1000 * float(match[2]):.1f}"
