"""Resample cases in blocks of time, because forecasts that start close together have similar errors.

The stationary bootstrap (Politis & Romano 1994) draws blocks of consecutive cases with lengths that follow a geometric
distribution. Its mean length comes from the correlation of the series (Politis & White 2004, corrected by Patton,
Politis & White 2009), as implemented in `arch`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

MIN_CASES = 8
"""Below this number of cases no correlation can be estimated, and cases are drawn one by one."""


def stationary_weights(cases: int, block_length: float, *, draws: int, seed: int) -> xr.DataArray:
    """Return how often each case occurs in the sample and in each draw of a stationary bootstrap.

    Args:
        cases: Number of cases, in order of time.
        block_length: Mean number of consecutive cases in a block, at least 1; 1 draws cases independently.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        Weights (draw, init_time): ones in row 0, which is the sample, then one row for each draw.

    Example:
        >>> weights = stationary_weights(5, 2.0, draws=3, seed=0)
        >>> weights.shape, weights.sum("init_time").values.tolist()
        ((4, 5), [5.0, 5.0, 5.0, 5.0])
    """
    random = np.random.default_rng(seed)
    index = random.integers(cases, size=draws)
    weights = np.zeros((draws, cases))
    row = np.arange(draws)
    for _ in range(cases):
        weights[row, index] += 1.0
        starts_new = random.random(draws) < 1.0 / block_length
        index = np.where(starts_new, random.integers(cases, size=draws), (index + 1) % cases)
    return xr.DataArray(np.concatenate([np.ones((1, cases)), weights]), dims=("draw", "init_time"))


def automatic_block_length(series: NDArray[np.float64]) -> float:
    """Return the mean block length that suits the correlation of a series in time.

    Args:
        series: One value for each case (init_time), in order of time, such as its influence on a score.

    Returns:
        A length from 1 to a third of the number of cases; 1 for a short or constant series.

    Example:
        >>> automatic_block_length(np.zeros(40))
        1.0
    """
    if len(series) < MIN_CASES or np.ptp(series) == 0:
        return 1.0
    from arch.bootstrap import optimal_block_length  # takes a second to import

    with np.errstate(divide="ignore", invalid="ignore"):  # a part of the series may be constant
        length = float(optimal_block_length(series)["stationary"].iloc[0])
    if not np.isfinite(length):
        return 1.0
    return float(np.clip(length, 1.0, len(series) / 3))
