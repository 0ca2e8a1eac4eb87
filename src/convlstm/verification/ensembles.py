"""Scores of ensembles: fair CRPS, spread compared with the error of the mean, and rank histograms.

Every score follows from sums per case, which can be added and weighted. So parts of an evaluation can be computed
apart and put together, and intervals come from a bootstrap of the cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scores.probability import crps_for_ensemble

from convlstm.errors import DataError
from convlstm.verification.arguments import check_dimensions, check_minutes, check_same_entries
from convlstm.verification.blocks import automatic_block_length
from convlstm.verification.intervals import pool, resampling_weights, value_and_interval

ENSEMBLE_DIMS = ("init_time", "lead_time", "realization", "y", "x")
RANK_SCORES = ("rank_bias", "rank_convexity")
"""The two scores of a rank histogram."""

FLAT_SCORE = "rank_flat"
"""1 for a histogram that is called flat, because 0 is within the 95 % intervals of both scores; else 0."""

_FLAT_BOUNDS = (0.025, 0.975)
"""Each test has a level of 5 %, so both together one of at most 10 %, for many cases."""

_TINY = 1e-12
_BLOCK = 2**16  # cells at once, to limit the memory of the sorted members
_SCORE_COLUMNS = ("method", "lead_time", "score", "value", "lower", "upper", "members", "cases", "pixels")
_RANK_COLUMNS = ("method", "lead_time", "rank", "share", "lower", "upper", "members", "cases", "pixels")


def ensemble_sums(
    ensemble: xr.DataArray, observation: xr.DataArray, *, ranked_from: float | None = None, seed: int = 0
) -> xr.Dataset:
    """Return the sums per case and lead time from which `ensemble_table` and `rank_table` compute.

    A cell counts where the observation and every member are known. The rank is the number of members below the
    observation; where members equal it, one of the possible ranks is drawn with equal probability.

    Args:
        ensemble: Members (init_time, lead_time, realization, y, x), at least 2, NaN where missing, with the coordinate
            lead_time (minutes).
        observation: Observations at the valid times (init_time, lead_time, y, x), in the same unit.
        ranked_from: Values below it are equal for the ranks, and cells with nothing at or above it are not ranked. Pass
            the smallest rain that counts: the many dry cells would hide the shape of the histogram.
        seed: Seed of the ranks among equal values.

    Returns:
        A dataset (init_time, lead_time) with `pixels`, and the sums over cells of `crps` (fair), `squared` and `signed`
        (error of the ensemble mean) and `variance` (divided by M − 1). `ranks` (init_time, lead_time, rank) has the
        numbers of cells by rank from 0 to M.

    Raises:
        DataError: if dimensions or coordinates do not fit, or there are fewer than 2 members.

    Example:
        >>> dims = ("init_time", "lead_time", "realization", "y", "x")
        >>> ensemble = xr.DataArray(np.array([1.0, 3.0]).reshape(1, 1, 2, 1, 1), dims=dims, coords={"lead_time": [5.0]})
        >>> sums = ensemble_sums(ensemble, 2.0 + 0.0 * ensemble[:, :, 0])
        >>> sums["crps"].item(), sums["variance"].item(), sums["ranks"].values.ravel().tolist()
        (0.0, 2.0, [0.0, 1.0, 0.0])
    """
    check_dimensions("ensemble", ensemble, ENSEMBLE_DIMS)
    common = [dim for dim in ENSEMBLE_DIMS if dim != "realization"]
    check_dimensions("observation", observation, common)
    check_same_entries("ensemble", ensemble, observation, common)
    check_minutes("ensemble", ensemble, ("lead_time",))
    cases = [
        case_ensemble_sums(
            ensemble[{"init_time": case}].values,
            observation[{"init_time": case}].values,
            ranked_from=ranked_from,
            seed=(seed, case),
        )
        for case in range(ensemble.sizes["init_time"])
    ]
    return join_cases(cases, ensemble["lead_time"].values)


def case_ensemble_sums(
    members: NDArray[np.floating],
    observed: NDArray[np.floating],
    *,
    ranked_from: float | None = None,
    seed: tuple[int, int] = (0, 0),
) -> xr.Dataset:
    """Return the sums of `ensemble_sums` for one case: members (lead_time, realization, y, x), observed without them.

    `seed` is a seed and the number of the case, so that the ranks of a case do not depend on the other cases.
    """
    count = members.shape[1]
    if count < 2:
        raise DataError("ensemble", expected="at least 2 members", received=count, hint="Pass more members.")
    random = np.random.default_rng(seed)
    leads = len(members)
    names = ("pixels", "crps", "squared", "signed", "variance")
    sums = {name: np.zeros(leads) for name in names}
    ranks = np.zeros((leads, count + 1))
    for lead in range(leads):
        cells, truth = members[lead].reshape(count, -1), observed[lead].ravel()
        known = np.flatnonzero(np.isfinite(truth) & np.isfinite(cells).all(axis=0))
        for first in range(0, len(known), _BLOCK):
            block = known[first : first + _BLOCK]
            values, outcome = cells[:, block].astype(np.float64), truth[block].astype(np.float64)
            error = values.mean(axis=0) - outcome
            sums["pixels"][lead] += len(block)
            sums["crps"][lead] += _fair_crps(values, outcome)
            sums["squared"][lead] += float((error**2).sum())
            sums["signed"][lead] += float(error.sum())
            sums["variance"][lead] += float(values.var(axis=0, ddof=1).sum())
            ranks[lead] += _rank_counts(values, outcome, ranked_from, random)
    columns: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {
        name: (("lead_time",), column) for name, column in sums.items()
    }
    return xr.Dataset(columns | {"ranks": (("lead_time", "rank"), ranks)})


def join_cases(cases: list[xr.Dataset], lead_times: NDArray[np.floating]) -> xr.Dataset:
    """Return the sums of several cases with the dimension init_time, in this order."""
    return xr.concat(cases, "init_time").assign_coords(lead_time=lead_times)


def member_share(members: NDArray[np.floating], thresholds: Sequence[float]) -> NDArray[np.float32]:
    """Return the probability of each threshold: the share of the members that reach it.

    Args:
        members: Values (realization, lead_time, y, x), NaN where missing; a missing member does not count.
        thresholds: In the unit of the values.

    Returns:
        Probabilities (lead_time, threshold, y, x), NaN where no member is known.

    Example:
        >>> member_share(np.array([0.0, 2.0, np.nan]).reshape(3, 1, 1, 1), [1.0]).item()
        0.5
    """
    known = np.isfinite(members).sum(axis=0)
    shares = [(members >= threshold).sum(axis=0) / np.maximum(known, 1) for threshold in thresholds]
    return np.stack([np.where(known > 0, share, np.nan) for share in shares], axis=1).astype(np.float32)


def ensemble_table(sums: Mapping[str, xr.Dataset], *, seed: int = 0) -> pd.DataFrame:
    """Return the scores of ensembles by method and lead time, with 90 % intervals.

    `crps` is the fair continuous ranked probability score, in the unit of the data. `spread` is √((M + 1) / M · mean
    variance), `error` the root of the mean squared error of the ensemble mean, and `spread_error_ratio` their quotient.
    `mean_error` is that of the ensemble mean. `rank_bias` and `rank_convexity` describe the rank histogram.

    With u = 2 · rank / M − 1, `rank_bias` is the mean of u: from −1 (below all members) to 1 (above all). And
    `rank_convexity` is the mean of u² divided by that of a flat histogram, minus 1: above 0 for a U shape, which means
    too little spread. A flat histogram has 0 in both (Jolliffe and Primo 2008). `rank_flat` is 1 if 0 is within the
    95 % intervals of both, else 0. The nominal level of both tests together is at most 10 %; of 40 to 60 cases, 14 to
    16 % of reliable ensembles are called not flat.

    All intervals are those of a stationary bootstrap of the cases, because neighbouring cells and cases are correlated.
    The block length of each score suits its correlation from case to case.

    Args:
        sums: Results of `ensemble_sums` by method, each with the cases in order of time.
        seed: Seed of the bootstrap.

    Returns:
        One row per method, lead_time (minutes) and score, with the columns method, lead_time, score, value, lower,
        upper, members, cases and pixels.

    Example:
        >>> dims = ("init_time", "lead_time", "realization", "y", "x")
        >>> ensemble = xr.DataArray(np.array([1.0, 3.0]).reshape(1, 1, 2, 1, 1), dims=dims, coords={"lead_time": [5.0]})
        >>> table = ensemble_table({"two": ensemble_sums(ensemble, 1.5 + 0.0 * ensemble[:, :, 0])})
        >>> table.set_index("score")["value"].round(3)[["crps", "spread", "error"]].tolist()
        [0.0, 1.732, 0.5]
    """
    rows: list[dict[str, object]] = []
    for method, all_leads in sums.items():
        members = all_leads.sizes["rank"] - 1
        for lead in range(all_leads.sizes["lead_time"]):
            at_lead = all_leads[{"lead_time": lead}]
            cases, pixels = int((at_lead["pixels"] > 0).sum()), int(at_lead["pixels"].sum())
            key = {"method": method, "lead_time": float(at_lead["lead_time"])}
            size = {"members": members, "cases": cases, "pixels": pixels}
            rank_scores = _rank_scores(at_lead["ranks"], seed)
            scores = _value_scores(at_lead.drop_vars("ranks"), members, seed) | rank_scores
            for name, score in scores.items():
                value, lower, upper = value_and_interval(score, cases)
                rows.append({**key, "score": name, "value": value, "lower": lower, "upper": upper, **size})
            verdict = {"score": FLAT_SCORE, "value": _is_flat(rank_scores, cases), "lower": np.nan, "upper": np.nan}
            rows.append({**key, **verdict, **size})
    return pd.DataFrame(rows, columns=list(_SCORE_COLUMNS))


def rank_table(sums: Mapping[str, xr.Dataset], *, seed: int = 0) -> pd.DataFrame:
    """Return the rank histograms of ensembles by method and lead time.

    Args:
        sums: Results of `ensemble_sums` by method.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        One row per method, lead_time (minutes) and rank, with the columns method, lead_time, rank, share, lower, upper
        (90 % interval), members, cases and pixels (ranked cells). `share` is the share of the cells with this rank,
        multiplied by the number of ranks: 1 in a flat histogram.

    Example:
        >>> dims = ("init_time", "lead_time", "realization", "y", "x")
        >>> ensemble = xr.DataArray(np.array([1.0, 3.0]).reshape(1, 1, 2, 1, 1), dims=dims, coords={"lead_time": [5.0]})
        >>> rank_table({"two": ensemble_sums(ensemble, 2.0 + 0.0 * ensemble[:, :, 0])})["share"].tolist()
        [0.0, 3.0, 0.0]
    """
    rows: list[dict[str, object]] = []
    for method, all_leads in sums.items():
        ranks = all_leads.sizes["rank"]
        for lead in range(all_leads.sizes["lead_time"]):
            counts = all_leads["ranks"][{"lead_time": lead}]
            cases, pixels = int((counts.sum("rank") > 0).sum()), int(counts.sum())
            pooled = xr.dot(resampling_weights(counts.sizes["init_time"], seed), counts, dim="init_time")
            total = pooled.sum("rank")
            shares = ranks * pooled / total.where(total > 0)
            for rank in range(ranks):
                value, lower, upper = value_and_interval(shares[{"rank": rank}], cases)
                key = {"method": method, "lead_time": float(counts["lead_time"]), "rank": rank}
                numbers = {"share": value, "lower": lower, "upper": upper}
                rows.append({**key, **numbers, "members": ranks - 1, "cases": cases, "pixels": pixels})
    return pd.DataFrame(rows, columns=list(_RANK_COLUMNS))


def _fair_crps(members: NDArray[np.float64], observed: NDArray[np.float64]) -> float:
    """Return the sum over cells of the fair CRPS; members are (realization, cell), without missing values."""
    forecast = xr.DataArray(members, dims=("realization", "cell"))
    mean = crps_for_ensemble(forecast, xr.DataArray(observed, dims="cell"), "realization", method="fair")
    return float(mean) * len(observed)


def _rank_counts(
    members: NDArray[np.float64],
    observed: NDArray[np.float64],
    ranked_from: float | None,
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the number of cells with each rank; members are (realization, cell), without missing values."""
    if ranked_from is not None:
        # The data may be in single precision, in which 0.1 is not the 0.1 of double precision.
        start = float(np.float32(ranked_from)) * (1 - 1e-6)
        ranked = (observed >= start) | (members >= start).any(axis=0)
        members, observed = members[:, ranked], observed[ranked]
        members, observed = (np.where(values < start, -np.inf, values) for values in (members, observed))
    below = (members < observed).sum(axis=0)
    equal = (members == observed).sum(axis=0)
    rank = below + random.integers(0, equal + 1)
    counts: NDArray[np.float64] = np.bincount(rank, minlength=len(members) + 1).astype(np.float64)
    return counts


def _value_scores(sums: xr.Dataset, members: int, seed: int) -> dict[str, xr.DataArray]:
    """Return the scores of values (draw,), each with blocks of cases that suit its correlation."""
    total = sums.sum("init_time")
    means = total / max(float(total["pixels"]), 1.0)
    rest = sums - means * sums["pixels"]  # what each case adds to the difference from the mean
    relative = {name: rest[name] / max(float(means[name]), _TINY) for name in ("variance", "squared")}
    influence = {
        "crps": rest["crps"],
        "spread": rest["variance"],
        "error": rest["squared"],
        "spread_error_ratio": relative["variance"] - relative["squared"],
        "mean_error": rest["signed"],
    }
    return {
        name: _scores_of_sums(pool(sums, _block_weights(series.values, seed)), members)[name]
        for name, series in influence.items()
    }


def _block_weights(influence: NDArray[np.float64], seed: int) -> xr.DataArray:
    """Return the weights of a bootstrap with blocks that suit the influence of each case (init_time,) on a score."""
    return resampling_weights(len(influence), seed, automatic_block_length(influence))


def _scores_of_sums(sums: xr.Dataset, members: int) -> dict[str, xr.DataArray]:
    means = sums / sums["pixels"].where(sums["pixels"] > 0)
    spread = ((members + 1) / members * means["variance"]) ** 0.5
    error = means["squared"] ** 0.5
    return {
        "crps": means["crps"],
        "spread": spread,
        "error": error,
        "spread_error_ratio": spread / error.where(error > 0),
        "mean_error": means["signed"],
    }


def _rank_scores(ranks: xr.DataArray, seed: int) -> dict[str, xr.DataArray]:
    """Return both scores of the histogram (draw,), with blocks of cases that suit the correlation of each."""
    members = ranks.sizes["rank"] - 1
    place = xr.DataArray(2 * np.arange(members + 1) / members - 1, dims="rank")
    flat = (members + 2) / (3 * members)  # mean square of the places of a flat histogram
    total = ranks.sum("rank")
    scores = {}
    for name, contrast in zip(RANK_SCORES, (place, place**2 / flat - 1), strict=True):
        sums = xr.Dataset({"contrast": (ranks * contrast).sum("rank"), "total": total})
        mean = float(sums["contrast"].sum() / max(float(total.sum()), 1.0))
        influence = (sums["contrast"] - mean * total).values
        pooled = pool(sums, _block_weights(influence, seed))
        scores[name] = pooled["contrast"] / pooled["total"].where(pooled["total"] > 0)
    return scores


def _is_flat(scores: Mapping[str, xr.DataArray], cases: int) -> float:
    """Return 1 for a flat histogram, 0 for another one, and NaN if the intervals are undefined."""
    bounds = np.array([value_and_interval(scores[name], cases, _FLAT_BOUNDS)[1:] for name in RANK_SCORES])
    if np.isnan(bounds).any():
        return np.nan
    return float(((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)).all())
