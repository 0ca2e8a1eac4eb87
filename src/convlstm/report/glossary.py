"""The texts of the page: meaning of the scores, and format of numbers and times."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from convlstm.verification.evaluation_folder import METHOD_LABELS
from convlstm.verification.lead_times import signed


@dataclass(frozen=True)
class Score:
    """One score: its name, its meaning and its perfect value."""

    name: str  # name in the table of scores
    label: str  # name on the page
    definition: str  # one line; `{window}` is the width of the neighbourhood in cells
    span: str  # range of possible values, in words
    perfect: float  # value of a perfect forecast; the nearer of two values is the better
    by_threshold: bool  # whether it is a score of an event (a value at or above the threshold)
    charted: bool = True  # whether it has charts by lead time; all scores are in the tables
    scaled: bool = False  # whether the decimals of a score by threshold follow from its values, as for errors

    def distance(self, value: float) -> float:
        """Return the distance of a value from the perfect value; NaN for an undefined score."""
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
    Score(
        "hss",
        "HSS",
        "Heidke skill score: share of correct forecasts, on a scale from 0 for random forecasts to 1 for perfect ones.",
        "−1 to 1",
        1,
        by_threshold=True,
        charted=False,
    ),
    Score(
        "ets",
        "ETS",
        "Equitable threat score (Gilbert skill score): CSI without the hits that random forecasts have.",
        "−1/3 to 1",
        1,
        by_threshold=True,
        charted=False,
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
    Score(
        "brier",
        "Brier score",
        "Mean squared error of the probability, with 1 for an observed event and 0 for none. "
        "A method without probabilities has 1 where it forecasts the event, else 0.",
        "0 to 1",
        0,
        by_threshold=True,
        scaled=True,
    ),
    Score(
        "bss",
        "Brier skill score",
        "1 − Brier score / that of the constant probability with which the event occurred in these cases "
        "(sample climatology); 0 is no better.",
        "−∞ to 1",
        1,
        by_threshold=True,
    ),
)

WINDOW_NOTE = (
    "The fractions skill score compares how many event cells forecast and observation have in each window. "
    "A forecast that puts an event at a slightly wrong place has a low score in narrow windows and a high one in wide "
    "windows."
)
SPECTRUM_NOTE = (
    "A power spectrum tells how strongly a field varies at each wavelength. A forecast below the observation at short "
    "wavelengths is too smooth; one above it has too much detail."
)
FINE_SCALE_NOTES = {
    "last_frame_correlation": (
        "Fine scales and the last input frame",
        "Correlation of structures below 4 cells with those of the last input frame. A forecast far above the "
        "observation still shows the old frame in place.",
    ),
    "patch_peak": (
        "Peak at the patch size (dB)",
        "Power at the period of the {patch} × {patch} patches that the model writes, compared with similar "
        "wavelengths. "
        "A forecast far above the observation shows the grid of the patches.",
    ),
}
RELIABILITY_NOTE = (
    "Cells are grouped by their forecast probability. If the event occurs in 70 % of the cells with a forecast of "
    "70 %, the point is on the dotted diagonal; below it the probabilities are too high."
)
SHARPNESS_NOTE = (
    "The share of cells with each forecast probability. A sharp forecast has most cells near 0 or 1; "
    "it is useful only if it is also reliable."
)


def method_label(method: str) -> str:
    """Return the name of a method as a heading; an unknown name is unchanged."""
    return METHOD_LABELS.get(method, method)


def decimals(score: Score, values: Iterable[float]) -> int:
    """Return the number of decimals (0 to 6) for three significant figures of the largest value.

    A score by threshold has no unit and two decimals, unless it is `scaled`.
    """
    largest = max((abs(v) for v in values if math.isfinite(v)), default=0.0)
    if largest == 0 or (score.by_threshold and not score.scaled):
        return 2
    return min(max(2 - math.floor(math.log10(largest)), 0), 6)


def number(value: float, places: int) -> str:
    """Return a number with fixed decimals and a minus sign, or a dash for NaN."""
    return signed(f"{value:z.{places}f}") if math.isfinite(value) else "–"


def interval_text(value: float, lower: float, upper: float, places: int) -> str:
    """Return a value with its interval, such as `0.45 [0.40, 0.49]`; without brackets if the interval is unknown.

    The brackets do not break across lines.
    """
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return number(value, places)
    return f"{number(value, places)} [{number(lower, places)},\N{NO-BREAK SPACE}{number(upper, places)}]"


def count(value: float) -> str:
    """Return an integer with thin spaces between thousands, or a dash for NaN."""
    return f"{int(value):,}".replace(",", "\u2009") if math.isfinite(value) else "–"
