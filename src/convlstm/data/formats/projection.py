"""Coordinates of a grid from the text of its projection, with pyproj."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.formats.packages import load_package
from convlstm.errors import DataError


def grid_mapping(projection: str, extra: str, source: str) -> dict[str, Any]:
    """Return the attributes of a CF grid mapping."""
    return _attributes(_crs(projection, extra, source))


def to_metres(projection: str, point: tuple[float, float], extra: str, source: str) -> tuple[float, float]:
    """Return x and y in metres of a point (longitude, latitude)."""
    crs = _crs(projection, extra, source)
    x, y = load_package("pyproj", extra, source).Proj(crs)(*point)
    factor = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    return x * factor, y * factor


def is_geographic(projection: str, extra: str, source: str) -> bool:
    """Return whether the axes are longitude and latitude."""
    return bool(_crs(projection, extra, source).is_geographic)


def centres(first_edge: float, size: float, count: int) -> NDArray[np.float64]:
    """Return the centres of cells of one size, from the outer edge of the first; a negative size runs downward."""
    return np.asarray(first_edge + size * (np.arange(count) + 0.5), np.float64)


@lru_cache(maxsize=8)  # many files have one projection
def _attributes(crs: Any) -> dict[str, Any]:
    return {name: value for name, value in crs.to_cf().items() if isinstance(value, str | int | float | list | tuple)}


@lru_cache(maxsize=8)
def _parsed(projection: str) -> Any:
    from pyproj import CRS

    return CRS.from_user_input(projection)


def _crs(projection: str, extra: str, source: str) -> Any:
    pyproj = load_package("pyproj", extra, source)
    try:
        return _parsed(projection)
    except pyproj.exceptions.CRSError as error:
        raise DataError(
            source,
            expected="a projection that PROJ knows",
            received=repr(projection[:100]),
            hint="Correct the projection in the file.",
        ) from error
