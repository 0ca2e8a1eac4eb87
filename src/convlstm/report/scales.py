"""Colour scales: classes of values and their colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convlstm.verification.lead_times import signed

MISSING = "#b4b8bb"  # a neutral grey that no scale uses
MISSING_DARK = "#5d666d"  # on a dark page
FINEST = 60  # classes of a scale that looks continuous; few enough for a palette

# Blues that darken up to 5 mm/h, then yellow to dark purple: light to dark within both halves, and the step
# between them is blue to yellow, which every common colour vision tells apart (no red against green).
_RAIN = (
    (0.1, "#cfe5f4"),
    (0.2, "#a5cee9"),
    (0.5, "#6dafd9"),
    (1.0, "#3787c0"),
    (2.0, "#1c5a99"),
    (5.0, "#ffe04a"),
    (10.0, "#fdab2f"),
    (20.0, "#f0622d"),
    (50.0, "#c81e3f"),
    (100.0, "#74094f"),
)
_DRY = "#f4f6f7"
# On a dark page the lowest class is dark, so that maps do not glare, and the blues brighten towards 5 mm/h.
_RAIN_DARK = (
    *("#26465f", "#2b5a80", "#3277a6", "#4b9bd1", "#93cbf0"),
    *("#ffe04a", "#fdab2f", "#f0622d", "#d83a56", "#b04a9e"),
)
_DRY_DARK = "#20292f"
_ERROR_DARK = ("#f0b45c", "#a86f22", _DRY_DARK, "#1f8577", "#62d6c2")  # too dry to too wet
_DIFFERENCE_DARK = ("#7cc0f5", "#2f6fa8", _DRY_DARK, "#a8423b", "#f2907f")  # too low to too high
_RAIN_ERRORS = (0.5, 1.0, 2.0, 5.0, 10.0)
_RATIOS = (1.1, 1.25, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Scale:
    """Classes of value and their colours."""

    edges: tuple[float, ...]  # ascending; class k has edges[k-1] <= value < edges[k], the outer two are open
    colours: tuple[str, ...]  # one `#rrggbb` per class, one more than edges
    ticks: tuple[float, ...]  # the edges with a label in the legend
    units: str
    dark_colours: tuple[str, ...] = ()  # colours on a dark page; empty for the same ones

    def classify(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the class of each value; missing values have class `len(colours)`."""
        classes = np.digitize(values, self.edges)
        return np.where(np.isnan(values), len(self.colours), classes).astype(np.uint8)

    def palette(self) -> tuple[str, ...]:
        """Return the colours by class number, with missing data last."""
        return (*self.colours, MISSING)

    def dark_palette(self) -> tuple[str, ...]:
        """Return the colours on a dark page by class number, with missing data last."""
        return (*(self.dark_colours or self.colours), MISSING_DARK)

    def labels(self) -> list[str]:
        """Return the meaning of each class by class number with the unit, with missing data last."""
        edges = [signed(f"{edge:.4g}") for edge in self.edges]
        unit = f" {self.units}" if self.units else ""
        between = [f"{low} to {high}{unit}" for low, high in pairwise(edges)]
        return [f"below {edges[0]}{unit}", *between, f"{edges[-1]}{unit} or more", "no data"]

    def marks(self) -> list[tuple[float, str]]:
        """Return the numbers of the legend: position from 0 to 1 along the bar of equally wide classes, and text."""
        written = {tick: signed(f"{tick:.6g}") for tick in self.ticks}
        return [((k + 1) / len(self.colours), written[e]) for k, e in enumerate(self.edges) if e in written]


def rain_scale(units: str) -> Scale:
    """Return the radar scale for rain rates: ten classes from 0.1 to 100 and more, and dry below."""
    edges = tuple(edge for edge, _ in _RAIN)
    return Scale(edges, (_DRY, *(colour for _, colour in _RAIN)), edges, units, (_DRY_DARK, *_RAIN_DARK))


def field_scale(values: Sequence[NDArray[np.floating]], units: str) -> Scale:
    """Return a scale (viridis) of about sixty classes between round numbers for any variable.

    The 0.5th to 99.5th percentile of the values is the range of the scale.
    """
    return _fine_scale(round_ticks(*_range(values, (0.5, 99.5))), "viridis", units)


def probability_scale() -> Scale:
    """Return a scale for probabilities: ten classes of equal width, white at 0."""
    edges = (0.02, *(k / 10 for k in range(1, 10)))
    colours = _colours("PuBuGn", len(edges) + 1)
    return Scale(edges, (_DRY, *colours[1:]), edges, "", (_DRY_DARK, *reversed(colours[:-1])))


def ratio_scale() -> Scale:
    """Return a diverging scale for a ratio that is best at 1, such as the frequency bias: too small to too large."""
    edges = (*(1 / e for e in reversed(_RATIOS)), *_RATIOS)
    number = len(edges) + 1
    ticks = (edges[0], edges[2], edges[-3], edges[-1])
    return Scale(edges, _colours("BrBG", number), ticks, "", _between(_ERROR_DARK, number))


def error_scale(errors: NDArray[np.floating], units: str, *, rain: bool) -> Scale:
    """Return a diverging scale, symmetric about zero, for forecast minus observation.

    Rain has fixed steps from brown (too dry) to green (too wet); else the errors set steps from blue (too low) to red
    (too high).
    """
    if rain:
        edges = (*(-e for e in reversed(_RAIN_ERRORS)), *_RAIN_ERRORS)
        number = len(edges) + 1
        return Scale(edges, _colours("BrBG", number), edges, units, _between(_ERROR_DARK, number))
    reach = max(abs(end) for end in _range([errors], (1, 99)))
    scale = _fine_scale(round_ticks(-reach, reach), "RdBu_r", units)
    return replace(scale, dark_colours=_between(_DIFFERENCE_DARK, len(scale.colours)))


def round_ticks(low: float, high: float, most: int = 7) -> tuple[float, ...]:
    """Return at least two evenly spaced round numbers that enclose a range, with at most `most` intervals."""
    ticks = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    places = 6 - math.floor(math.log10(ticks[1] - ticks[0]))  # sums of 0.1 give 0.30000000000000004
    return tuple(round(float(tick), places) + 0.0 for tick in ticks)


def round_down(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is at most a positive value, up to rounding.

    Example:
        >>> [round_down(value) for value in (0.06, 1.0, 999.0)]
        [0.05, 1.0, 500.0]
    """
    most = value * (1 + 1e-9)
    power = 10.0 ** math.floor(math.log10(most))
    return power * next((digit for digit in (5, 2) if digit * power <= most), 1)


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue (0 to 255) of a colour `#rrggbb`."""
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return red, green, blue


def _range(values: Sequence[NDArray[np.floating]], percent: tuple[float, float]) -> tuple[float, float]:
    finite = np.concatenate([v[np.isfinite(v)] for v in values])
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, percent)
    return float(low), float(high)


def _fine_scale(ticks: tuple[float, ...], name: str, units: str) -> Scale:
    parts = max(1, FINEST // (len(ticks) - 1))
    places = np.arange((len(ticks) - 1) * parts + 1) / parts
    edges = tuple(np.interp(places, np.arange(len(ticks)), ticks).tolist())
    return Scale(edges, _colours(name, len(edges) + 1), ticks, units)


def _colours(name: str, number: int) -> tuple[str, ...]:
    return tuple(to_hex(c) for c in matplotlib.colormaps[name](np.linspace(0, 1, number)))


def _between(anchors: Sequence[str], number: int) -> tuple[str, ...]:
    """Return colours at equal distances on the line through the anchors."""
    line = LinearSegmentedColormap.from_list("", list(anchors))
    return tuple(to_hex(c) for c in line(np.linspace(0, 1, number)))
