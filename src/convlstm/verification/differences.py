"""The difference of each score between a method and the others, with intervals.

Methods are scored on the same cases, so the interval of a difference is much narrower than those of the two scores.
Cases that start close together have similar errors, so they are drawn in blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm.verification.blocks import automatic_block_length
from convlstm.verification.intervals import resampling_weights, value_and_interval
from convlstm.verification.scorecard import CaseSums

_COLUMNS = (
    *("method", "other", "lead_time", "score", "threshold", "difference", "lower", "upper", "block_length"),
    "cases",
)
_NUDGE = 1e-3  # added to the weight of one case, to find its influence on a score


def difference_table(sums: Sequence[CaseSums], method: str, *, seed: int = 0) -> pd.DataFrame:
    """Return the score of a method minus that of each other method, with 90 % intervals.

    The intervals are those of a stationary bootstrap of the cases in order of time. The mean block length follows from
    the correlation of the cases' influence on the difference of CSI, for each threshold, and of RMSE, for the errors.

    Args:
        sums: The result of `case_sums`.
        method: The method that the others are compared with.
        seed: Seed of the bootstrap.

    Returns:
        One row per other method, lead_time (minutes), score and threshold, with the columns method, other, lead_time,
        score, threshold, difference, lower, upper, block_length (in cases) and cases.

    Example:
        >>> from convlstm.verification.scorecard import case_sums
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> both = xr.concat([rain, 0 * rain], pd.Index(["good", "dry"], name="method"))
        >>> table = difference_table(case_sums(both, rain, thresholds=[1.0], fss_window=2), "good")
        >>> table[table.score == "csi"][["other", "difference"]].values.tolist()
        [['dry', 1.0]]
    """
    rows: list[dict[str, object]] = []
    for ours in sums:
        for other in sums:
            if ours.method == method != other.method and ours.lead_time == other.lead_time:
                for threshold in ours.groups:
                    rows += _difference_rows(ours, other, threshold, seed)
    return pd.DataFrame(rows, columns=list(_COLUMNS))  # with a heading where nothing is compared


def _difference_rows(ours: CaseSums, other: CaseSums, threshold: float, seed: int) -> list[dict[str, object]]:
    count = ours.errors.sizes["init_time"]
    block_length = automatic_block_length(_influence(ours, other, threshold))
    weights = resampling_weights(count, seed, block_length)
    theirs = other.scores(threshold, weights)
    cases = min(ours.cases, other.cases)
    rows: list[dict[str, object]] = []
    for name, score in ours.scores(threshold, weights).items():
        difference, lower, upper = value_and_interval(score - theirs[name], cases)
        rows.append(
            {
                "method": ours.method,
                "other": other.method,
                "lead_time": ours.lead_time,
                "score": name,
                "threshold": threshold,
                "difference": difference,
                "lower": lower,
                "upper": upper,
                "block_length": block_length,
                "cases": cases,
            }
        )
    return rows


def _influence(ours: CaseSums, other: CaseSums, threshold: float) -> NDArray[np.float64]:
    """Return the influence of each case (init_time,) on the difference of CSI or RMSE; 0 where it is undefined."""
    count = ours.errors.sizes["init_time"]
    weights = np.concatenate([np.ones((1, count)), 1.0 + _NUDGE * np.eye(count)])
    probe = xr.DataArray(weights, dims=("draw", "init_time"))
    difference = (ours.main_score(threshold, probe) - other.main_score(threshold, probe)).values
    influence: NDArray[np.float64] = np.nan_to_num((difference[1:] - difference[0]) / _NUDGE)
    return influence
