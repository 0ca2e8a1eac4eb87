"""Write a forecast as a GeoTIFF for geographic information systems, one band per lead time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.spacing import length_in_metres
from convlstm.errors import DataError, DependencyError, install
from convlstm.files import write_atomic

_UNEVEN = 1e-3  # largest deviation of a step from the mean one, as a share of it
_HINT = "Write a NetCDF file instead, or add the grid mapping to the input."


def write_geotiff(path: str | Path, forecast: xr.Dataset) -> Path:
    """Write the first variable of a forecast atomically as a GeoTIFF of float32, with NaN for no data.

    Bands are in the order of the lead times, and each has its lead time and valid time as description. The first row is
    the northern edge.

    Args:
        path: The file to write.
        forecast: The result of `make_forecast`.

    Returns:
        The path.

    Raises:
        DependencyError: if rasterio or pyproj is not installed.
        DataError: if the grid has neither a projection nor evenly spaced latitudes and longitudes.
    """
    load_libraries()
    import rasterio
    from affine import Affine

    field, crs = _north_up(forecast)
    y, x = (field[dim].values.astype(np.float64) for dim in field.dims[-2:])
    step_y, step_x = (y[-1] - y[0]) / (len(y) - 1), (x[-1] - x[0]) / (len(x) - 1)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": "float32",
        "count": field.sizes["lead_time"],
        "height": len(y),
        "width": len(x),
        "crs": rasterio.crs.CRS.from_wkt(crs),
        "transform": Affine(step_x, 0, x[0] - step_x / 2, 0, step_y, y[0] - step_y / 2),
        "nodata": np.nan,
        "compress": "deflate",
        "predictor": 3,
        "tiled": True,
        "bigtiff": "if_safer",
    }

    def write(draft: Path) -> None:
        with rasterio.open(draft, "w", **profile) as file:
            file.write(field.values.astype(np.float32, copy=False))
            file.update_tags(**{key: str(text) for key, text in forecast.attrs.items() if key != "Conventions"})
            file.units = [str(field.attrs.get("units", ""))] * field.sizes["lead_time"]
            for band, (lead, valid) in enumerate(_times(field), start=1):
                file.set_band_description(band, f"{field.name} +{lead:g} min, {valid}")
                file.update_tags(band, lead_time_minutes=f"{lead:g}", valid_time=valid)

    return write_atomic(path, write)


def load_libraries() -> None:
    """Import rasterio and pyproj, or raise a `DependencyError`.

    pyproj must be loaded before eccodes, which reads GRIB: in the other order both libraries crash the process.
    """
    if "eccodes" in sys.modules and "pyproj" not in sys.modules:
        raise DependencyError(
            "pyproj",
            expected="an import before that of eccodes, since it would crash the process now",
            received="eccodes, which is loaded already",
            hint="Write `import pyproj` before the GRIB file is opened.",
        )
    try:
        import pyproj  # noqa: F401
        import rasterio  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            "GeoTIFF",
            expected="rasterio and pyproj installed",
            received=f"no module {error.name!r}",
            hint=f"Run: {install('geotiff')}.",
        ) from error


def _north_up(forecast: xr.Dataset) -> tuple[xr.DataArray, str]:
    """Return the first variable with coordinates in the unit of its reference system, and that system as WKT."""
    name = next(iter(forecast.data_vars))
    field = forecast[name]
    y, x = field.dims[-2:]
    for dim in (y, x):
        if dim not in field.coords or field.sizes[dim] < 2:
            raise _no_grid(f"no coordinates along {dim}" if dim not in field.coords else f"one cell along {dim}")
        steps = np.diff(field[dim].values.astype(np.float64))
        if np.abs(steps - steps.mean()).max() > _UNEVEN * abs(steps.mean()):
            raise _no_grid(f"uneven steps along {dim}")
    crs, scales = _reference_system(forecast, field)
    field = field.assign_coords({dim: _scaled(field[dim], scales[dim]) for dim in (y, x)})
    if field[y].values[-1] > field[y].values[0]:
        field = field.isel({y: slice(None, None, -1)})
    if field[x].values[-1] < field[x].values[0]:
        field = field.isel({x: slice(None, None, -1)})
    return field, crs


def _reference_system(forecast: xr.Dataset, field: xr.DataArray) -> tuple[str, dict[Any, float]]:
    """Return the coordinate reference system as WKT, and the factor of the coordinates of each dimension."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    y, x = field.dims[-2:]
    units = {dim: str(field[dim].attrs.get("units", "")) for dim in (y, x)}
    mapping = field.encoding.get("grid_mapping", field.attrs.get("grid_mapping"))
    if mapping in forecast.variables:
        try:
            system = CRS.from_cf(dict(forecast[mapping].attrs))
        except (CRSError, KeyError, ValueError, TypeError) as error:
            received = f"{mapping}: {' '.join(str(error).split())[:120]}"
            raise _no_grid(received) from error
        scales = {dim: length_in_metres(unit) or 1.0 for dim, unit in units.items()}
        return system.to_wkt(), scales
    is_latitude = field[y].attrs.get("standard_name") == "latitude" or units[y] == "degrees_north"
    is_longitude = field[x].attrs.get("standard_name") == "longitude" or units[x] == "degrees_east"
    if is_latitude and is_longitude:
        return CRS.from_epsg(4326).to_wkt(), {y: 1.0, x: 1.0}
    raise _no_grid(f"no grid mapping, and {y} and {x} in {units[y] or 'no unit'}")


def _scaled(coordinate: xr.DataArray, factor: float) -> tuple[Any, NDArray[np.float64]]:
    return coordinate.dims, coordinate.values.astype(np.float64) * factor


def _times(field: xr.DataArray) -> list[tuple[float, str]]:
    """Return lead time in minutes and valid time of each band."""
    minutes = field["lead_time"].values / np.timedelta64(60, "s")
    return [
        (float(lead), str(valid)[:19].replace(" ", "T") + "Z")
        for lead, valid in zip(minutes, field["time"].values, strict=True)
    ]


def _no_grid(received: str) -> DataError:
    return DataError(
        "GeoTIFF",
        expected="a grid with a projection, or with evenly spaced latitudes and longitudes",
        received=received,
        hint=_HINT,
    )
