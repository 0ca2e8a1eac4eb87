"""The fractions skill score: agreement of the share of event cells in square windows of several widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

FSS_WINDOWS = (1, 5, 10, 20, 40)
"""Widths of the windows in cells that are compared; those wider than the grid are left out."""


def fraction_sums(
    predicted: NDArray[np.bool_], observed: NDArray[np.bool_], windows: Sequence[int]
) -> dict[int, xr.Dataset]:
    """Return the parts of the fractions skill score for each case, by width of the window.

    All square windows inside the grid are compared (Roberts & Lean 2008, equations 5 to 7). The score is that of
    `scores.spatial.fss_2d`; here one sum over the grid serves all widths and cases.

    Args:
        predicted: Forecast events (init_time, y, x).
        observed: Observed events (init_time, y, x).
        windows: Widths in cells, each from 1 to the shorter side of the grid.

    Returns:
        For each width `fss_error` and `fss_reference` (init_time,), numerator and denominator of 1 − FSS.

    Example:
        >>> sums = fraction_sums(np.eye(3, dtype=bool)[None], np.ones((1, 3, 3), bool), [1])[1]
        >>> sums["fss_error"].values.tolist(), sums["fss_reference"].values.tolist()
        ([6.0], [12.0])
    """
    forecast_totals, observed_totals = _running_totals(predicted), _running_totals(observed)
    sums = {}
    for window in windows:
        forecast_counts = _window_counts(forecast_totals, window)
        observed_counts = _window_counts(observed_totals, window)
        difference = forecast_counts - observed_counts
        reference = _sum_of_squares(forecast_counts) + _sum_of_squares(observed_counts)
        cells = float(window) ** 4  # the square of the number of cells turns counts into fractions
        parts = {"fss_error": _sum_of_squares(difference) / cells, "fss_reference": reference / cells}
        sums[window] = xr.Dataset({name: ("init_time", part) for name, part in parts.items()})
    return sums


def fraction_score(sums: xr.Dataset) -> xr.DataArray:
    """Return the fractions skill score of pooled sums; NaN where neither field has an event."""
    return 1.0 - sums["fss_error"] / sums["fss_reference"]


def _running_totals(events: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the number of events above and left of each corner of a cell (init_time, y + 1, x + 1)."""
    cases, height, width = events.shape
    totals = np.zeros((cases, height + 1, width + 1), np.int32)
    np.cumsum(events, axis=1, dtype=np.int32, out=totals[:, 1:, 1:])
    np.cumsum(totals[:, 1:, 1:], axis=2, out=totals[:, 1:, 1:])
    return totals


def _window_counts(totals: NDArray[np.int32], window: int) -> NDArray[np.float32]:
    """Return the number of events in each window; exact, since the largest window has less than 2^24 cells."""
    rows = totals[:, window:] - totals[:, :-window]
    counts: NDArray[np.float32] = (rows[:, :, window:] - rows[:, :, :-window]).astype(np.float32)
    return counts


def _sum_of_squares(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum over y and x, in double precision."""
    sums: NDArray[np.float64] = np.einsum("nyx,nyx->n", values, values, dtype=np.float64, casting="safe")
    return sums
