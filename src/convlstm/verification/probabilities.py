"""Scores of probabilities that a value reaches a threshold: Brier score, its skill score, and reliability."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from convlstm.errors import DataError
from convlstm.verification.arguments import check_dimensions, check_minutes, check_same_entries
from convlstm.verification.intervals import pool, resampling_weights, value_and_interval

PROBABILITY_DIMS = ("init_time", "lead_time", "threshold", "y", "x")
BINS = 10
"""Number of bins of equal width in a reliability diagram; a probability at an edge is in the upper bin."""

RELIABILITY_SUMS = ("pixels", "probability", "events")
"""The sums of `reliability_sums`."""

_RELIABILITY_COLUMNS = (
    *("method", "lead_time", "threshold", "bin_start", "bin_end", "probability", "frequency", "lower", "upper"),
    *("pixels", "cases"),
)


def score_probabilities(probability: xr.DataArray, observation: xr.DataArray, *, seed: int = 0) -> pd.DataFrame:
    """Return the Brier score and the Brier skill score by lead time and threshold.

    `brier` is the mean of (p − o)² over all cases and pixels, with o = 1 where the event was observed, else 0. `bss` is
    1 − brier / (ō (1 − ō)). ō is the frequency of the event in the same cases and pixels, at this lead time and
    threshold (sample climatology), so it is known only afterwards. Each bootstrap draw has its own ō.

    Args:
        probability: Probabilities (init_time, lead_time, threshold, y, x) that the value reaches the threshold, from 0
            to 1, NaN where missing, with the coordinates lead_time (minutes) and threshold (unit of the observation).
        observation: Observations at the valid times (init_time, lead_time, y, x), NaN where missing.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per lead_time (minutes), threshold and score, with the columns lead_time, threshold, score, value,
        lower, upper (90 % interval), cases and pixels.

    Raises:
        DataError: if dimensions or coordinates do not fit, or a probability is outside 0 to 1.

    Example:
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> chance = (0.8 * rain).expand_dims(threshold=[1.0], axis=2)
        >>> score_probabilities(chance, rain)[["score", "value"]].round(4).values.tolist()
        [['brier', 0.01], ['bss', 0.9467]]
    """
    check_probability(probability, observation)
    weights = resampling_weights(observation.sizes["init_time"], seed)
    rows: list[dict[str, object]] = []
    for lead_time, threshold, chance, observed in slices(probability, observation):
        sums = brier_sums(chance, observed, threshold)
        cases, pixels = int((sums["brier_pixels"] > 0).sum()), int(sums["brier_pixels"].sum())
        for name, score in brier_scores(pool(sums, weights)).items():
            value, lower, upper = value_and_interval(score, cases)
            key = {"lead_time": lead_time, "threshold": threshold, "score": name}
            rows.append(key | {"value": value, "lower": lower, "upper": upper, "cases": cases, "pixels": pixels})
    return pd.DataFrame(rows)


def reliability_table(
    probabilities: Mapping[str, xr.DataArray], observation: xr.DataArray, *, seed: int = 0
) -> pd.DataFrame:
    """Return the points of the reliability diagrams of several methods.

    Cells of all cases are sorted by their forecast probability into ten bins of equal width.

    Args:
        probabilities: For each method an array as in `score_probabilities`; may be empty.
        observation: Observations at the valid times (init_time, lead_time, y, x), NaN where missing.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per method, lead_time (minutes), threshold and bin. The columns bin_start and bin_end are the edges.
        probability is the mean forecast in the bin, and frequency the share of these cells with an observed event.
        lower and upper are its 90 % interval, pixels the number of cells (the sharpness), cases that of cases.
        probability and frequency are NaN in an empty bin.

    Raises:
        DataError: if dimensions or coordinates do not fit, or a probability is outside 0 to 1.

    Example:
        >>> rain = xr.DataArray(np.eye(4)[None, None], dims=("init_time", "lead_time", "y", "x"),
        ...                     coords={"lead_time": [5.0]})
        >>> chance = (0.8 * rain).expand_dims(threshold=[1.0], axis=2)
        >>> table = reliability_table({"model": chance}, rain)
        >>> table[table.pixels > 0][["bin_start", "probability", "frequency", "pixels"]].values.tolist()
        [[0.0, 0.0, 0.0, 12.0], [0.8, 0.8, 1.0, 4.0]]
    """
    for probability in probabilities.values():
        check_probability(probability, observation)
    sums = (
        ((method, lead_time, threshold), reliability_sums(chance, observed, threshold))
        for method, probability in probabilities.items()
        for lead_time, threshold, chance, observed in slices(probability, observation)
    )
    return reliability_table_of_sums(sums, seed=seed)


def reliability_table_of_sums(
    sums: Iterable[tuple[tuple[str, float, float], xr.Dataset]], *, seed: int = 0
) -> pd.DataFrame:
    """Return the table of `reliability_table` from the results of `reliability_sums`.

    Each has a method, a lead time in minutes and a threshold.
    """
    rows: list[dict[str, object]] = []
    weights: xr.DataArray | None = None
    for (method, lead_time, threshold), each in sums:
        if weights is None:
            weights = resampling_weights(each.sizes["init_time"], seed)
        key = {"method": method, "lead_time": lead_time, "threshold": threshold}
        rows += [key | row for row in _reliability_rows(each, weights)]
    return pd.DataFrame(rows, columns=list(_RELIABILITY_COLUMNS))


def brier_sums(probability: xr.DataArray, observation: xr.DataArray, threshold: float) -> xr.Dataset:
    """Return the sums per case for the Brier scores; both arrays are (init_time, y, x), NaN where missing.

    `brier_error` is the sum of (p − o)², `brier_events` the number of observed events, `brier_pixels` that of pairs.
    """
    valid = probability.notnull() & observation.notnull()
    events = (observation >= threshold) & valid
    error = ((probability.astype(np.float64) - events) ** 2).where(valid, 0.0)
    sums = {"brier_error": error, "brier_events": events, "brier_pixels": valid}
    return xr.Dataset(sums).sum(("y", "x")).astype(np.float64)


def brier_sums_of_events(counts: xr.Dataset) -> xr.Dataset:
    """Return the sums of `brier_sums` for a forecast of events: its probabilities are 0 and 1."""
    wrong, events = counts["misses"] + counts["false_alarms"], counts["hits"] + counts["misses"]
    pixels = events + counts["false_alarms"] + counts["correct_negatives"]
    return xr.Dataset({"brier_error": wrong, "brier_events": events, "brier_pixels": pixels})


def brier_scores(sums: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return `brier` and `bss` of pooled sums; `bss` is NaN where the event was observed in all or no pixels."""
    means = sums / sums["brier_pixels"]
    frequency = means["brier_events"]
    climatology = frequency * (1.0 - frequency)
    return {
        "brier": means["brier_error"],
        "bss": 1.0 - means["brier_error"] / climatology.where(climatology > 0),
    }


def reliability_sums(probability: xr.DataArray, observation: xr.DataArray, threshold: float) -> xr.Dataset:
    """Return `pixels`, and the sums of `probability` and of `events`, for each bin and case (bin, init_time)."""
    chance, observed = probability.values, observation.values
    case, *place = np.nonzero(np.isfinite(chance) & np.isfinite(observed))
    known = chance[(case, *place)].astype(np.float64)
    number = at_or_above(np.arange(1, BINS) / BINS, chance[(case, *place)])
    cases = len(chance)
    group = number * cases + case
    columns = {
        "pixels": np.ones(len(known)),
        "probability": known,
        "events": (observed[(case, *place)] >= threshold).astype(np.float64),
    }
    return xr.Dataset(
        {
            name: (("bin", "init_time"), np.bincount(group, column, BINS * cases).reshape(BINS, cases))
            for name, column in columns.items()
        }
    )


def at_or_above(limits: NDArray[np.float64], chance: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return how many of the ascending limits each probability reaches, in the precision of the probabilities.

    Half precision holds 0.1 as 0.09998, and the limit 0.1 too. Double precision is rounded to single precision, in
    which 1 − 0.9 is 0.1.
    """
    kind = np.float16 if chance.dtype == np.float16 else np.float32
    count: NDArray[np.intp] = np.searchsorted(limits.astype(kind), chance.astype(kind), side="right")
    return count


def check_probability(probability: xr.DataArray, observation: xr.DataArray) -> None:
    """Raise a `DataError` unless the probabilities belong to the observations; arguments as in `score_probabilities`.

    The values are checked where they are read, one lead time and threshold at a time.
    """
    check_dimensions("probability", probability, PROBABILITY_DIMS)
    common = [dim for dim in PROBABILITY_DIMS if dim != "threshold"]
    check_dimensions("observation", observation, common)
    check_same_entries("probability", probability, observation, common)
    check_minutes("probability", probability, ("lead_time",))
    if "threshold" not in probability.coords:
        raise DataError(
            "probability",
            expected="the coordinate threshold, in the unit of the observation",
            received=f"coordinates {', '.join(map(str, probability.coords)) or 'none'}",
            hint="Assign it with `assign_coords`.",
        )


def check_range(probability: xr.DataArray) -> None:
    """Raise a `DataError` if a probability is outside 0 to 1."""
    low, high = float(probability.min()), float(probability.max())
    if low < 0 or high > 1:
        raise DataError(
            "probability",
            expected="values from 0 to 1",
            received=f"values from {low:g} to {high:g}",
            hint="Pass probabilities, not logits or percentages.",
        )


def slices(
    probability: xr.DataArray, observation: xr.DataArray
) -> Iterator[tuple[float, float, xr.DataArray, xr.DataArray]]:
    """Yield lead time, threshold, probability and observation (init_time, y, x), one pair after another."""
    for lead in range(probability.sizes["lead_time"]):
        observed = observation[{"lead_time": lead}].compute()
        for index in range(probability.sizes["threshold"]):
            chance = probability[{"lead_time": lead, "threshold": index}].compute()
            check_range(chance)
            yield float(chance["lead_time"]), float(chance["threshold"]), chance, observed


def _reliability_rows(sums: xr.Dataset, weights: xr.DataArray) -> Iterator[dict[str, object]]:
    for number in range(BINS):
        here = sums[{"bin": number}]
        pooled = pool(here, weights)
        cases = int((here["pixels"] > 0).sum())
        frequency, lower, upper = value_and_interval(pooled["events"] / pooled["pixels"], cases)
        yield {
            "bin_start": number / BINS,
            "bin_end": (number + 1) / BINS,
            "probability": float((pooled["probability"] / pooled["pixels"])[0]),
            "frequency": frequency,
            "lower": lower,
            "upper": upper,
            "pixels": int(here["pixels"].sum()),
            "cases": cases,
        }
