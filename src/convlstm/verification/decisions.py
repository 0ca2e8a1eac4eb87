"""Events that are forecast where a probability reaches a cut: ROC, performance diagram and economic value.

One set of counts serves all three. A forecast without probabilities has one decision, that of its field.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm.verification.intervals import pool, resampling_weights, value_and_interval
from convlstm.verification.probabilities import at_or_above, check_probability, slices
from convlstm.verification.scorecard import CaseSums

CUTS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    *(0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99),
)
"""Probabilities from which the event is forecast, if a method has any probability; ascending."""

COST_LOSS_RATIOS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Cost of a protection divided by the loss that it prevents."""

_TINY = 1e-9  # a cut and a ratio with this difference are equal

COUNTS = ("hits", "misses", "false_alarms", "correct_negatives")

_CUT_COLUMNS = ("method", "lead_time", "threshold", "cut", *COUNTS, "pod", "pofd", "success_ratio", "cases", "pixels")
_AREA_COLUMNS = ("method", "lead_time", "threshold", "value", "lower", "upper", "cases", "pixels")
_VALUE_COLUMNS = (
    *("method", "lead_time", "threshold", "cost_loss_ratio", "value", "lower", "upper", "cut", "value_at_ratio"),
    *("cases", "pixels"),
)


@dataclass(frozen=True, eq=False)
class Decisions:
    """The counts of one method, lead time and threshold for each cut."""

    method: str
    lead_time: float  # minutes
    threshold: float
    cuts: NDArray[np.float64]  # ascending
    counts: xr.Dataset  # hits, misses, false_alarms and correct_negatives (init_time, cut)

    @cached_property
    def cases(self) -> int:
        """Number of cases with at least one pair of values."""
        return int((_totals(self.counts) > 0).sum())

    @cached_property
    def pixels(self) -> int:
        """Number of pairs of values."""
        return int(_totals(self.counts).sum())

    @property
    def key(self) -> dict[str, object]:
        """The columns that identify the rows of this object."""
        return {"method": self.method, "lead_time": self.lead_time, "threshold": self.threshold}


def probability_decisions(
    method: str, probability: xr.DataArray, observation: xr.DataArray, *, members: int | None = None
) -> list[Decisions]:
    """Return the counts of a method with probabilities, for every lead time and threshold.

    Args:
        method: Name of the method.
        probability: Probabilities as in `score_probabilities`.
        observation: Observations at the valid times (init_time, lead_time, y, x), NaN where missing.
        members: For shares of an ensemble the number of members M: the cuts are then 1/M, 2/M … 1. None uses `CUTS`.

    Returns:
        One object per lead time and threshold.

    Raises:
        DataError: if dimensions or coordinates do not fit, or a probability is outside 0 to 1.

    Example:
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> chance = (0.8 * rain).expand_dims(threshold=[1.0], axis=2)
        >>> table = cut_table(probability_decisions("model", chance, rain))
        >>> table[table.cut == 0.5][["hits", "false_alarms", "pod", "success_ratio"]].values.tolist()
        [[4.0, 0.0, 1.0, 1.0]]
    """
    check_probability(probability, observation)
    decisions = []
    for lead_time, threshold, chance, observed in slices(probability, observation):
        counts = decision_counts(chance.values, observed.values, threshold, members)
        decisions.append(Decisions(method, lead_time, threshold, cuts_of(members), counts))
    return decisions


def cuts_of(members: int | None) -> NDArray[np.float64]:
    """Return the cuts of a method, or those of an ensemble with so many members."""
    return np.array(CUTS) if members is None else np.arange(1, members + 1) / members


def event_decisions(sums: Iterable[CaseSums], methods: Sequence[str]) -> list[Decisions]:
    """Return the counts of methods without probabilities, each with the one cut 1, from the result of `case_sums`."""
    return [
        Decisions(each.method, each.lead_time, threshold, np.ones(1), counts.expand_dims("cut", axis=-1))
        for each in sums
        if each.method in methods
        for threshold, counts in each.counts.items()
    ]


def cut_table(decisions: Iterable[Decisions]) -> pd.DataFrame:
    """Return the points of ROC curves and performance diagrams.

    Args:
        decisions: Results of `probability_decisions` and `event_decisions`.

    Returns:
        One row per method, lead_time (minutes), threshold and cut, with the counts, cases and pixels. `pod` is the
        share of the observed events that were forecast. `pofd` is the share of the other cells with a forecast event.
        `success_ratio` is the share of the forecast events that were observed (1 − FAR). A ratio without a denominator
        is NaN.

    Example:
        The example of `probability_decisions` prints some columns.
    """
    rows: list[dict[str, object]] = []
    for each in decisions:
        pooled = each.counts.sum("init_time")
        rates = _rates(pooled) | {"success_ratio": _ratio(pooled["hits"], pooled["false_alarms"])}
        counts_of, rates_of = ({str(name): part.values for name, part in parts.items()} for parts in (pooled, rates))
        for place, cut in enumerate(each.cuts.tolist()):
            counts = {name: int(counts_of[name][place]) for name in COUNTS}
            values = {name: float(rate[place]) for name, rate in rates_of.items()}
            rows.append({**each.key, "cut": cut, **counts, **values, "cases": each.cases, "pixels": each.pixels})
    return pd.DataFrame(rows, columns=list(_CUT_COLUMNS))


def roc_table(decisions: Iterable[Decisions], *, seed: int = 0) -> pd.DataFrame:
    """Return the area under each ROC curve with a 90 % interval.

    The area is the probability that a cell with an event had a higher forecast probability than a cell without one. It
    is 0.5 without skill and 1 for a perfect order. The points of the curve are joined by straight lines.

    Args:
        decisions: As in `cut_table`.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per method, lead_time (minutes) and threshold, with the columns method, lead_time, threshold, value,
        lower, upper, cases and pixels. The value is NaN where the event was observed in all or no cells.

    Example:
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> chance = (0.8 * rain).expand_dims(threshold=[1.0], axis=2)
        >>> roc_table(probability_decisions("model", chance, rain))["value"].tolist()
        [1.0]
    """
    rows: list[dict[str, object]] = []
    for each in decisions:
        weights = resampling_weights(each.counts.sizes["init_time"], seed)
        rates = _rates(pool(each.counts, weights))
        value, lower, upper = value_and_interval(_area(rates["pod"], rates["pofd"]), each.cases)
        numbers = {"value": value, "lower": lower, "upper": upper, "cases": each.cases, "pixels": each.pixels}
        rows.append(each.key | numbers)
    return pd.DataFrame(rows, columns=list(_AREA_COLUMNS))


def value_table(
    decisions: Iterable[Decisions], *, ratios: Sequence[float] = COST_LOSS_RATIOS, seed: int = 0
) -> pd.DataFrame:
    """Return the relative economic value of forecasts for users with different ratios of cost to loss.

    A user protects at a cost where the event is forecast, and has a loss where an event was not forecast. α is the
    ratio, H the hit rate, F the false alarm rate and s the frequency of the event (Richardson 2000). The value is
    (min(α, s) − F α (1 − s) + H s (1 − α) − s) / (min(α, s) − s α). A perfect forecast has 1. The better of always and
    never protecting has 0.

    Args:
        decisions: As in `cut_table`.
        ratios: Ratios of cost to loss, between 0 and 1.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per method, lead_time (minutes), threshold and cost_loss_ratio. `value` is that of the best cut, which
        is known only afterwards and may be to always or never protect; lower and upper are its 90 % interval.
        `value_at_ratio` is that of the lowest `cut` at or above the ratio, which a user can choose beforehand: with
        reliable probabilities, protection pays from the ratio on. It is lower if they are not reliable. Above the last
        cut, it is that of the last one. Further columns are cases and pixels.

    Example:
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> chance = (0.8 * rain).expand_dims(threshold=[1.0], axis=2)
        >>> value_table(probability_decisions("model", chance, rain), ratios=[0.5])["value"].tolist()
        [1.0]
    """
    rows: list[dict[str, object]] = []
    alpha = xr.DataArray(np.asarray(ratios, np.float64), dims="ratio")
    for each in decisions:
        pooled = pool(each.counts, resampling_weights(each.counts.sizes["init_time"], seed))
        rates, events = _rates(pooled), (pooled["hits"] + pooled["misses"])[{"cut": 0}]
        total = _totals(pooled)
        frequency = events / total.where(total > 0)
        by_cut = economic_value(rates["pod"], rates["pofd"], frequency, alpha)
        best = by_cut.max("cut").clip(min=0.0).transpose("ratio", "draw").values
        of_sample = by_cut[{"draw": 0}].transpose("ratio", "cut").values
        first_above = np.searchsorted(each.cuts, alpha.values - _TINY).clip(max=len(each.cuts) - 1)
        for place, ratio in enumerate(alpha.values.tolist()):
            value, lower, upper = value_and_interval(best[place], each.cases)
            chosen = int(first_above[place])
            at_ratio = float(of_sample[place, chosen])
            key = {**each.key, "cost_loss_ratio": ratio, "value": value, "lower": lower, "upper": upper}
            rows.append(
                {
                    **key,
                    "cut": float(each.cuts[chosen]),
                    "value_at_ratio": at_ratio,
                    "cases": each.cases,
                    "pixels": each.pixels,
                }
            )
    return pd.DataFrame(rows, columns=list(_VALUE_COLUMNS))


def economic_value(pod: xr.DataArray, pofd: xr.DataArray, frequency: xr.DataArray, ratio: xr.DataArray) -> xr.DataArray:
    """Return the relative economic value of `value_table` for rates, frequency of the event and ratio of cost to loss.

    It is that of `scores.plotdata.relative_economic_value_from_rates`; NaN where the event was observed in all or no
    cells.
    """
    climatology = frequency.where(frequency < ratio, ratio)
    gain = climatology - pofd * ratio * (1 - frequency) + pod * frequency * (1 - ratio) - frequency
    perfect = climatology - frequency * ratio
    value: xr.DataArray = gain / perfect.where(perfect > 0)
    return value


def decision_counts(
    chance: NDArray[np.floating], observed: NDArray[np.floating], threshold: float, members: int | None
) -> xr.Dataset:
    """Return the counts (init_time, cut) of probabilities and observations (init_time, y, x)."""
    cuts = cuts_of(members)
    # Half precision rounds k / M, so a share is compared with a number between k − 1 and k.
    limits, compared = (cuts, chance) if members is None else (cuts - 0.5 / members, chance.astype(np.float32))
    cases, classes = len(chance), len(limits) + 1
    case, *place = np.nonzero(np.isfinite(chance) & np.isfinite(observed))
    truth = observed[(case, *place)] >= threshold
    group = case * classes + at_or_above(limits, compared[(case, *place)])
    events, cells = (
        np.bincount(group, weight, cases * classes).reshape(cases, classes) for weight in (truth.astype(float), None)
    )
    # The sum of the classes at and above a cut.
    hits, forecast = (np.cumsum(values[:, ::-1], axis=1)[:, ::-1][:, 1:] for values in (events, cells))
    observed_events, total = events.sum(axis=1, keepdims=True), cells.sum(axis=1, keepdims=True)
    columns = {
        "hits": hits,
        "misses": observed_events - hits,
        "false_alarms": forecast - hits,
        "correct_negatives": total - observed_events - (forecast - hits),
    }
    return xr.Dataset({name: (("init_time", "cut"), column.astype(np.float64)) for name, column in columns.items()})


def _totals(counts: xr.Dataset) -> xr.DataArray:
    """Return the number of pairs of values, which is that of any cut."""
    hits, misses, false_alarms, correct_negatives = (counts[name][{"cut": 0}] for name in COUNTS)
    total: xr.DataArray = hits + misses + false_alarms + correct_negatives
    return total


def _ratio(part: xr.DataArray, rest: xr.DataArray) -> xr.DataArray:
    total = part + rest
    return part / total.where(total > 0)


def _rates(counts: xr.Dataset) -> dict[str, xr.DataArray]:
    return {
        "pod": _ratio(counts["hits"], counts["misses"]),
        "pofd": _ratio(counts["false_alarms"], counts["correct_negatives"]),
    }


def _area(pod: xr.DataArray, pofd: xr.DataArray) -> xr.DataArray:
    """Return the area under the curve through the points (draw, cut) and the corners (0, 0) and (1, 1)."""
    y, x = (
        np.pad(rate.transpose("draw", "cut").values, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
        for rate in (pod, pofd)
    )
    # `np.trapezoid` needs NumPy 2.
    area: NDArray[np.float64] = ((x[:, :-1] - x[:, 1:]) * (y[:, :-1] + y[:, 1:]) / 2).sum(axis=1)
    return xr.DataArray(area, dims="draw")
