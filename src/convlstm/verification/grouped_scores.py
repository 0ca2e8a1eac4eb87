"""Scores by case or by day: those of the table of scores, pooled over parts of the cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from convlstm.errors import DataError
from convlstm.verification.categorical import COUNTS
from convlstm.verification.intervals import pool
from convlstm.verification.scorecard import CaseSums


def grouped_table(sums: Sequence[CaseSums], groups: Sequence[str], name: str) -> pd.DataFrame:
    """Return the scores of each group of cases.

    Args:
        sums: The result of `case_sums`.
        groups: The group of each case, in order of time; with the start of each case, every case is a group.
        name: Name of the column of the groups.

    Returns:
        One row per group, method, lead_time (minutes) and threshold, with the counts and the scores of events, and one
        with threshold NaN and the errors `rmse`, `mae` and `mean_error`. `cases` and `pixels` are the numbers of cases
        with a pair of values and of those pairs. Columns that do not apply are NaN.

    Raises:
        DataError: if there is not one group for each case.

    Example:
        >>> from convlstm.verification.scorecard import case_sums
        >>> rain = xr.DataArray(np.ones((3, 1, 2, 2)), dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> rain[2] = 0.0
        >>> sums = case_sums(rain.expand_dims(method=["perfect"]), rain, thresholds=[1.0], fss_window=1)
        >>> table = grouped_table(sums, ["Monday", "Monday", "Tuesday"], "day")
        >>> table[table.threshold == 1.0][["day", "cases", "hits", "correct_negatives"]].values.tolist()
        [['Monday', 2, 8, 0], ['Tuesday', 1, 0, 4]]
    """
    cases = sums[0].errors.sizes["init_time"]
    if len(groups) != cases:
        raise DataError(
            "groups", expected=f"{cases}, one for each case", received=len(groups), hint="Pass one per case."
        )
    labels, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    members = (np.arange(len(labels))[:, None] == index).astype(np.float64)
    weights = xr.DataArray(members, dims=("draw", "init_time"))
    parts = [_rows(each, threshold, weights) for each in sums for threshold in each.groups]
    table = pd.concat(parts, ignore_index=True)
    table[name] = np.tile(labels, len(parts))
    table = table.sort_values(name, kind="stable", ignore_index=True)
    known = [column for column in table if column not in (name, *_KEY, *COUNTS, *_SIZES)]
    return table[[name, *_KEY, *COUNTS, *known, *_SIZES]].astype(dict.fromkeys([*COUNTS, *_SIZES], "Int64"))


_KEY = ("method", "lead_time", "threshold")
_SIZES = ("cases", "pixels")


def _rows(sums: CaseSums, threshold: float, weights: xr.DataArray) -> pd.DataFrame:
    """Return the rows of one method, lead time and threshold, one for each row of the weights."""
    has_values = xr.Dataset({"cases": (sums.errors["pixels"] > 0).astype(np.float64), "pixels": sums.errors["pixels"]})
    columns = {str(column): values.values for column, values in pool(has_values, weights).items()}
    counts = sums.counts.get(threshold)
    pooled = {} if counts is None else pool(counts, weights)
    for count in COUNTS:
        columns[count] = pooled[count].values if count in pooled else np.full(len(weights), np.nan)
    columns |= {score: values.values for score, values in sums.scores(threshold, weights).items()}
    return pd.DataFrame({"method": sums.method, "lead_time": sums.lead_time, "threshold": threshold, **columns})
