"""Confidence intervals of scores by a bootstrap over cases."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

DRAWS = 1000
BOUNDS = (0.05, 0.95)
"""The quantiles of the draws that make a 90 % interval."""


def resampling_weights(cases: int, seed: int, block_length: float = 1.0, *, draws: int = DRAWS) -> xr.DataArray:
    """Return how often each case occurs in the sample and in each draw of a stationary bootstrap.

    Blocks of consecutive cases are drawn, with lengths that follow a geometric distribution (Politis & Romano 1994).

    Args:
        cases: Number of cases, in order of time.
        seed: Seed of the draws.
        block_length: Mean number of cases in a block, at least 1; 1 draws the cases independently.
        draws: Number of draws.

    Returns:
        Weights (draw, init_time): ones in row 0, which is the sample, then one row for each draw.

    Example:
        >>> weights = resampling_weights(5, seed=0, block_length=2.0, draws=3)
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


def pool(sums: xr.Dataset, weights: xr.DataArray) -> xr.Dataset:
    """Return the sums over cases, for the sample and each bootstrap draw (draw,)."""
    by_draw = weights.transpose("draw", "init_time").values

    def pooled(column: xr.DataArray) -> xr.DataArray:
        """Return the product of weights and one column, by NumPy: `xarray.dot` takes a millisecond for each."""
        others = tuple(dim for dim in column.dims if dim != "init_time")
        values = np.tensordot(by_draw, column.transpose("init_time", *others).values, axes=1)
        coords = {name: column.coords[name] for name in others if name in column.coords}
        return xr.DataArray(values, dims=("draw", *others), coords=coords)

    return sums.map(pooled)


def value_and_interval(
    score: xr.DataArray | NDArray[np.floating], cases: int, bounds: tuple[float, float] = BOUNDS
) -> tuple[float, float, float]:
    """Return the value and the 90 % interval of a score (draw,), whose first entry is that of the sample.

    `bounds` are the quantiles of the draws for another interval.

    The bounds are NaN for a single case and for an undefined value. Draws with an undefined score are ignored.
    """
    values = np.asarray(score)
    value, draws = float(values[0]), values[1:]
    defined: NDArray[np.float64] = draws[np.isfinite(draws)]
    if cases < 2 or np.isnan(value) or not defined.size:
        return value, np.nan, np.nan
    lower, upper = np.quantile(defined, bounds)
    return value, float(lower), float(upper)
