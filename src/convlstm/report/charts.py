"""Compute the geometry of small line charts; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.report.glossary import number
from convlstm.report.scales import round_ticks
from convlstm.verification.lead_times import signed


@dataclass(frozen=True)
class Geometry:
    """Size and margins of a chart, in the units of its drawing."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


GEOMETRY = Geometry(width=340, height=208, left=44, right=12, top=10, bottom=36)


@dataclass(frozen=True)
class Series:
    """One line with its values."""

    label: str  # name in the legend
    slot: int  # number of its colour and marker
    x: NDArray[np.float64]  # positions, ascending
    y: NDArray[np.float64]  # values, NaN where undefined
    lower: NDArray[np.float64]  # lower ends of the intervals, NaN where unknown
    upper: NDArray[np.float64]  # upper ends of the intervals, NaN where unknown
    notes: tuple[str, ...] = ()  # text of the tooltip of each point; a point with an empty text has no marker


@dataclass(frozen=True)
class Axis:
    """One axis: its ends and the marks between them."""

    ticks: tuple[tuple[float, str], ...]  # pairs of value and text, ascending
    start: float
    stop: float
    title: str = ""  # its quantity

    def share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return positions along the axis, from 0 (start) to 1 (stop), clipped to its ends; NaN is kept."""
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
class Guide:
    """A thin line behind the data, such as a line of equal CSI, with its text at the last point."""

    text: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Chart:
    """One small chart as drawn."""

    title: str  # heading, such as the threshold
    summary: str  # description of the chart for screen readers
    x_title: str  # quantity of the horizontal axis
    x_ticks: list[tuple[float, str]]  # pairs of place and text
    y_ticks: list[tuple[float, str]]  # pairs of place and text
    reference: float | None  # height of the line of the perfect value; None outside the chart
    lines: list[Line]  # in drawing order
    diagonal: str = ""  # SVG path of the line on which both axes have the same value; empty for none
    guides: tuple[tuple[str, float, float, str], ...] = ()  # SVG path of each guide, and the place of its text


def draw_chart(
    title: str,
    summary: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    reference: float | None = None,
    diagonal: bool = False,
    guides: Sequence[Guide] = (),
) -> Chart:
    """Return a chart of the series, the most important first: it is drawn on top.

    The chart is in the units of `GEOMETRY`, whose y runs downward; a horizontal line marks the value
    `reference`. `diagonal` marks where x and y are equal, and `guides` are further lines behind the data.
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
                [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1]) and point[2]],
            )
        )
    ends = np.array([x.start, x.stop])
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
        _join(_across(x, ends), _down(y, ends)) if diagonal else "",
        tuple(_draw_guide(guide, x, y) for guide in guides),
    )


def _draw_guide(guide: Guide, x: Axis, y: Axis) -> tuple[str, float, float, str]:
    across, down = _across(x, guide.x), _down(y, guide.y)
    return _join(across, down), float(across[-1]), float(down[-1]), guide.text


def value_axis(low: float, high: float) -> Axis:
    """Return a vertical axis between round numbers; its ends are ticks."""
    ticks = round_ticks(low, high, most=5)
    places = next(p for p in range(20) if all(math.isclose(t, round(t, p), abs_tol=1e-15) for t in ticks))
    return Axis(tuple((t, number(t, places)) for t in ticks), ticks[0], ticks[-1])


def log_axis(low: float, high: float) -> Axis:
    """Return a vertical axis with powers of ten, for log10 values; its ends are powers of ten."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    return Axis(tuple((float(p), f"{10.0**p:g}") for p in powers), float(powers[0]), float(powers[-1]))


def counting_axis(start: float, stop: float, title: str, *, unit: float = 1.0, steps: Sequence[float] = ()) -> Axis:
    """Return a horizontal axis that ends with the data, with up to seven numbers.

    `unit` is the value of one unit of the axis; `steps` are the distances between numbers to choose from, ascending, or
    empty for any round one. An axis without length is widened by one unit.
    """
    if stop <= start:
        start, stop = start - unit / 2, start + unit / 2
    low, high = start / unit, stop / unit
    step = next((step for step in steps if high - low <= 6 * step), None)
    marks = round_ticks(low, high, most=6) if step is None else step * np.arange(low // step, high // step + 1)
    ticks = tuple((float(m) * unit, signed(f"{m:.6g}")) for m in marks if low <= m <= high)
    return Axis(ticks, start, stop, title)


def ratio_axis(low: float, title: str) -> Axis:
    """Return a horizontal axis for log10 values of ratios up to 1, with 1, 2 and 5 of each power of ten."""
    numbers = [digit * 10.0**power for power in range(math.floor(low), 0) for digit in (1, 2, 5)] + [1.0]
    ticks = tuple((math.log10(n), f"{n:g}") for n in numbers if math.log10(n) >= low - 1e-9)
    return Axis(ticks, low, 0.0, title)


def doubling_axis(low: float, high: float, title: str) -> Axis:
    """Return a horizontal axis for log2 values, with the powers of two between its ends as numbers."""
    powers = range(math.ceil(low), math.floor(high) + 1)
    return Axis(tuple((float(p), f"{2.0**p:g}") for p in powers), low, high, title)


def wavelength_axis(longest: float, shortest: float, title: str) -> Axis:
    """Return a horizontal axis for −log2 of wavelengths: from long ones on the left to short ones on the right."""
    powers = range(math.floor(math.log2(longest)), math.ceil(math.log2(shortest)) - 1, -1)
    start, stop = -math.log2(longest), -math.log2(shortest)
    return Axis(tuple((-float(p), f"{2.0**p:g}") for p in powers), start, max(stop, start + 1), title)


def _across(axis: Axis, values: NDArray[np.float64]) -> NDArray[np.float64]:
    length = GEOMETRY.width - GEOMETRY.left - GEOMETRY.right
    return np.round(GEOMETRY.left + axis.share(values) * length, 1)


def _down(axis: Axis, values: NDArray[np.float64]) -> NDArray[np.float64]:
    base = GEOMETRY.height - GEOMETRY.bottom
    return np.round(base - axis.share(values) * (base - GEOMETRY.top), 1)


def _runs(y: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Return the indices of each part without undefined values, where a line is continuous."""
    known = np.flatnonzero(np.isfinite(y))
    return [run for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1) if run.size]


def _join(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{a:g},{b:g}" for a, b in zip(x, y, strict=True))


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(_join(x[run], y[run]) for run in _runs(x + y))


def _band(x: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64]) -> str:
    outlines = (
        _join(np.append(x[run], x[run][::-1]), np.append(upper[run], lower[run][::-1])) for run in _runs(lower + upper)
    )
    return " ".join(outline + "Z" for outline in outlines)
