"""The table of scores by method, lead time and threshold, with their counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from convlstm.errors import DataError
from convlstm.verification.categorical import COUNTS, event_scores, event_sums
from convlstm.verification.continuous import error_scores, error_sums
from convlstm.verification.intervals import pool, resampling_weights, value_and_interval

DIMS = ("method", "init_time", "lead_time", "y", "x")


@dataclass(frozen=True, eq=False)
class CaseSums:
    """The sums per case (init_time, in order of time) of one method at one lead time, from which all scores follow."""

    method: str
    lead_time: float  # minutes
    events: Mapping[float, xr.Dataset]  # by threshold, from `event_sums`
    errors: xr.Dataset  # from `error_sums`

    @property
    def cases(self) -> int:
        """Number of cases with at least one pair of values."""
        return int((self.errors["pixels"] > 0).sum())

    @property
    def groups(self) -> list[float]:
        """The thresholds, and NaN for the errors."""
        return [*self.events, np.nan]

    def scores(self, threshold: float, weights: xr.DataArray) -> dict[str, xr.DataArray]:
        """Return the scores (draw,) of the weighted cases by name: those of a threshold, or for NaN the errors."""
        if threshold in self.events:
            return event_scores(pool(self.events[threshold], weights))
        return error_scores(pool(self.errors, weights))


def score_forecasts(
    forecast: xr.DataArray,
    observation: xr.DataArray,
    *,
    thresholds: Sequence[float],
    fss_window: int = 10,
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
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per method, lead_time, score and threshold: `csi`, `pod`, `far`, `bias`, `fss` at each threshold;
        `rmse`, `mae`, `mean_error` with threshold NaN. Columns: method, lead_time (minutes), score, threshold,
        value, lower, upper (90 % interval), hits, misses, false_alarms, correct_negatives, cases, pixels.

    Raises:
        DataError: if dimensions, coordinates, thresholds or window do not fit.

    Example:
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> table = score_forecasts(rain.expand_dims(method=["perfect"]), rain, thresholds=[1.0], fss_window=2)
        >>> table[table.score == "csi"][["lead_time", "value", "hits", "misses"]].values.tolist()
        [[5.0, 1.0, 4, 0]]
    """
    return score_table(case_sums(forecast, observation, thresholds=thresholds, fss_window=fss_window), seed=seed)


def case_sums(
    forecast: xr.DataArray, observation: xr.DataArray, *, thresholds: Sequence[float], fss_window: int = 10
) -> list[CaseSums]:
    """Return the sums of every method and lead time; arguments and errors as in `score_forecasts`."""
    _check(forecast, observation, thresholds, fss_window)
    # A fixed order, so that the same seed draws the same cases for every order in the file.
    order = np.argsort(forecast["init_time"].values, kind="stable")
    all_sums = []
    for method in range(forecast.sizes["method"]):
        for lead in range(forecast.sizes["lead_time"]):
            # One lead time at a time, so that files larger than memory can be scored.
            predicted = forecast[{"method": method, "init_time": order, "lead_time": lead}].compute()
            observed = observation[{"init_time": order, "lead_time": lead}].compute()
            all_sums.append(
                CaseSums(
                    method=str(predicted["method"].item()),
                    lead_time=float(predicted["lead_time"]),
                    events={t: event_sums(predicted, observed, t, fss_window) for t in map(float, thresholds)},
                    errors=error_sums(predicted, observed),
                )
            )
    return all_sums


def score_table(sums: Sequence[CaseSums], *, seed: int = 0) -> pd.DataFrame:
    """Return the table of `score_forecasts` from sums per case."""
    weights = resampling_weights(sums[0].errors.sizes["init_time"], seed)
    rows = [row for each in sums for row in _score_rows(each, weights)]
    return pd.DataFrame(rows).astype(dict.fromkeys([*COUNTS, "cases", "pixels"], "Int64"))


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
        if threshold in sums.events:
            counts = {count: int(sums.events[threshold][count].sum()) for count in COUNTS}
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


def _label(score: str, threshold: float) -> str:
    return score if np.isnan(threshold) else f"{score} at {threshold:g}"


def _check(forecast: xr.DataArray, observation: xr.DataArray, thresholds: Sequence[float], fss_window: int) -> None:
    for name, array, dims in (("forecast", forecast, DIMS), ("observation", observation, DIMS[1:])):
        if array.dims != dims or array.size == 0:
            raise DataError(
                name,
                expected=f"dimensions ({', '.join(dims)}), none empty",
                received=str(dict(array.sizes)),
                hint="Transpose or select the array to match.",
            )
    _check_coordinates(forecast, observation)
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


def _check_coordinates(forecast: xr.DataArray, observation: xr.DataArray) -> None:
    for dim in DIMS[1:]:
        same_size = forecast.sizes[dim] == observation.sizes[dim]
        named = dim in forecast.coords and dim in observation.coords
        # xarray would silently score the common part only.
        if not same_size or (named and not forecast[dim].equals(observation[dim])):
            raise DataError(
                dim,
                expected="the same entries in forecast and observation",
                received=f"{forecast.sizes[dim]} and {observation.sizes[dim]} entries that differ",
                hint="Select the observations at the valid times and pixels of the forecasts.",
            )
    if "method" not in forecast.coords or "lead_time" not in forecast.coords:
        received = f"coordinates {', '.join(map(str, forecast.coords)) or 'none'}"
    elif forecast["lead_time"].dtype.kind not in "iuf":
        received = f"lead_time of type {forecast['lead_time'].dtype}"
    else:
        return
    raise DataError(
        "forecast",
        expected="the coordinates method and lead_time (numbers, in minutes)",
        received=received,
        hint="Assign them with `assign_coords`.",
    )
