"""The texts of the page: meaning of the scores, and format of numbers and times."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from convlstm.verification.lead_times import signed


@dataclass(frozen=True)
class Score:
    """One score: its name, its meaning and its perfect value.

    Args:
        name: Name in the table of scores.
        label: Name on the page.
        definition: One line; `{window}` is the width of the neighbourhood in cells.
        span: Range of possible values, in words.
        perfect: Value of a perfect forecast; the nearer of two values is the better.
        by_threshold: Whether it is a score of an event (a value at or above the threshold).

    Example:
        >>> [score.name for score in SCORES if score.perfect == 1 and not score.name == "bias"]
        ['csi', 'fss', 'pod']
    """

    name: str
    label: str
    definition: str
    span: str
    perfect: float
    by_threshold: bool

    def distance(self, value: float) -> float:
        """Return the distance of a value from the perfect value.

        Args:
            value: A value of this score.

        Returns:
            The absolute difference from the perfect value, NaN for an undefined score.

        Example:
            >>> SCORES[0].distance(0.75)
            0.25
        """
        return abs(value - self.perfect)


SCORES = (
    Score(
        "csi",
        "CSI",
        "Critical success index: hits / (hits + misses + false alarms).",
        "0 to 1",
        1,
        by_threshold=True,
    ),
    Score("rmse", "RMSE", "Root of the mean squared error.", "0 to ∞", 0, by_threshold=False),
    Score("mae", "MAE", "Mean absolute error.", "0 to ∞", 0, by_threshold=False),
    Score("mean_error", "Mean error", "Mean of forecast minus observation.", "−∞ to ∞", 0, by_threshold=False),
    Score(
        "fss",
        "FSS",
        "Fractions skill score: agreement of the share of event cells in windows of {window} × {window} cells.",
        "0 to 1",
        1,
        by_threshold=True,
    ),
    Score("pod", "POD", "Probability of detection: hits / (hits + misses).", "0 to 1", 1, by_threshold=True),
    Score(
        "far",
        "FAR",
        "False alarm ratio: false alarms / (hits + false alarms).",
        "0 to 1",
        0,
        by_threshold=True,
    ),
    Score(
        "bias",
        "Frequency bias",
        "(hits + false alarms) / (hits + misses); above 1 the event is forecast too often.",
        "0 to ∞",
        1,
        by_threshold=True,
    ),
)

_METHODS = {"convlstm": "ConvLSTM", "optical flow": "Optical flow", "persistence": "Persistence"}


def method_label(method: str) -> str:
    """Return the name of a method as a heading.

    Args:
        method: Name in the files.

    Returns:
        The name with the usual capitals; an unknown name is unchanged.

    Example:
        >>> method_label("convlstm"), method_label("my model")
        ('ConvLSTM', 'my model')
    """
    return _METHODS.get(method, method)


def decimals(score: Score, values: Iterable[float]) -> int:
    """Return the number of decimals for three significant figures of the largest value.

    Args:
        score: The score; one by threshold has no unit and always two decimals.
        values: The values of one table or axis.

    Returns:
        Number of decimals, 0 to 6.

    Example:
        >>> decimals(SCORES[1], [0.4, 1.2]), decimals(SCORES[1], [310.0]), decimals(SCORES[1], [0.002])
        (2, 0, 5)
    """
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if score.by_threshold or largest == 0:
        return 2
    return min(max(2 - math.floor(math.log10(largest)), 0), 6)


def number(value: float, places: int) -> str:
    """Return a number with fixed decimals and a minus sign, or a dash for NaN.

    Args:
        value: The number.
        places: Decimals.

    Returns:
        Text.

    Example:
        >>> number(-0.126, 2), number(-0.001, 2), number(float("nan"), 2)
        ('−0.13', '0.00', '–')
    """
    return signed(f"{value:z.{places}f}") if math.isfinite(value) else "–"


def interval_text(value: float, lower: float, upper: float, places: int) -> str:
    """Return a value with its interval.

    Args:
        value: The value.
        lower: Lower end, NaN where unknown.
        upper: Upper end, NaN where unknown.
        places: Decimals.

    Returns:
        Text such as `0.45 [0.40, 0.49]`, without brackets where no interval is known; the
        brackets do not break across lines.

    Example:
        >>> interval_text(0.451, 0.4, 0.49, 2).replace("\N{NO-BREAK SPACE}", " ")
        '0.45 [0.40, 0.49]'
        >>> interval_text(0.451, float("nan"), float("nan"), 2)
        '0.45'
    """
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return number(value, places)
    return f"{number(value, places)} [{number(lower, places)},\N{NO-BREAK SPACE}{number(upper, places)}]"


def count(value: float) -> str:
    """Return an integer with thin spaces between thousands.

    Args:
        value: The number, or NaN.

    Returns:
        Text.

    Example:
        >>> count(1234567.0) == "1\u2009234\u2009567", count(float("nan"))
        (True, '–')
    """
    return f"{int(value):,}".replace(",", "\u2009") if math.isfinite(value) else "–"
