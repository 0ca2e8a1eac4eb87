"""Scores of values: the errors of the forecast, in the unit of the data."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scores.continuous import mae, mean_error, mse


def error_sums(forecast: xr.DataArray, observation: xr.DataArray) -> xr.Dataset:
    """Return the sums per case for the scores of values.

    Args:
        forecast: Forecasts (init_time, y, x), NaN where missing.
        observation: Observations (init_time, y, x), NaN where missing.

    Returns:
        Dataset over init_time: `pixels`, the number of pairs, and the sums over them of the squared, absolute and
        signed error (forecast − observation).

    Example:
        >>> dims = ("init_time", "y", "x")
        >>> sums = error_sums(xr.DataArray([[[1.0, 5.0]]], dims=dims), xr.DataArray([[[2.0, 3.0]]], dims=dims))
        >>> [float(sums[name].item()) for name in ("pixels", "squared", "absolute", "signed")]
        [2.0, 5.0, 3.0, 1.0]
    """
    pixels = (forecast.notnull() & observation.notnull()).sum(("y", "x"))
    # Single precision would lose digits of a sum over millions of pixels.
    pair = forecast.astype(np.float64), observation.astype(np.float64)
    means = {"squared": mse, "absolute": mae, "signed": mean_error}
    sums = {name: (mean(*pair, preserve_dims="init_time") * pixels).fillna(0.0) for name, mean in means.items()}
    return xr.Dataset({"pixels": pixels.astype(np.float64), **sums})


def error_scores(sums: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return the scores of pooled sums.

    Args:
        sums: The result of `error_sums`, summed over cases, with any further axes.

    Returns:
        `rmse`, `mae` and `mean_error` on those axes; NaN without any pair.

    Example:
        >>> sums = xr.Dataset({"pixels": 2.0, "squared": 8.0, "absolute": 4.0, "signed": 0.0})
        >>> {name: float(value) for name, value in error_scores(sums).items()}
        {'rmse': 2.0, 'mae': 2.0, 'mean_error': 0.0}
    """
    means = sums / sums["pixels"]
    return {"rmse": means["squared"] ** 0.5, "mae": means["absolute"], "mean_error": means["signed"]}
