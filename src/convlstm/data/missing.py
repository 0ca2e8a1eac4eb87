"""Missing values in the input of a model."""

from __future__ import annotations

import numpy as np

from convlstm.data.units import Field


def carry_forward(values: Field) -> Field:
    """Return values with missing ones replaced by the last known value of the pixel, or by 0 without one.

    Args:
        values: (batch, time, channel, height, width), NaN where missing.

    Returns:
        A copy without NaN; the argument is not changed.

    Example:
        >>> carry_forward(np.array([[np.nan, 2.0, np.nan]], np.float32).reshape(1, 3, 1, 1, 1)).ravel()
        array([0., 2., 2.], dtype=float32)
    """
    filled = np.where(np.isfinite(values), values, np.float32(np.nan))
    for t in range(1, filled.shape[1]):
        filled[:, t] = np.where(np.isnan(filled[:, t]), filled[:, t - 1], filled[:, t])
    return np.nan_to_num(filled, copy=False, nan=0.0)
