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
    """Return the sums per case for the scores of events.

    Args:
        forecast: Forecasts (init_time, y, x), NaN where missing.
        observation: Observations (init_time, y, x), NaN where missing.
        threshold: An event is a value at or above this, compared in the precision of the data.
        fss_window: Side of the square window of the fractions skill score in pixels.

    Returns:
        Dataset over init_time: the four counts of the contingency table, and `fss_error` and `fss_reference`, the
        numerator and denominator of the fractions skill score (Roberts & Lean 2008, equations 5 to 7).

    Example:
        >>> rain = xr.DataArray([[[0.0, 2.0], [0.0, np.nan]]], dims=("init_time", "y", "x"))
        >>> int(event_sums(rain, rain, 1.0, 1)["correct_negatives"].sum())
        2
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
    """Return the scores of pooled sums.

    Args:
        sums: The result of `event_sums`, summed over cases, with any further axes.

    Returns:
        `csi`, `pod`, `far`, `bias` (frequency bias) and `fss`, on those axes; NaN where a score is undefined.

    Example:
        >>> counts = dict(hits=82, misses=23, false_alarms=38, correct_negatives=222)
        >>> sums = xr.Dataset({name: ((), float(n)) for name, n in counts.items()}).assign(
        ...     fss_error=0.0, fss_reference=1.0)
        >>> {name: round(float(value), 3) for name, value in event_scores(sums).items()}
        {'csi': 0.573, 'pod': 0.781, 'far': 0.317, 'bias': 1.143, 'fss': 1.0}
    """
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
