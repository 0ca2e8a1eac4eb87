"""The mean block length of a bootstrap of cases that follow each other in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MIN_CASES = 8
"""Below this number of cases no correlation can be estimated, and cases are drawn one by one."""


def automatic_block_length(series: NDArray[np.float64]) -> float:
    """Return the mean block length that suits the correlation of a series in time.

    Politis & White (2004), corrected by Patton, Politis & White (2009), as implemented in `arch`.

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
