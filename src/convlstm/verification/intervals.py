"""Confidence intervals of scores by a bootstrap over cases."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

DRAWS = 1000
BOUNDS = (0.05, 0.95)
"""The quantiles of the draws that make a 90 % interval."""


def resampling_weights(cases: int, seed: int) -> xr.DataArray:
    """Return the weight of each case in the sample and in each bootstrap draw.

    Args:
        cases: Number of cases.
        seed: Seed of the draws.

    Returns:
        Weights (draw, init_time): ones in row 0, which is the sample, then 1000 draws with replacement.

    Example:
        >>> weights = resampling_weights(3, seed=0)
        >>> weights.shape, weights[0].values.tolist(), float(weights[1].sum())
        ((1001, 3), [1.0, 1.0, 1.0], 3.0)
    """
    draws = np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), size=DRAWS)
    weights = np.concatenate([np.ones((1, cases)), draws])
    return xr.DataArray(weights, dims=("draw", "init_time"))


def pool(sums: xr.Dataset, weights: xr.DataArray) -> xr.Dataset:
    """Return the sums over cases, for the sample and each bootstrap draw.

    Args:
        sums: Sums per case (init_time).
        weights: Weights (draw, init_time) of `resampling_weights`.

    Returns:
        Pooled sums (draw).

    Example:
        >>> sums = xr.Dataset({"pixels": ("init_time", [2.0, 5.0])})
        >>> float(pool(sums, resampling_weights(2, seed=0))["pixels"][0])
        7.0
    """
    return sums.map(lambda column: xr.dot(weights, column, dim="init_time"))


def value_and_interval(score: xr.DataArray, cases: int) -> tuple[float, float, float]:
    """Return the value and the 90 % interval of a score from its draws.

    Args:
        score: Score (draw); the first is that of the sample.
        cases: Number of cases.

    Returns:
        Value, lower and upper bound. The bounds are NaN for a single case and for an undefined value. Draws with an
        undefined score are ignored.

    Example:
        >>> value_and_interval(xr.DataArray([0.5, 0.4, 0.6], dims="draw"), cases=1)
        (0.5, nan, nan)
    """
    value, draws = float(score[0]), score.values[1:]
    defined: NDArray[np.float64] = draws[np.isfinite(draws)]
    if cases < 2 or np.isnan(value) or not defined.size:
        return value, np.nan, np.nan
    lower, upper = np.quantile(defined, BOUNDS)
    return value, float(lower), float(upper)
