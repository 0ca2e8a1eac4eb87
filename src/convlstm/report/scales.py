"""Colour scales: classes of values and their colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from convlstm.verification.lead_times import signed

MISSING = "#b4b8bb"  # a neutral grey that no scale uses
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
_RAIN_ERRORS = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Classes of value and their colours."""

    edges: tuple[float, ...]  # ascending; class k has edges[k-1] <= value < edges[k], the outer two are open
    colours: tuple[str, ...]  # one `#rrggbb` per class, one more than edges
    ticks: tuple[float, ...]  # the edges with a label in the legend
    units: str

    def classify(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the class of each value; missing values have class `len(colours)`."""
        classes = np.digitize(values, self.edges)
        return np.where(np.isnan(values), len(self.colours), classes).astype(np.uint8)

    def palette(self) -> tuple[str, ...]:
        """Return the colours by class number, with missing data last."""
        return (*self.colours, MISSING)

    def labels(self) -> list[str]:
        """Return the meaning of each class by class number with the unit, with missing data last."""
        edges = [signed(f"{edge:.4g}") for edge in self.edges]
        between = [f"{low} to {high} {self.units}" for low, high in pairwise(edges)]
        return [f"below {edges[0]} {self.units}", *between, f"{edges[-1]} {self.units} or more", "no data"]

    def marks(self) -> list[tuple[float, str]]:
        """Return the numbers of the legend: position from 0 to 1 along the bar of equally wide classes, and text."""
        written = {tick: signed(f"{tick:.6g}") for tick in self.ticks}
        return [((k + 1) / len(self.colours), written[e]) for k, e in enumerate(self.edges) if e in written]


def rain_scale(units: str) -> Scale:
    """Return the radar scale for rain rates: ten classes from 0.1 to 100 and more, and dry below."""
    edges = tuple(edge for edge, _ in _RAIN)
    return Scale(edges, (_DRY, *(colour for _, colour in _RAIN)), edges, units)


def field_scale(values: Sequence[NDArray[np.floating]], units: str) -> Scale:
    """Return a scale (viridis) of about sixty classes between round numbers for any variable.

    The 0.5th to 99.5th percentile of the values is the range of the scale.
    """
    return _fine_scale(round_ticks(*_range(values, (0.5, 99.5))), "viridis", units)


def probability_scale() -> Scale:
    """Return a scale for probabilities: ten classes of equal width, white at 0."""
    edges = (0.02, *(k / 10 for k in range(1, 10)))
    colours = _colours("PuBuGn", len(edges) + 1)
    return Scale(edges, (_DRY, *colours[1:]), edges, "")


def error_scale(errors: NDArray[np.floating], units: str, *, rain: bool) -> Scale:
    """Return a diverging scale, symmetric about zero, for forecast minus observation.

    Rain has fixed steps from brown (too dry) to green (too wet); else the errors set steps from blue (too low) to red
    (too high).
    """
    if rain:
        edges = (*(-e for e in reversed(_RAIN_ERRORS)), *_RAIN_ERRORS)
        return Scale(edges, _colours("BrBG", len(edges) + 1), edges, units)
    reach = max(abs(end) for end in _range([errors], (1, 99)))
    return _fine_scale(round_ticks(-reach, reach), "RdBu_r", units)


def round_ticks(low: float, high: float, most: int = 7) -> tuple[float, ...]:
    """Return at least two evenly spaced round numbers that enclose a range, with at most `most` intervals."""
    ticks = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    places = 6 - math.floor(math.log10(ticks[1] - ticks[0]))  # sums of 0.1 give 0.30000000000000004
    return tuple(round(float(tick), places) + 0.0 for tick in ticks)


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
