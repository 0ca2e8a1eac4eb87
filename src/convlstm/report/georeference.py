"""The places of the map cells: coordinates to read, lines of a grid over the maps, and a scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import contourpy
import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convlstm.data.spacing import cell_size, find_geographic, length_in_metres
from convlstm.report.scales import round_down
from convlstm.verification.lead_times import signed

NODES = 17
"""Rows and columns of two-dimensional coordinates inside the page; the script interpolates between them."""

_LINES = 4  # at most, along each axis
_MOST_DECIMALS = 4
_EDGE = 0.04  # share of a side within which a label would leave the map


@dataclass(frozen=True)
class Label:
    """The label of a line at the edge of a map, in percent of its sides from the upper left."""

    text: str
    left: float
    top: float
    secondary: bool = False  # whether a narrow map leaves it out


@dataclass(frozen=True)
class ScaleBar:
    """A length on the map."""

    text: str
    width: float  # percent of the width of the map


@dataclass(frozen=True)
class Axis:
    """One coordinate of the cells (row, column)."""

    name: str  # "x", "y", or empty for degrees
    units: str
    positive: str  # suffix of values from 0 on, such as "° N"
    negative: str  # suffix of values below 0, which are then written without a sign; empty for a sign
    values: NDArray[np.float64]

    def text(self, value: float) -> str:
        """Return a value in words, such as `52° N`."""
        if self.negative:
            value = value if self.positive == "° N" else (value + 180.0) % 360.0 - 180.0
            return f"{abs(value):g}{self.negative if value < 0 else self.positive}"
        return f"{signed(f'{value:g}')} {self.units}".rstrip()


@dataclass(frozen=True)
class Georeference:
    """What is known about the places of the cells."""

    axes: tuple[Axis, Axis] | tuple[()]  # up or down, then across; empty without coordinates
    extent: str  # the area in words, or an empty text
    paths: list[str]  # SVG paths of the lines, in percent of the sides
    labels: list[Label]
    scale_bar: ScaleBar | None

    def to_json(self) -> dict[str, Any] | None:
        """Return the coordinates at some rows and columns, for the script; None without any."""
        if not self.axes:
            return None
        is_plain = all((a.values == a.values[:, :1]).all() or (a.values == a.values[:1]).all() for a in self.axes)
        rows, columns = (_nodes(size, size if is_plain else NODES) for size in self.axes[0].values.shape)
        axes = []
        for axis in self.axes:
            values = axis.values[np.ix_(rows, columns)]
            decimals = _decimals(axis.values)
            along_rows, along_columns = (values == values[:, :1]).all(), (values == values[:1]).all()
            values = values[:, :1] if along_rows else values[:1] if along_columns else values
            axes.append(
                {
                    "name": axis.name,
                    "units": axis.units,
                    "positive": axis.positive,
                    "negative": axis.negative,
                    "decimals": decimals,
                    "rows": rows if values.shape[0] > 1 else [0],
                    "columns": columns if values.shape[1] > 1 else [0],
                    "values": np.round(values, decimals + 1).ravel().tolist(),
                }
            )
        return {"axes": axes}


def georeference(cases: xr.Dataset) -> Georeference:
    """Return the places of the cells of maps on dimensions y and x, north up, from their coordinates."""
    shape = (cases.sizes["y"], cases.sizes["x"])
    axes = _axes(cases, shape)
    cell = cell_size(cases.coords.to_dataset(), "y", "x")
    bar = None if cell is None else _scale_bar(cell[1], shape[1])
    if not axes or min(shape) < 2:
        return Georeference(axes, _size(cell, shape), [], [], bar)
    paths: list[str] = []
    labels: list[Label] = []
    for axis, upright in zip(axes, (False, True), strict=True):
        secondary = True
        for value, lines in _lines(axis.values):
            paths += ["M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in line) for line in lines]
            label = _label(axis.text(value), lines, upright=upright)
            if label is not None:
                secondary = not secondary
                labels.append(replace(label, secondary=secondary))
    parts = [_size(cell, shape), *(_range(axis) for axis in reversed(axes))]
    return Georeference(axes, ", ".join(filter(None, parts)), paths, labels, bar)


def _axes(cases: xr.Dataset, shape: tuple[int, int]) -> tuple[Axis, Axis] | tuple[()]:
    """Return latitude and longitude, else the coordinates of a projection with units; empty without either."""
    grid = cases.coords.to_dataset()
    latitude, longitude = find_geographic(grid, "latitude"), find_geographic(grid, "longitude")
    if latitude is not None and longitude is not None:
        north, east = (_on_grid(values, shape) for values in (latitude, longitude))
        if north is not None and east is not None:
            east = np.unwrap(np.unwrap(east, period=360.0, axis=1), period=360.0, axis=0)
            return Axis("", "°", "° N", "° S", north), Axis("", "°", "° E", "° W", east)
    down, across = (_on_grid(grid[name], shape) if name in grid else None for name in ("y", "x"))
    if down is None or across is None or not all(grid[name].attrs.get("units") for name in ("y", "x")):
        return ()
    axes = []
    for name, values in (("y", down), ("x", across)):
        units = str(grid[name].attrs["units"])
        metres = length_in_metres(units)
        if metres is not None:
            axes.append(Axis(name, "km", "", "", values / (1000.0 / metres)))
        else:
            axes.append(Axis(name, units, "", "", values))
    return axes[0], axes[1]


def _on_grid(values: xr.DataArray, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return a coordinate on every cell; None if it is not on the grid, is not a number, or is missing somewhere."""
    if not set(values.dims) <= {"y", "x"} or values.ndim == 0 or values.dtype.kind not in "fiu":
        return None
    grid = xr.DataArray(np.empty(shape), dims=("y", "x"))
    spread = xr.DataArray(values.values, dims=values.dims).broadcast_like(grid).transpose("y", "x")
    result: NDArray[np.float64] = spread.values.astype(np.float64)
    return result if np.isfinite(result).all() else None


def _lines(values: NDArray[np.float64]) -> list[tuple[float, list[NDArray[np.float64]]]]:
    """Return the round values inside the map, with their lines (point, 2) in percent of the sides."""
    height, width = values.shape
    x = (np.arange(width) + 0.5) / width * 100.0
    y = (np.arange(height) + 0.5) / height * 100.0
    generator = contourpy.contour_generator(x, y, values)
    low, high = float(values.min()), float(values.max())
    ticks = MaxNLocator(nbins=_LINES, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    lines_of_ticks = []
    for tick in np.round(ticks, 10):
        lines = [np.asarray(line)[_nodes(len(line), NODES)] for line in generator.lines(tick) if len(line) > 1]
        if lines:
            lines_of_ticks.append((float(tick), lines))
    return lines_of_ticks


def _label(text: str, lines: Sequence[NDArray[np.float64]], *, upright: bool) -> Label | None:
    """Return the label of a line where it meets the lower edge (of an upright line) or the left edge."""
    points = np.concatenate(list(lines))
    point = points[points[:, 1].argmax()] if upright else points[points[:, 0].argmin()]
    place = point[0] if upright else point[1]
    reaches = point[1] > 90 if upright else point[0] < 10
    if not reaches or not 100 * _EDGE < place < 100 * (1 - _EDGE):
        return None
    return Label(text, round(float(point[0]), 1), 100.0) if upright else Label(text, 0.0, round(float(point[1]), 1))


def _scale_bar(cell_width: float, columns: int) -> ScaleBar | None:
    """Return a round length of about a quarter of the map."""
    width = cell_width * columns / 1000.0
    length = round_down(width / 4)
    return ScaleBar(f"{length:g} km", round(100 * length / width, 2))


def _size(cell: tuple[float, float] | None, shape: tuple[int, int]) -> str:
    if cell is None:
        return ""
    height, width = (f"{length * count / 1000:.3g}" for length, count in zip(cell, shape, strict=True))
    return f"{width} × {height} km"


def _range(axis: Axis) -> str:
    """Return the range of a coordinate in words, such as `x 75.5 km to 170 km`."""
    low, high = (axis.text(float(f"{end:.4g}")) for end in (axis.values.min(), axis.values.max()))
    return f"{axis.name} {low} to {high}".strip()


def _decimals(values: NDArray[np.float64]) -> int:
    """Return the decimals that write every value to a hundredth of the distance between cells, at most 4."""
    steps = np.concatenate([np.abs(np.diff(values, axis=axis)).ravel() for axis in (0, 1)])
    steps = steps[steps > 0]
    if not steps.size:
        return 2
    step = float(np.median(steps))
    fewest = int(np.clip(np.ceil(-np.log10(step)), 0, _MOST_DECIMALS))
    exact = (d for d in range(fewest, fewest + 2) if np.abs(values - np.round(values, d)).max() <= step / 100)
    return min(next(exact, fewest + 1), _MOST_DECIMALS)


def _nodes(size: int, most: int) -> list[int]:
    return [int(n) for n in np.unique(np.linspace(0, size - 1, min(size, most)).round())]
