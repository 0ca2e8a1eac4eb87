"""Scores of events: forecast and observed values at or above a threshold."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scores.categorical import BasicContingencyManager
from scores.fast.fss.fss_numpy import FssNumpy
from scores.utils import NumpyThresholdOperator

COUNTS = {
    "hits": "tp_count",
    "misses": "fn_count",
    "false_alarms": "fp_count",
    "correct_negatives": "tn_count",
}
"""Our names of the four cells of the contingency table, and those of `scores`."""


def event_sums(forecast: xr.DataArray, observation: xr.DataArray, threshold: float, fss_window: int) -> xr.Dataset:
    """Return the sums per case for the scores of events: values at or above the threshold, in the data's precision.

    Both arrays are (init_time, y, x), NaN where missing. The result has the four counts of the contingency table, and
    `fss_error` and `fss_reference`, the numerator and denominator of the fractions skill score (Roberts & Lean 2008,
    equations 5 to 7).
    """
    valid = forecast.notnull() & observation.notnull()
    predicted, observed = (forecast >= threshold) & valid, (observation >= threshold) & valid
    sums = xr.Dataset(
        {
            "hits": predicted & observed,
            "misses": ~predicted & observed,
            "false_alarms": predicted & ~observed,
            "correct_negatives": valid & ~predicted & ~observed,
        }
    ).sum(("y", "x"))
    return sums.assign(_fss_sums(predicted, observed, fss_window)).astype(np.float64)


def event_scores(sums: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return `csi`, `pod`, `far`, `bias` (frequency bias) and `fss` of pooled sums; NaN where a score is undefined."""
    table = BasicContingencyManager({theirs: sums[ours] for ours, theirs in COUNTS.items()})
    bias = table.frequency_bias()
    return {
        "csi": table.critical_success_index(),
        "pod": table.probability_of_detection(),
        "far": table.false_alarm_ratio(),
        # False alarms with no event observed: a ratio without a denominator, not an infinite one.
        "bias": bias.where(np.isfinite(bias)),
        "fss": 1.0 - sums["fss_error"] / sums["fss_reference"],
    }


def _fss_sums(predicted: xr.DataArray, observed: xr.DataArray, window: int) -> dict[str, xr.DataArray]:
    """Return the parts of the score from `scores`, whose pooled score has no interval and is 0 for 0/0."""
    parts = [
        FssNumpy(
            fcst=p,
            obs=o,
            event_threshold=np.float64(0),
            threshold_operator=NumpyThresholdOperator(np.greater),
            window_size=(window, window),
            zero_padding=False,
        )
        .compute_fss_decomposed()
        .item()
        for p, o in zip(predicted.values, observed.values, strict=True)
    ]
    forecast_power, observed_power, error = np.array(parts).T
    return {
        "fss_error": xr.DataArray(error, dims="init_time"),
        "fss_reference": xr.DataArray(forecast_power + observed_power, dims="init_time"),
    }
