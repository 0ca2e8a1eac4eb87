"""Scores of events: forecast and observed values at or above a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from scores.categorical import BasicContingencyManager

from convlstm.verification.fractions import fraction_sums

COUNTS = {
    "hits": "tp_count",
    "misses": "fn_count",
    "false_alarms": "fp_count",
    "correct_negatives": "tn_count",
}
"""Our names of the four cells of the contingency table, and those of `scores`."""


@dataclass(frozen=True, eq=False)
class Events:
    """Forecast and observed events (init_time, y, x); `valid` marks the pairs without a missing value."""

    predicted: xr.DataArray
    observed: xr.DataArray
    valid: xr.DataArray


def find_events(forecast: xr.DataArray, observation: xr.DataArray, threshold: float) -> Events:
    """Return the values at or above the threshold, in the data's precision; no event where a value is missing.

    Both arrays are (init_time, y, x), NaN where missing.
    """
    valid = forecast.notnull() & observation.notnull()
    return Events((forecast >= threshold) & valid, (observation >= threshold) & valid, valid)


def event_counts(events: Events) -> xr.Dataset:
    """Return the four counts of the contingency table for each case (init_time,)."""
    predicted, observed = events.predicted, events.observed
    counts = xr.Dataset(
        {
            "hits": predicted & observed,
            "misses": ~predicted & observed,
            "false_alarms": predicted & ~observed,
            "correct_negatives": events.valid & ~predicted & ~observed,
        }
    )
    return counts.sum(("y", "x")).astype(np.float64)


def event_fractions(events: Events, windows: Sequence[int]) -> dict[int, xr.Dataset]:
    """Return the parts of the fractions skill score for each case, by width of the window in cells."""
    return fraction_sums(events.predicted.values, events.observed.values, windows)


def critical_success_index(counts: xr.Dataset) -> xr.DataArray:
    """Return the score `csi` of `event_scores` without the others, for many weightings of the cases."""
    return counts["hits"] / (counts["hits"] + counts["misses"] + counts["false_alarms"])


def event_scores(counts: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the scores of pooled counts; NaN where a score is undefined.

    They are `csi`, `hss` (Heidke), `ets` (equitable threat or Gilbert skill score), `pod`, `far` and `bias` (frequency
    bias).
    """
    named = {theirs: counts[ours] for ours, theirs in COUNTS.items()}
    total = counts["hits"] + counts["misses"] + counts["false_alarms"] + counts["correct_negatives"]
    table = BasicContingencyManager(named | {"total_count": total})
    bias = table.frequency_bias()
    # A forecast that is always right because nothing varies has no skill to measure: 0/0, which rounding can hide.
    wrong = counts["misses"] + counts["false_alarms"]
    varies = (wrong > 0) | ((counts["hits"] > 0) & (counts["correct_negatives"] > 0))
    return {
        "csi": table.critical_success_index(),
        "hss": table.heidke_skill_score().where(varies),
        "ets": table.equitable_threat_score().where(varies),
        "pod": table.probability_of_detection(),
        "far": table.false_alarm_ratio(),
        # False alarms with no event observed: a ratio without a denominator, not an infinite one.
        "bias": bias.where(np.isfinite(bias)),
    }
