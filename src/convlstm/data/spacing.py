"""The distance between cells of a grid, from its coordinates."""

from __future__ import annotations

import numpy as np
import xarray as xr

EARTH_RADIUS = 6_371_000.0
"""Mean radius of the Earth in metres."""

_METRES = dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 1.0) | dict.fromkeys(
    ("km", "kilometre", "kilometres", "kilometer", "kilometers"), 1000.0
)


def grid_spacing(grid: xr.Dataset, y_dim: str, x_dim: str) -> float | None:
    """Return the typical distance between neighbouring cells in metres, or None if the coordinates do not tell.

    Uses coordinates of a projection in m or km, else latitudes and longitudes of one or two dimensions.

    Args:
        grid: Spatial coordinates, such as `Frames.grid`.
        y_dim: Name of the dimension of rows.
        x_dim: Name of the dimension of columns.

    Returns:
        The geometric mean of the distances along rows and columns.

    Example:
        >>> x = ("x", [0.0, 2.0, 4.0], {"units": "km", "standard_name": "projection_x_coordinate"})
        >>> y = ("y", [0.0, 2.0], {"units": "km", "standard_name": "projection_y_coordinate"})
        >>> grid_spacing(xr.Dataset(coords={"x": x, "y": y}), "y", "x")
        2000.0
    """
    size = cell_size(grid, y_dim, x_dim)
    return None if size is None else float(np.sqrt(size[0] * size[1]))


def cell_size(grid: xr.Dataset, y_dim: str, x_dim: str) -> tuple[float, float] | None:
    """Return the typical height and width of a cell in metres, or None if the coordinates do not tell.

    The arguments are those of `grid_spacing`.

    Example:
        >>> lat, lon = ("lat", [60.0, 59.9], {"units": "degrees_north"}), ("lon", [9.0, 9.1], {"units": "degrees_east"})
        >>> height, width = cell_size(xr.Dataset(coords={"lat": lat, "lon": lon}), "lat", "lon")
        >>> round(width / height, 2)
        0.5
    """
    steps = [_projected_step(grid, dim) for dim in (y_dim, x_dim)]
    if steps[0] is not None and steps[1] is not None:
        return steps[0], steps[1]
    latitude, longitude = (find_geographic(grid, name) for name in ("latitude", "longitude"))
    if latitude is None or longitude is None:
        return None
    latitude, longitude = xr.broadcast(latitude, longitude)
    if set(latitude.dims) != {y_dim, x_dim}:
        return None
    phi, lam = (np.radians(c.transpose(y_dim, x_dim).values.astype(np.float64)) for c in (latitude, longitude))
    distances = []
    for axis in (0, 1):
        north = np.diff(phi, axis=axis)
        middle = phi[:-1] + north / 2 if axis == 0 else phi[:, :-1] + north / 2
        east = np.diff(lam, axis=axis) * np.cos(middle)
        distances.append(EARTH_RADIUS * np.median(np.hypot(north, east)))
    height, width = (float(distance) for distance in distances)
    return (height, width) if np.isfinite(height * width) and height * width > 0 else None


def is_south_first(grid: xr.Dataset, y_dim: str) -> bool:
    """Return whether the first row is the southern edge; row numbers without a unit do not tell.

    Example:
        >>> is_south_first(xr.Dataset(coords={"lat": (("y", "x"), [[50.0, 50.1], [51.0, 51.1]])}), "y")
        True
    """
    names = [str(name) for name in grid.coords if str(name).lower().startswith("lat")]
    if y_dim in grid.coords and grid[y_dim].attrs.get("units"):
        names.append(y_dim)
    for name in names:
        if y_dim in grid[name].dims:
            ends = [float(grid[name].isel({y_dim: place}).mean()) for place in (0, -1)]
            return ends[1] > ends[0]
    return False


def length_in_metres(units: str) -> float | None:
    """Return a unit of length in metres, or None for any other unit.

    Example:
        >>> length_in_metres("km")
        1000.0
    """
    return _METRES.get(units.strip().lower())


def _projected_step(grid: xr.Dataset, dim: str) -> float | None:
    """Return the step of a coordinate of a dimension in metres, if it has a unit of length."""
    coordinate = grid.coords.get(dim)
    if coordinate is None or coordinate.ndim != 1 or coordinate.size < 2:
        return None
    scale = length_in_metres(str(coordinate.attrs.get("units", "")))
    if scale is None:
        return None
    step = float(np.median(np.abs(np.diff(coordinate.values.astype(np.float64))))) * scale
    return step if np.isfinite(step) and step > 0 else None


def find_geographic(grid: xr.Dataset, name: str) -> xr.DataArray | None:
    """Return the coordinate with this standard name, unit or name."""
    units = {"latitude": "degrees_north", "longitude": "degrees_east"}[name]
    coordinate: xr.DataArray
    for key, coordinate in grid.coords.items():
        attrs = coordinate.attrs
        if (
            attrs.get("standard_name") == name
            or attrs.get("units") == units
            or str(key).rstrip("s") in (name, name[:3])
        ):
            return coordinate
    return None
