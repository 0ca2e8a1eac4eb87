"""The table of scores by method, lead time and threshold, with their counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm.errors import DataError
from convlstm.verification.arguments import check_dimensions, check_minutes, check_same_entries
from convlstm.verification.categorical import (
    COUNTS,
    critical_success_index,
    event_counts,
    event_fractions,
    event_scores,
    find_events,
)
from convlstm.verification.continuous import error_scores, error_sums
from convlstm.verification.fractions import FSS_WINDOWS, fraction_score
from convlstm.verification.intervals import pool, resampling_weights, value_and_interval
from convlstm.verification.probabilities import (
    brier_scores,
    brier_sums,
    brier_sums_of_events,
    check_probability,
    check_range,
)

DIMS = ("method", "init_time", "lead_time", "y", "x")
_NO_PROBABILITIES = xr.DataArray(np.empty(0), dims="threshold", coords={"threshold": np.empty(0)})
_FRACTIONS = ("fss_error", "fss_reference")
_BRIER = ("brier_error", "brier_events", "brier_pixels")
_ERRORS = ("pixels", "squared", "absolute", "signed")
_FSS_COLUMNS = ("method", "lead_time", "threshold", "window", "value", "lower", "upper", "cases")


@dataclass(frozen=True, eq=False)
class CaseSums:
    """The sums per case (init_time, in order of time) of one method at one lead time, from which all scores follow."""

    method: str
    lead_time: float  # minutes
    fss_window: int  # the width in cells that gives the score `fss`
    counts: Mapping[float, xr.Dataset]  # by threshold, from `event_counts`
    fractions: Mapping[float, Mapping[int, xr.Dataset]]  # by threshold and width, from `event_fractions`
    brier: Mapping[float, xr.Dataset]  # by threshold, from `brier_sums`; empty if no method has probabilities
    errors: xr.Dataset  # from `error_sums`

    @property
    def cases(self) -> int:
        """Number of cases with at least one pair of values."""
        return int((self.errors["pixels"] > 0).sum())

    @property
    def groups(self) -> list[float]:
        """The thresholds, and NaN for the errors."""
        return [*self.counts, np.nan]

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the sums as arrays, whose last axis is `init_time`, for `from_arrays`.

        They are `counts` (threshold, count), `fractions` (threshold, window, part), `brier` (threshold, part) if there
        are probabilities, and `errors` (part).
        """
        by_window = [list(windows.values()) for windows in self.fractions.values()]
        arrays = {
            "counts": np.stack([_stacked(counts, COUNTS) for counts in self.counts.values()]),
            "fractions": np.stack([np.stack([_stacked(sums, _FRACTIONS) for sums in row]) for row in by_window]),
            "errors": _stacked(self.errors, _ERRORS),
        }
        if self.brier:
            arrays["brier"] = np.stack([_stacked(sums, _BRIER) for sums in self.brier.values()])
        return arrays

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[np.float64]],
        method: str,
        lead_time: float,
        thresholds: Sequence[float],
        windows: Sequence[int],
        fss_window: int,
    ) -> CaseSums:
        """Return the sums of the arrays of `to_arrays`."""
        counts = {t: _unstacked(row, COUNTS) for t, row in zip(thresholds, arrays["counts"], strict=True)}
        fractions = {
            t: {w: _unstacked(sums, _FRACTIONS) for w, sums in zip(windows, row, strict=True)}
            for t, row in zip(thresholds, arrays["fractions"], strict=True)
        }
        brier = {t: _unstacked(row, _BRIER) for t, row in zip(thresholds, arrays.get("brier", ()), strict=False)}
        return cls(method, lead_time, fss_window, counts, fractions, brier, _unstacked(arrays["errors"], _ERRORS))

    def scores(self, threshold: float, weights: xr.DataArray) -> dict[str, xr.DataArray]:
        """Return the scores (draw,) of the weighted cases by name: those of a threshold, or for NaN the errors."""
        if threshold not in self.counts:
            return error_scores(pool(self.errors, weights))
        scores = event_scores(pool(self.counts[threshold], weights))
        scores["fss"] = fraction_score(pool(self.fractions[threshold][self.fss_window], weights))
        if threshold in self.brier:
            scores |= brier_scores(pool(self.brier[threshold], weights))
        return scores

    def main_score(self, threshold: float, weights: xr.DataArray) -> xr.DataArray:
        """Return CSI at a threshold, or for NaN RMSE (draw,)."""
        if threshold not in self.counts:
            return error_scores(pool(self.errors, weights))["rmse"]
        return critical_success_index(pool(self.counts[threshold], weights))


def score_forecasts(
    forecast: xr.DataArray,
    observation: xr.DataArray,
    *,
    thresholds: Sequence[float],
    fss_window: int = 10,
    probabilities: Mapping[str, xr.DataArray] | None = None,
    means: Mapping[str, xr.DataArray] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score forecasts by method, lead time and threshold.

    Counts and errors are pooled over all cases and pixels before scoring. A pair with a missing forecast or
    observation is ignored. A score whose denominator is zero is NaN.

    Args:
        forecast: Forecasts (method, init_time, lead_time, y, x), NaN where missing, with coordinates method and
            lead_time (minutes).
        observation: Observations at the valid times of the forecasts (init_time, lead_time, y, x), in the same unit.
        thresholds: An event is a value at or above a threshold, in the unit of the data; may be empty.
        fss_window: Side of the window of the fractions skill score in pixels.
        probabilities: Probabilities of some methods, by method, as in `score_probabilities`. With them the table has
            `brier` and `bss` for every method and threshold. Events of 0 and 1 are the probabilities of a method that
            has none at a threshold.
        means: Forecasts of some methods, by method, whose errors are scored instead (init_time, lead_time, y, x): a
            field that is best for events is not the mean, which has the least squared error.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per method, lead_time, score and threshold: `csi`, `hss`, `ets`, `pod`, `far`, `bias`, `fss` at each
        threshold; `rmse`, `mae`, `mean_error` with threshold NaN. Columns: method, lead_time (minutes), score,
        threshold, value, lower, upper (90 % interval), hits, misses, false_alarms, correct_negatives, cases, pixels.

    Raises:
        DataError: if dimensions, coordinates, thresholds, window or probabilities do not fit.

    Example:
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> table = score_forecasts(rain.expand_dims(method=["perfect"]), rain, thresholds=[1.0], fss_window=2)
        >>> table[table.score == "csi"][["lead_time", "value", "hits", "misses"]].values.tolist()
        [[5.0, 1.0, 4, 0]]
    """
    sums = case_sums(
        forecast, observation, thresholds=thresholds, fss_window=fss_window, probabilities=probabilities, means=means
    )
    return score_table(sums, seed=seed)


def case_sums(
    forecast: xr.DataArray,
    observation: xr.DataArray,
    *,
    thresholds: Sequence[float],
    fss_window: int = 10,
    probabilities: Mapping[str, xr.DataArray] | None = None,
    means: Mapping[str, xr.DataArray] | None = None,
) -> list[CaseSums]:
    """Return the sums of every method and lead time; arguments and errors as in `score_forecasts`."""
    _check(forecast, observation, thresholds, fss_window)
    for array in (probabilities or {}).values():
        check_probability(array, observation)
    for array in (means or {}).values():
        check_dimensions("mean", array, DIMS[1:])
        check_same_entries("mean", array, observation, DIMS[1:])
    # A fixed order, so that the same seed draws the same cases for every order in the file.
    order = np.argsort(forecast["init_time"].values, kind="stable")
    all_sums = []
    for method in range(forecast.sizes["method"]):
        for lead in range(forecast.sizes["lead_time"]):
            # One lead time at a time, so that files larger than memory can be scored.
            predicted = forecast[{"method": method, "init_time": order, "lead_time": lead}].compute()
            observed = observation[{"init_time": order, "lead_time": lead}].compute()
            probability: xr.DataArray | None = None
            if probabilities:
                probability = probabilities.get(str(predicted["method"].item()), _NO_PROBABILITIES)
                probability = probability.isel(init_time=order, lead_time=lead, missing_dims="ignore")
            method_name, lead_time = str(predicted["method"].item()), float(predicted["lead_time"])
            mean = (means or {}).get(method_name)
            mean = None if mean is None else mean[{"init_time": order, "lead_time": lead}]
            fields = FieldsOfMethod(predicted, observed, probability, mean)
            all_sums.append(fields.sums(method_name, lead_time, [float(t) for t in thresholds], fss_window))
    return all_sums


@dataclass(frozen=True, eq=False)
class FieldsOfMethod:
    """The forecasts of one method and the observations (init_time, y, x).

    The probabilities have (init_time, threshold, y, x). They have no threshold for a method without probabilities, and
    are None if no method has any. The errors are those of the mean, if it is given.
    """

    predicted: xr.DataArray
    observed: xr.DataArray
    probability: xr.DataArray | None = None
    mean: xr.DataArray | None = None

    def sums(self, method: str, lead_time: float, thresholds: Sequence[float], fss_window: int) -> CaseSums:
        """Return the sums of each entry of `init_time`."""
        windows = fss_windows(fss_window, self.observed.shape[1:])
        counts, fractions, brier = {}, {}, {}
        for threshold in thresholds:
            events = find_events(self.predicted, self.observed, threshold)
            counts[threshold] = event_counts(events)
            fractions[threshold] = event_fractions(events, windows)
            if self.probability is not None:
                brier[threshold] = self._brier_sums(self.probability, threshold, counts[threshold])
        errors = error_sums(self.predicted if self.mean is None else self.mean, self.observed)
        return CaseSums(method, lead_time, fss_window, counts, fractions, brier, errors)

    def _brier_sums(self, probability: xr.DataArray, threshold: float, counts: xr.Dataset) -> xr.Dataset:
        place = np.flatnonzero(np.isclose(probability["threshold"].values, threshold, rtol=1e-6, atol=0))
        if not place.size:
            return brier_sums_of_events(counts)
        chance = probability[{"threshold": int(place[0])}].compute()
        check_range(chance)
        return brier_sums(chance, self.observed, threshold)


def fss_windows(fss_window: int, grid: tuple[int, ...]) -> list[int]:
    """Return the widths in cells for which the fractions skill score is computed on a grid."""
    return sorted({fss_window, *(w for w in FSS_WINDOWS if w <= min(grid))})


def score_table(sums: Sequence[CaseSums], *, seed: int = 0) -> pd.DataFrame:
    """Return the table of `score_forecasts` from sums per case."""
    weights = resampling_weights(sums[0].errors.sizes["init_time"], seed)
    rows = [row for each in sums for row in _score_rows(each, weights)]
    return pd.DataFrame(rows).astype(dict.fromkeys([*COUNTS, "cases", "pixels"], "Int64"))


def fss_table(sums: Sequence[CaseSums], *, seed: int = 0) -> pd.DataFrame:
    """Return the fractions skill score for windows of several widths.

    The widths are 1, 5, 10, 20 and 40 cells, without those wider than the grid, and that of the score `fss`.

    Args:
        sums: The result of `case_sums`.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per method, lead_time (minutes), threshold and window (width in cells), with the columns method,
        lead_time, threshold, window, value, lower, upper (90 % interval) and cases.

    Example:
        >>> rain = xr.DataArray(np.eye(6)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> table = fss_table(case_sums(rain.expand_dims(method=["perfect"]), rain, thresholds=[1.0], fss_window=2))
        >>> table[["window", "value"]].values.tolist()
        [[1.0, 1.0], [2.0, 1.0], [5.0, 1.0]]
    """
    weights = resampling_weights(sums[0].errors.sizes["init_time"], seed)
    rows: list[dict[str, object]] = []
    for each in sums:
        for threshold, by_window in each.fractions.items():
            for window, parts in by_window.items():
                value, lower, upper = value_and_interval(fraction_score(pool(parts, weights)), each.cases)
                key = {"method": each.method, "lead_time": each.lead_time, "threshold": threshold, "window": window}
                rows.append(key | {"value": value, "lower": lower, "upper": upper, "cases": each.cases})
    return pd.DataFrame(rows, columns=list(_FSS_COLUMNS))


def skill_table(scores: pd.DataFrame, score: str, threshold: float | None = None) -> pd.DataFrame:
    """Return one score as a table of lead time × method.

    Args:
        scores: The result of `score_forecasts`, also after a round trip through CSV.
        score: Name of the score.
        threshold: Threshold of a score of events; none for a score of values.

    Returns:
        Values with lead_time in minutes as index and one column per method, in the order of `scores`.

    Raises:
        DataError: if there is no such score at this threshold.

    Example:
        >>> scores = pd.DataFrame({"method": ["a", "b"], "lead_time": [5.0, 5.0], "score": ["mae", "mae"],
        ...                        "threshold": [np.nan, np.nan], "value": [0.5, 0.25]})
        >>> skill_table(scores, "mae").loc[5.0].to_dict()
        {'a': 0.5, 'b': 0.25}
    """
    at_threshold = scores["threshold"].isna() if threshold is None else scores["threshold"] == threshold
    chosen = scores[at_threshold & (scores["score"] == score)]
    if chosen.empty:
        available = scores[["score", "threshold"]].drop_duplicates()
        raise DataError(
            "score",
            expected="one of " + ", ".join(_label(s, t) for s, t in available.itertuples(index=False)),
            received=_label(score, np.nan if threshold is None else threshold),
            hint="Pass one of the listed scores.",
        )
    table = chosen.pivot(index="lead_time", columns="method", values="value")
    return table[list(chosen["method"].unique())]


def _score_rows(sums: CaseSums, weights: xr.DataArray) -> Iterator[dict[str, object]]:
    """Yield the rows of one method at one lead time."""
    size = {"cases": sums.cases, "pixels": int(sums.errors["pixels"].sum())}
    for threshold in sums.groups:
        counts: dict[str, int | None] = dict.fromkeys(COUNTS)
        if threshold in sums.counts:
            counts = {count: int(sums.counts[threshold][count].sum()) for count in COUNTS}
        for name, score in sums.scores(threshold, weights).items():
            value, lower, upper = value_and_interval(score, sums.cases)
            yield {
                "method": sums.method,
                "lead_time": sums.lead_time,
                "score": name,
                "threshold": threshold,
                "value": value,
                "lower": lower,
                "upper": upper,
                **counts,
                **size,
            }


def _stacked(sums: xr.Dataset, names: Iterable[str]) -> NDArray[np.float64]:
    """Return the columns of a dataset (column, init_time)."""
    return np.stack([sums[name].values for name in names]).astype(np.float64)


def _unstacked(values: NDArray[np.float64], names: Iterable[str]) -> xr.Dataset:
    return xr.Dataset({name: ("init_time", column) for name, column in zip(names, values, strict=True)})


def _label(score: str, threshold: float) -> str:
    return score if np.isnan(threshold) else f"{score} at {threshold:g}"


def _check(forecast: xr.DataArray, observation: xr.DataArray, thresholds: Sequence[float], fss_window: int) -> None:
    check_dimensions("forecast", forecast, DIMS)
    check_dimensions("observation", observation, DIMS[1:])
    check_same_entries("forecast", forecast, observation, DIMS[1:])
    check_minutes("forecast", forecast, ("method", "lead_time"))
    if not np.isfinite(np.asarray(thresholds, np.float64)).all():
        raise DataError(
            "thresholds",
            expected="finite numbers",
            received=str(list(thresholds)),
            hint="Remove NaN and infinity from `thresholds`.",
        )
    if not 1 <= fss_window <= min(forecast.shape[-2:]):
        raise DataError(
            "fss_window",
            expected=f"1 to {min(forecast.shape[-2:])} pixels, within the grid",
            received=fss_window,
            hint="Decrease `fss_window`.",
        )
