"""Scores of values: the errors of the forecast, in the unit of the data."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scores.continuous import mae, mean_error, mse


def error_sums(forecast: xr.DataArray, observation: xr.DataArray) -> xr.Dataset:
    """Return the sums per case for the scores of values; both arrays are (init_time, y, x), NaN where missing.

    `pixels` is the number of pairs; the others are sums of the squared, absolute and signed error (forecast −
    observation).
    """
    pixels = (forecast.notnull() & observation.notnull()).sum(("y", "x"))
    # Single precision would lose digits of a sum over millions of pixels.
    pair = forecast.astype(np.float64), observation.astype(np.float64)
    means = {"squared": mse, "absolute": mae, "signed": mean_error}
    sums = {name: (mean(*pair, preserve_dims="init_time") * pixels).fillna(0.0) for name, mean in means.items()}
    return xr.Dataset({"pixels": pixels.astype(np.float64), **sums})


def error_scores(sums: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return `rmse`, `mae` and `mean_error` of pooled sums; NaN without any pair."""
    means = sums / sums["pixels"]
    return {"rmse": means["squared"] ** 0.5, "mae": means["absolute"], "mean_error": means["signed"]}
