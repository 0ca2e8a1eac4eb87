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
        "Critical success index, hits / (hits + misses + false alarms): "
        "of the cells where the event was forecast or observed, the share where it was both.",
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
    Score(
        "rmse",
        "RMSE",
        "Root of the mean squared error: the size of a typical error, in which large errors count most.",
        "0 to ∞",
        0,
        by_threshold=False,
    ),
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

ROC_NOTE = (
    "The warning is given where the probability reaches a cut. Each point is one cut: the share of the events with "
    "a warning, and the share of the other cells with a false one. A curve near the upper left corner separates "
    "events from other cells; the dotted diagonal has no skill. A method without probabilities has one point."
)
PERFORMANCE_NOTE = (
    "The same cuts: the share of the events with a warning (POD), and the share of the warnings that were right "
    "(success ratio). The upper right corner is perfect, and grey lines have the same CSI. Move along a curve to see "
    "what more warnings cost in false ones. Cuts with fewer than 30 forecast cells are left out."
)
VALUE_NOTE = (
    "What a user saves who pays for a protection where the event is forecast, compared with perfect forecasts (1) and "
    "with the better of always and never protecting (0). The cost/loss ratio is the cost of the protection divided by "
    "the loss that it prevents. The line has the best cut for each user."
)
PROBABILITY_MAP_NOTE = (
    "The probability that each threshold is reached, next to where it was. A good forecast has high probabilities "
    "where the event was observed and low ones elsewhere."
)
CRPS_NOTE = (
    "The continuous ranked probability score is the mean error of an ensemble: the distance of its members from the "
    "observation, less half the distance between the members. 0 is perfect. It is fair: independent of the number of "
    "members."
)
SPREAD_NOTE = (
    "The spread of the members divided by the error of their mean. At 1 (dotted) the members are as uncertain as they "
    "should be. Below it the ensemble is too sure, above it too unsure."
)
RANK_NOTE = (
    "How often each number of members is below the observation, compared with equal shares (dotted line at 1). A U "
    "shape means too little spread, a dome too much. A slope up to the right means members that are too low."
)
ENSEMBLE_TERMS = (
    ("CRPS", CRPS_NOTE),
    (
        "Spread and error",
        "Spread: root of the mean variance of the members, times (M + 1) / M for M members. Error: root of the mean "
        "squared error of their mean. Both are equal in a reliable ensemble.",
    ),
    (
        "Rank bias",
        "Mean place of the observation among the members, from −1 (below all) to 1 (above all); 0 in a flat histogram.",
    ),
    (
        "Rank convexity",
        "Shape of the rank histogram: above 0 for a U shape (too little spread), below 0 for a dome, 0 if it is flat.",
    ),
    (
        "Flat histogram",
        "Yes, if 0 is within the 95 % intervals of rank bias and rank convexity. About a tenth of the reliable "
        "ensembles get a no, and somewhat more with few cases. The intervals are from a bootstrap of blocks of cases.",
    ),
)
DECISION_TERMS = (
    (
        "ROC area",
        "Probability that a cell with the event had a higher forecast probability than a cell without it. "
        "Range 0 to 1, perfect 1; 0.5 has no skill.",
    ),
    ("Success ratio", "Hits / (hits + false alarms), that is 1 − FAR. Range 0 to 1, perfect 1."),
    ("Economic value", "Share of the saving by perfect forecasts that a user has. Range −∞ to 1, perfect 1."),
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
