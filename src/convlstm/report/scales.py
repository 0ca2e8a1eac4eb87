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
    """Classes of value and their colours.

    Args:
        edges: Ascending boundaries; class k has edges[k-1] <= value < edges[k], the outer two are open.
        colours: One colour `#rrggbb` per class, one more than edges.
        ticks: The edges with a label in the legend.
        units: Unit of the values.

    Example:
        >>> scale = rain_scale("mm/h")
        >>> scale.classify(np.array([0.0, 0.1, 3.0, 500.0, np.nan])).tolist()
        [0, 1, 5, 10, 11]
        >>> scale.labels()[5]
        '2 to 5 mm/h'
    """

    edges: tuple[float, ...]
    colours: tuple[str, ...]
    ticks: tuple[float, ...]
    units: str

    def classify(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the class of each value.

        Args:
            values: Values of any shape in the scale's unit, NaN where missing.

        Returns:
            Class numbers of the same shape; `len(colours)` where missing.
        """
        classes = np.digitize(values, self.edges)
        return np.where(np.isnan(values), len(self.colours), classes).astype(np.uint8)

    def palette(self) -> tuple[str, ...]:
        """Return the colours by class number, with missing data last.

        Returns:
            Colours as `#rrggbb`.
        """
        return (*self.colours, MISSING)

    def labels(self) -> list[str]:
        """Return the meaning of each class by class number, with missing data last.

        Returns:
            Short texts with the unit.
        """
        edges = [signed(f"{edge:.4g}") for edge in self.edges]
        between = [f"{low} to {high} {self.units}" for low, high in pairwise(edges)]
        return [f"below {edges[0]} {self.units}", *between, f"{edges[-1]} {self.units} or more", "no data"]

    def marks(self) -> list[tuple[float, str]]:
        """Return the numbers of the legend.

        Returns:
            Position from 0 to 1 along the bar of equally wide classes, and the number as text.
        """
        written = {tick: signed(f"{tick:.6g}") for tick in self.ticks}
        return [((k + 1) / len(self.colours), written[e]) for k, e in enumerate(self.edges) if e in written]


def rain_scale(units: str) -> Scale:
    """Return the radar scale for rain rates.

    Args:
        units: Unit of the rate for the legend.

    Returns:
        Ten classes from 0.1 to 100 and more, and dry below.

    Example:
        >>> rain_scale("mm/h").edges[0]
        0.1
    """
    edges = tuple(edge for edge, _ in _RAIN)
    return Scale(edges, (_DRY, *(colour for _, colour in _RAIN)), edges, units)


def field_scale(values: Sequence[NDArray[np.floating]], units: str) -> Scale:
    """Return a perceptually uniform scale (viridis) over the range of any variable.

    Args:
        values: Arrays whose 0.5th to 99.5th percentile is the range of the scale.
        units: Unit of the values.

    Returns:
        About sixty narrow classes between round numbers.

    Example:
        >>> field_scale([np.array([271.0, 289.0])], "K").ticks
        (270.0, 275.0, 280.0, 285.0, 290.0)
    """
    return _fine_scale(round_ticks(*_range(values, (0.5, 99.5))), "viridis", units)


def error_scale(errors: NDArray[np.floating], units: str, *, rain: bool) -> Scale:
    """Return a diverging scale for forecast minus observation, pale near zero.

    Args:
        errors: Errors that set the range of a scale without fixed steps.
        units: Unit of the errors.
        rain: Fixed steps from brown (too dry) to green (too wet); else blue (too low) to red (too high).

    Returns:
        Classes symmetric about zero.

    Example:
        >>> error_scale(np.array([0.0]), "mm/h", rain=True).classify(np.array([-0.4, 0.4, 0.5])).tolist()
        [5, 5, 6]
    """
    if rain:
        edges = (*(-e for e in reversed(_RAIN_ERRORS)), *_RAIN_ERRORS)
        return Scale(edges, _colours("BrBG", len(edges) + 1), edges, units)
    reach = max(abs(end) for end in _range([errors], (1, 99)))
    return _fine_scale(round_ticks(-reach, reach), "RdBu_r", units)


def round_ticks(low: float, high: float, most: int = 7) -> tuple[float, ...]:
    """Return evenly spaced round numbers that enclose a range.

    Args:
        low: Lower end.
        high: Upper end.
        most: Maximum number of intervals.

    Returns:
        At least two ascending numbers, the first at or below `low`, the last at or above `high`.

    Example:
        >>> round_ticks(0.0, 0.73, most=4)
        (0.0, 0.2, 0.4, 0.6, 0.8)
    """
    ticks = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    places = 6 - math.floor(math.log10(ticks[1] - ticks[0]))  # sums of 0.1 give 0.30000000000000004
    return tuple(round(float(tick), places) + 0.0 for tick in ticks)


def rgb(colour: str) -> tuple[int, int, int]:
    """Return red, green and blue of a colour.

    Args:
        colour: `#rrggbb`.

    Returns:
        Three numbers from 0 to 255.

    Example:
        >>> rgb("#ff8000")
        (255, 128, 0)
    """
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
