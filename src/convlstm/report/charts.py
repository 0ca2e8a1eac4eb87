"""Compute the geometry of small line charts; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.verification.lead_times import signed

from .glossary import number
from .scales import round_ticks

WIDTH, HEIGHT = 340, 208
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 36


@dataclass(frozen=True)
class Series:
    """One line with its values.

    Args:
        label: Name in the legend.
        slot: Number of its colour and marker.
        x: Positions, ascending.
        y: Values, NaN where undefined.
        lower: Lower ends of the intervals, NaN where unknown.
        upper: Upper ends of the intervals, NaN where unknown.
        notes: Text of the tooltip of each point; empty for a line without points.
    """

    label: str
    slot: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axis:
    """One axis: its ends and the marks between them.

    Args:
        ticks: Pairs of value and text, ascending.
        start: First value of the axis.
        stop: Last value of the axis.
        title: Its quantity.
    """

    ticks: tuple[tuple[float, str], ...]
    start: float
    stop: float
    title: str = ""

    def share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return positions along the axis, clipped to its ends.

        Args:
            values: Values on the axis.

        Returns:
            Numbers from 0 (start) to 1 (stop), NaN kept.

        Example:
            >>> Axis((), 0.0, 4.0).share(np.array([1.0, 9.0])).tolist()
            [0.25, 1.0]
        """
        return (np.clip(values, self.start, self.stop) - self.start) / (self.stop - self.start)


@dataclass(frozen=True)
class Line:
    """One line as drawn: SVG paths of line and band, and points as (x, y, note)."""

    label: str
    slot: int
    path: str
    band: str
    points: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """One small chart as drawn.

    Args:
        title: Heading, such as the threshold.
        summary: Description of the chart for screen readers.
        x_title: Quantity of the horizontal axis.
        x_ticks: Pairs of place and text along the horizontal axis.
        y_ticks: Pairs of place and text along the vertical axis.
        reference: Height of the line of the perfect value where it lies inside the chart, or None.
        lines: The lines, in drawing order.
    """

    title: str
    summary: str
    x_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    reference: float | None
    lines: list[Line]


def draw_chart(
    title: str,
    summary: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    reference: float | None = None,
) -> Chart:
    """Return a chart of the series.

    Args:
        title: Heading.
        summary: Description of the chart.
        series: The lines, the most important first: it is drawn on top.
        x: Horizontal axis.
        y: Vertical axis.
        reference: Value marked by a horizontal line, or None.

    Returns:
        The chart, in units of a `WIDTH` × `HEIGHT` drawing whose y runs downward.

    Example:
        >>> none = np.full(2, np.nan)
        >>> rise = Series("a", 0, np.array([0.0, 1.0]), np.array([0.0, 1.0]), none, none)
        >>> axis = Axis(((0.0, "0"), (1.0, "1")), 0.0, 1.0)
        >>> draw_chart("", "", [rise], axis, axis).lines[0].path
        'M44,172L328,10'
    """
    lines = []
    for s in reversed(series):
        across, values = _across(x, s.x), _down(y, s.y)
        points = zip(across.tolist(), values.tolist(), s.notes, strict=False)
        lines.append(
            Line(
                s.label,
                s.slot,
                _path(across, values),
                _band(across, _down(y, s.lower), _down(y, s.upper)),
                [point for point in points if math.isfinite(point[1])],
            )
        )
    x_places = _across(x, np.array([value for value, _ in x.ticks]))
    y_places = _down(y, np.array([value for value, _ in y.ticks]))
    return Chart(
        title,
        summary,
        x.title,
        list(zip(x_places.tolist(), [text for _, text in x.ticks], strict=True)),
        list(zip(y_places.tolist(), [text for _, text in y.ticks], strict=True)),
        None if reference is None else float(_down(y, np.array(reference))),
        lines,
    )


def value_axis(low: float, high: float) -> Axis:
    """Return a vertical axis between round numbers.

    Args:
        low: Smallest value.
        high: Largest value.

    Returns:
        The axis, its ends being ticks.

    Example:
        >>> [text for _, text in value_axis(0.0, 1.0).ticks]
        ['0.0', '0.2', '0.4', '0.6', '0.8', '1.0']
    """
    ticks = round_ticks(low, high, most=5)
    places = next(p for p in range(20) if all(math.isclose(t, round(t, p), abs_tol=1e-15) for t in ticks))
    return Axis(tuple((t, number(t, places)) for t in ticks), ticks[0], ticks[-1])


def log_axis(low: float, high: float) -> Axis:
    """Return a vertical axis with powers of ten, for log10 values.

    Args:
        low: Smallest logarithm.
        high: Largest logarithm.

    Returns:
        The axis, its ends being powers of ten.

    Example:
        >>> [text for _, text in log_axis(-1.5, 0.3).ticks]
        ['0.01', '0.1', '1', '10']
    """
    powers = range(math.floor(low), math.ceil(high) + 1)
    return Axis(tuple((float(p), f"{10.0**p:g}") for p in powers), float(powers[0]), float(powers[-1]))


def counting_axis(start: float, stop: float, title: str, *, unit: float = 1.0, steps: Sequence[float] = ()) -> Axis:
    """Return a horizontal axis that ends with the data.

    Args:
        start: First value.
        stop: Last value.
        title: Its quantity.
        unit: Value of one unit of the axis.
        steps: Distances between numbers to choose from, ascending; empty for any round one.

    Returns:
        The axis, with up to seven numbers; one that would have no length is widened by one unit.

    Example:
        >>> [text for _, text in counting_axis(0.0, 2880.0, "Lead time (h)", unit=60.0, steps=(6, 12)).ticks]
        ['0', '12', '24', '36', '48']
    """
    if stop <= start:
        start, stop = start - unit / 2, start + unit / 2
    low, high = start / unit, stop / unit
    step = next((step for step in steps if high - low <= 6 * step), None)
    marks = round_ticks(low, high, most=6) if step is None else step * np.arange(low // step, high // step + 1)
    ticks = tuple((float(m) * unit, signed(f"{m:.6g}")) for m in marks if low <= m <= high)
    return Axis(ticks, start, stop, title)


def _across(axis: Axis, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(LEFT + axis.share(values) * (WIDTH - LEFT - RIGHT), 1)


def _down(axis: Axis, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(HEIGHT - BOTTOM - axis.share(values) * (HEIGHT - BOTTOM - TOP), 1)


def _runs(y: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Return the indices of each part without undefined values, where a line is continuous."""
    known = np.flatnonzero(np.isfinite(y))
    return [run for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if run.size]


def _join(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{a:g},{b:g}" for a, b in zip(x, y, strict=True))


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(_join(x[run], y[run]) for run in _runs(y))


def _band(x: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64]) -> str:
    outlines = (
        _join(np.append(x[run], x[run][::-1]), np.append(upper[run], lower[run][::-1])) for run in _runs(lower + upper)
    )
    return " ".join(outline + "Z" for outline in outlines)
