"""The score that stands for a forecast where only one can be shown: event, lead time, and the best and worst case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PREFERRED_THRESHOLD = 1.0
"""Rain rate in mm/h that people notice, and that nowcasting papers report."""


def main_threshold(thresholds: Sequence[float], units: str, *, rain: bool) -> float | None:
    """Return the threshold whose CSI is the main score, or None if it is RMSE.

    Rain has CSI at 1 mm/h, or at the middle threshold if 1 mm/h is none of them. Reflectivity has CSI at the middle
    threshold. Any other variable has RMSE, because its thresholds are percentiles, which have no fixed meaning.

    Args:
        thresholds: Thresholds of the evaluation, in `units`; may be empty.
        units: Unit of the data.
        rain: Whether the data is rain in mm/h.

    Returns:
        The threshold.

    Example:
        >>> main_threshold([0.1, 1.0, 5.0], "mm/h", rain=True), main_threshold([280.0, 290.0], "K", rain=False)
        (1.0, None)
    """
    if not thresholds or not (rain or units == "dBZ"):
        return None
    if rain and PREFERRED_THRESHOLD in thresholds:
        return PREFERRED_THRESHOLD
    return float(sorted(thresholds)[len(thresholds) // 2])


def main_lead_time(lead_times: Sequence[float] | NDArray[np.float64]) -> float:
    """Return the lead time that is nearest to half the horizon, in the unit of the lead times.

    Example:
        >>> main_lead_time([5.0, 15.0, 30.0, 60.0])
        30.0
    """
    half = lead_times[-1] / 2
    return float(min(lead_times, key=lambda lead: abs(lead - half)))
