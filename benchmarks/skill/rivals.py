"""Score the forecasts of pysteps on radar rain, before and after each method's cut is tuned.

    python benchmarks/skill/rivals.py RAIN.npy KNOWN.npy CACHE [--days 7 8] [--starts 32] [--every 1]
        [--methods sprog anvil] [--write-cuts CUTS.json | --cuts CUTS.json]

RAIN is (time, height, width) in mm/h every five minutes from midnight, and KNOWN is True where it was measured. The
starts are frames of the days with more than 5 % of cells at or above 0.1 mm/h. Each forecast is cached in half
precision as CACHE/DATA/METHOD/FRAME.npy, where DATA is a digest of the rain, so that a run that was stopped continues.
Missing observations are left out. A forecast without a value counts as no rain, or takes the value of optical flow with
`--inflow optical_flow`.

An event is forecast where the field is at or above cut * threshold, or the probability at or above the cut. `tune`
chooses the cut with the highest CSI for each threshold and lead time. Without `--cuts`, the cuts are tuned on the
starts that are scored, so the tuned scores are an upper bound.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from convlstm.nowcast import baselines, rivals

STEP = 300.0
FRAMES_PER_DAY = 288
INPUTS = 4
LEADS = (5, 10, 15, 30, 45, 60)
THRESHOLDS = (0.1, 1.0, 5.0)
WET = 0.05
FACTORS = np.round(np.arange(0.2, 2.001, 0.05), 2)
PROBABILITIES = np.round(np.arange(0.04, 0.96, 0.02), 2)
UNTUNED = {"field": 1.0, "probability": 0.5}

FIELDS: dict[str, Callable] = {
    "persistence": lambda inputs, seconds, leads: baselines.persistence(inputs, leads),
    "optical_flow": baselines.optical_flow,
    "lk_extrapolation": rivals.lk_extrapolation,
    "sprog": rivals.sprog,
    "anvil": rivals.anvil,
    "linda": rivals.linda,
}
EXCEEDANCE: dict[str, Callable] = {
    "steps_exceedance": rivals.steps_exceedance,
    "lagrangian_probability": rivals.lagrangian_probability,
}
METHODS = (*FIELDS, *EXCEEDANCE)


def main() -> None:
    """Compute the forecasts that are not cached yet, tune the cuts, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rain", type=Path)
    parser.add_argument("known", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--days", type=int, nargs=2, default=(7, 8), help="first day, and the day after the last")
    parser.add_argument("--starts", type=int, default=32)
    parser.add_argument("--every", type=int, default=1, help="keep every n-th of the starts, for the slow methods")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--inflow", choices=("zero", "optical_flow"), default="zero")
    cuts_of = parser.add_mutually_exclusive_group()
    cuts_of.add_argument("--write-cuts", type=Path, help="file for the tuned cuts")
    cuts_of.add_argument("--cuts", type=Path, help="cuts tuned on other starts")
    options = parser.parse_args()
    rain, known = np.load(options.rain, mmap_mode="r"), np.load(options.known, mmap_mode="r")
    starts = choose_starts(rain, *options.days, options.starts)[:: options.every]
    print(f"{len(starts)} starts, frames {starts[0]} to {starts[-1]}")
    inflow = None if options.inflow == "zero" else cached("optical_flow", rain, known, starts, options.cache)
    tuned = json.loads(options.cuts.read_text()) if options.cuts else {}
    scores = {}
    for method in options.methods:
        forecasts = fill(method, cached(method, rain, known, starts, options.cache), inflow)
        counts = count(method, forecasts, rain, known, starts)
        if options.cuts is None:
            tuned[method] = tune(method, counts)
        scores[method] = summary(method, counts, tuned[method])
        if method in FIELDS:
            scores[method]["RMSE"] = rmse(forecasts, rain, known, starts)
    if options.write_cuts:
        options.write_cuts.write_text(json.dumps(tuned, indent=1))
    print("\n".join(table(scores)))


def choose_starts(rain: np.ndarray, first_day: int, end_day: int, number: int) -> np.ndarray:
    """Return every k-th wet frame of the days that has all inputs and an hour of observations, at least `number`.

    The frames are spread over all the days. There are fewer only if the days have fewer.
    """
    longest = LEADS[-1] * 60 // int(STEP)
    frames = np.arange(first_day * FRAMES_PER_DAY + 5, end_day * FRAMES_PER_DAY - longest)
    wet = np.array([(rain[frame] >= np.float32(THRESHOLDS[0])).mean() > WET for frame in frames])
    candidates = frames[wet]
    if candidates.size == 0:
        raise SystemExit(f"no frame of days {first_day} to {end_day - 1} has more than {WET:.0%} of wet cells")
    return candidates[:: max(1, len(candidates) // number)]


def digest(rain: np.ndarray) -> str:
    """Return a short digest of the values, so that the forecasts of other data are never used."""
    return hashlib.sha256(np.ascontiguousarray(rain)).hexdigest()[:12]


def cached(method: str, rain: np.ndarray, known: np.ndarray, starts: Sequence[int], cache: Path) -> np.ndarray:
    """Return the forecasts (start, lead, height, width), or (start, lead, threshold, height, width) of probabilities.

    Forecasts that are not in the cache are computed and added, and the CPU seconds per case are printed.
    """
    folder = cache / digest(rain) / method
    folder.mkdir(parents=True, exist_ok=True)
    forecasts, seconds = [], []
    for start in starts:
        path = folder / f"{start}.npy"
        if not path.exists():
            began = time.process_time()
            forecast = compute(method, rain, known, start)
            seconds.append(time.process_time() - began)
            unfinished = path.with_suffix(".tmp")
            with unfinished.open("wb") as file:
                np.save(file, forecast.astype(np.float16))
            unfinished.replace(path)
        forecasts.append(np.load(path))
    if seconds:
        print(f"{method}: median {np.median(seconds):.2f} CPU seconds per case, {len(seconds)} computed", flush=True)
    return np.stack(forecasts)


def compute(method: str, rain: np.ndarray, known: np.ndarray, start: int) -> np.ndarray:
    """Return the forecast of one start for all lead times."""
    part = slice(start - INPUTS + 1, start + 1)
    inputs = np.where(known[part], rain[part], np.nan)[:, None]
    seconds, leads = np.arange(INPUTS) * STEP, np.array(LEADS) * 60.0
    if method in FIELDS:
        return FIELDS[method](inputs, seconds, leads)[:, 0]
    return EXCEEDANCE[method](inputs, seconds, leads, THRESHOLDS)


def fill(method: str, forecasts: np.ndarray, inflow: np.ndarray | None) -> np.ndarray:
    """Return the forecasts with 0, or the value of `inflow` (start, lead, height, width), where they have none."""
    if inflow is None:
        return np.nan_to_num(forecasts)
    values = np.nan_to_num(inflow)
    if method in EXCEEDANCE:
        values = np.stack([values >= threshold for threshold in THRESHOLDS], axis=2)
    return np.where(np.isnan(forecasts), values, forecasts)


def cuts_for(method: str) -> np.ndarray:
    """Return the cuts that are tried: factors of the threshold, or probabilities."""
    return FACTORS if method in FIELDS else PROBABILITIES


def count(method: str, forecasts: np.ndarray, rain: np.ndarray, known: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Return hits, misses and false alarms (threshold, lead, cut, 3) over all starts and known cells."""
    cuts = cuts_for(method)
    counts = np.zeros((len(THRESHOLDS), len(LEADS), len(cuts), 3))
    for case, start in enumerate(starts):
        for lead, minutes in enumerate(LEADS):
            frame = start + minutes * 60 // int(STEP)
            mask = np.asarray(known[frame])
            observed = np.asarray(rain[frame])[mask]
            for index, threshold in enumerate(THRESHOLDS):
                event = observed >= np.float32(threshold)
                if method in FIELDS:
                    value = forecasts[case, lead][mask].astype(np.float32) / np.float32(threshold)
                else:
                    value = forecasts[case, lead, index][mask].astype(np.float32)
                counts[index, lead] += contingency(value, event, cuts)
    return counts


def contingency(value: np.ndarray, event: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return hits, misses and false alarms (cut, 3), where an event is forecast at or above the cut."""
    # Half precision rounds by up to 2**-11, so a value that was at the cut must not fall below it.
    edges = cuts * (1 - 2**-11)
    reached = np.searchsorted(edges, value, side="right")  # number of cuts at or below the value
    with_event = np.bincount(reached[event], minlength=len(cuts) + 1)
    without_event = np.bincount(reached[~event], minlength=len(cuts) + 1)
    hits = with_event[::-1].cumsum()[::-1][1:]
    false_alarms = without_event[::-1].cumsum()[::-1][1:]
    return np.stack([hits, event.sum() - hits, false_alarms], axis=-1)


def csi(counts: np.ndarray) -> np.ndarray:
    """Return hits / (hits + misses + false alarms), NaN without any."""
    total = counts.sum(axis=-1)
    return np.where(total > 0, counts[..., 0] / np.maximum(total, 1), np.nan)


def tune(method: str, counts: np.ndarray) -> list[list[float]]:
    """Return the cut with the highest CSI by threshold and lead time; the untuned cut where CSI is undefined."""
    cuts = cuts_for(method)
    values = csi(counts)
    best = cuts[np.nan_to_num(values, nan=-1.0).argmax(axis=-1)]
    best[np.isnan(values).all(axis=-1)] = untuned(method)
    return best.tolist()


def untuned(method: str) -> float:
    """Return the cut without tuning: the threshold itself, or a probability of one half."""
    return UNTUNED["field" if method in FIELDS else "probability"]


def summary(method: str, counts: np.ndarray, tuned: list[list[float]]) -> dict[str, np.ndarray]:
    """Return CSI by lead time for every threshold, untuned and tuned."""
    cuts, values = cuts_for(method), csi(counts)
    default = int(np.abs(cuts - untuned(method)).argmin())
    rows = {}
    for index, threshold in enumerate(THRESHOLDS):
        chosen = [int(np.abs(cuts - cut).argmin()) for cut in tuned[index]]
        rows[f"CSI ≥ {threshold:g}, untuned"] = values[index, :, default]
        rows[f"CSI ≥ {threshold:g}, tuned"] = values[index, np.arange(len(LEADS)), chosen]
    return rows


def rmse(forecasts: np.ndarray, rain: np.ndarray, known: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Return the root mean square error in mm/h by lead time, over all starts and known cells."""
    squares = np.zeros((len(LEADS), 2))
    for case, start in enumerate(starts):
        for lead, minutes in enumerate(LEADS):
            frame = start + minutes * 60 // int(STEP)
            mask = np.asarray(known[frame])
            error = forecasts[case, lead][mask].astype(np.float64) - np.asarray(rain[frame])[mask]
            squares[lead] += (np.square(error).sum(), error.size)
    return np.sqrt(squares[:, 0] / squares[:, 1])


def table(scores: dict[str, dict[str, np.ndarray]]) -> list[str]:
    """Return the scores as Markdown tables, one per score, with a row per method."""
    lines = []
    for score in dict.fromkeys(name for rows in scores.values() for name in rows):
        heads = " | ".join(f"{minutes} min" for minutes in LEADS)
        lines += ["", f"| {score} | {heads} |", "|---" * (len(LEADS) + 1) + "|"]
        for method, rows in scores.items():
            if score in rows:
                lines.append(f"| {method} | {' | '.join(f'{value:.3f}' for value in rows[score])} |")
    return lines


if __name__ == "__main__":
    main()
