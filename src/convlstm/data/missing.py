"""Missing values in what a model is given."""

from __future__ import annotations

import numpy as np

from .units import Field


def carry_forward(values: Field) -> Field:
    """Fill missing values with the last known one of the same pixel, and with 0 before any is known.

    Args:
        values: (batch, time, channel, height, width), NaN where missing.

    Returns:
        The same without NaN; the values given stay as they are.

    Example:
        >>> carry_forward(np.array([[np.nan, 2.0, np.nan]], np.float32).reshape(1, 3, 1, 1, 1)).ravel()
        array([0., 2., 2.], dtype=float32)
    """
    filled = np.where(np.isfinite(values), values, np.float32(np.nan))
    for t in range(1, filled.shape[1]):
        filled[:, t] = np.where(np.isnan(filled[:, t]), filled[:, t - 1], filled[:, t])
    return np.nan_to_num(filled, copy=False, nan=0.0)
