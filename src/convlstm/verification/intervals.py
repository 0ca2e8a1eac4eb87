"""Confidence intervals of scores by a bootstrap over cases."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

DRAWS = 1000
BOUNDS = (0.05, 0.95)
"""The quantiles of the draws that make a 90 % interval."""


def resampling_weights(cases: int, seed: int) -> xr.DataArray:
    """Return the weight of each case (draw, init_time): ones for the sample, then 1000 draws with replacement."""
    draws = np.random.default_rng(seed).multinomial(cases, np.full(cases, 1 / cases), size=DRAWS)
    weights = np.concatenate([np.ones((1, cases)), draws])
    return xr.DataArray(weights, dims=("draw", "init_time"))


def pool(sums: xr.Dataset, weights: xr.DataArray) -> xr.Dataset:
    """Return the sums over cases, for the sample and each bootstrap draw (draw,)."""
    return sums.map(lambda column: xr.dot(weights, column, dim="init_time"))


def value_and_interval(score: xr.DataArray, cases: int) -> tuple[float, float, float]:
    """Return the value and the 90 % interval of a score (draw,), whose first entry is that of the sample.

    The bounds are NaN for a single case and for an undefined value. Draws with an undefined score are ignored.
    """
    value, draws = float(score[0]), score.values[1:]
    defined: NDArray[np.float64] = draws[np.isfinite(draws)]
    if cases < 2 or np.isnan(value) or not defined.size:
        return value, np.nan, np.nan
    lower, upper = np.quantile(defined, BOUNDS)
    return value, float(lower), float(upper)
