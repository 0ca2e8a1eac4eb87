"""Compare the members of the model in the package with those of STEPS.

    python -m benchmarks.skill.ensembles MODEL DATA CACHE OUTPUT.json [--check] [--members 24] [--every 2]
    python -m benchmarks.skill.ensembles MODEL DATA CACHE OUTPUT.json --speed

DATA is the RADOLAN YW file of pycomlink 0.6.0. Scored are the starts of `benchmarks.skill.score`: days 8 to 10, or day
7 with `--check`. A cell counts where the observation and all members of both ensembles are known. The members of STEPS
are cached in CACHE, in half precision.

`--speed` measures 24 members of 12 steps on a grid of 1,000 x 1,000 cells, which is made of mirrored copies of one
start, by both methods in turns: seconds, and the largest resident memory of a process for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.skill import rivals as pysteps_rivals
from benchmarks.skill.score import INPUT_LENGTH, argument_parser
from convlstm.data import open_frames
from convlstm.nowcast.members import make_members
from convlstm.nowcast.nowcaster import Nowcaster, load_nowcaster
from convlstm.nowcast.rivals import steps_members
from convlstm.verification.blocks import automatic_block_length
from convlstm.verification.ensembles import case_ensemble_sums, ensemble_table, join_cases, member_share, rank_table
from convlstm.verification.intervals import pool, resampling_weights, value_and_interval

LEADS = (5, 15, 30, 60)
THRESHOLDS = pysteps_rivals.THRESHOLDS
RAIN = 0.1  # mm/h, from which cells are ranked
AREA = 16
AREA_THRESHOLDS = (0.1, 0.5, 1.0, 2.0)  # mm/h, of means over AREA x AREA cells
BINS = np.linspace(0, 1, 11)
WAVELENGTHS = (128, 64, 32, 16, 8, 4)  # km


def main() -> None:
    """Compute the ensembles, print the tables, and write them as JSON."""
    parser = argument_parser(__doc__)
    parser.add_argument("--members", type=int, default=24)
    parser.add_argument("--every", type=int, default=2, help="keep every n-th start, because STEPS is slow")
    parser.add_argument("--speed", action="store_true", help="measure time and memory on a large grid instead")
    parser.add_argument("--alone", choices=("model", "steps"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    values = open_frames(options.data, units="mm").read(slice(None))[:, 0]
    rain = np.nan_to_num(values)
    days = (7, 8, 31) if options.check or options.speed else (8, 11, 64)
    starts = pysteps_rivals.choose_starts(rain, *days)[:: options.every]
    if options.alone:
        print(json.dumps(run_alone(options.alone, options.model, rain, int(starts[0]), options.members)))
        return
    if options.speed:
        report = {method: measure(method, options) for method in ("model", "steps")}
    else:
        model = load_nowcaster(options.model, threads=2)
        report = compare(model, values, starts, options.cache, options.members)
    options.output.write_text(json.dumps(report, indent=1))


def compare(model: Nowcaster, values: np.ndarray, starts: np.ndarray, cache: Path, members: int) -> dict:
    """Return the tables of both ensembles by name, and print them."""
    sums: dict[str, list[xr.Dataset]] = {"model": [], "STEPS": []}
    areas = {method: np.zeros((len(LEADS), len(AREA_THRESHOLDS), len(BINS) - 1, 3)) for method in sums}
    brier = {method: np.zeros((len(LEADS), len(THRESHOLDS))) for method in ("model", "members", "STEPS")}
    power = {method: np.zeros((len(LEADS), len(WAVELENGTHS) - 1)) for method in (*sums, "observed")}
    known_share, known_cells = [], np.zeros(len(LEADS))
    for number, start in enumerate(starts):
        observed = np.stack([values[start + lead // 5] for lead in LEADS])
        probability, own_members = model_forecast(model, values, int(start), members)
        ensembles = {"model": own_members, "STEPS": cached_steps(values, int(start), members, cache)}
        known = np.isfinite(observed) & np.isfinite(ensembles["STEPS"]).all(axis=1)
        known_share.append(known.mean(axis=(1, 2)))
        known_cells += known.sum(axis=(1, 2))
        chances = {"model": probability, "members": member_share(own_members.swapaxes(0, 1), THRESHOLDS)}
        chances["STEPS"] = member_share(ensembles["STEPS"].swapaxes(0, 1), THRESHOLDS)
        happened = observed[:, None] >= np.float32(THRESHOLDS)[:, None, None]
        for method, chance in chances.items():
            brier[method] += (np.nan_to_num(chance - happened) ** 2 * known[:, None]).sum(axis=(2, 3))
        common = np.where(known, observed, np.nan)
        for method, ensemble in ensembles.items():
            sums[method].append(case_ensemble_sums(ensemble, common, ranked_from=RAIN, seed=(0, number)))
            add_areas(areas[method], ensemble, observed, known)
            power[method] += spectrum(np.where(known[:, None], ensemble, 0)[:, :4]).mean(axis=1)
        power["observed"] += spectrum(np.where(known, observed, 0))
    joined = {method: join_cases(cases, np.array(LEADS, float)) for method, cases in sums.items()}
    scores, ranks = ensemble_table(joined), rank_table(joined)
    report = {
        "starts": len(starts),
        "members": members,
        "digest": model.model.digest,
        "share of cells known to both": np.mean(known_share, axis=0).round(4).tolist(),
        "scores": json.loads(scores.to_json(orient="records")),
        "ranks": json.loads(ranks.to_json(orient="records")),
        "Brier": {method: (sums / known_cells[:, None]).round(5).tolist() for method, sums in brier.items()},
        "Brier skill against STEPS": (1 - brier["model"] / brier["STEPS"]).round(4).tolist(),
        "crps differences": crps_differences(joined),
        "areas": {method: reliability(counts) for method, counts in areas.items()},
        "power ratios": {method: (power[method] / power["observed"]).round(3).tolist() for method in sums},
    }
    print(scores[scores["score"] != "mean_error"].to_string(index=False))
    print(ranks.pivot_table(index=["method", "lead_time"], columns="rank", values="share").round(2).to_string())
    for name in (
        "share of cells known to both",
        "Brier",
        "Brier skill against STEPS",
        "crps differences",
        "areas",
        "power ratios",
    ):
        print(name, json.dumps(report[name], indent=1))
    return report


def model_forecast(model: Nowcaster, values: np.ndarray, start: int, members: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (lead_time, threshold, y, x) and members (lead_time, realization, y, x) of the model."""
    inputs = values[start - INPUT_LENGTH + 1 : start + 1][:, None]
    seconds, leads = np.arange(INPUT_LENGTH) * 300.0, np.array(LEADS) * 60.0
    probability = model.predict_probability(inputs[None], seconds[None], leads)[0]
    chosen = [model.spec.thresholds.index(threshold) for threshold in THRESHOLDS]
    fields = list(make_members(model, probability, inputs, seconds, leads, members))
    return probability[:, chosen], np.stack(fields, axis=1)


def cached_steps(values: np.ndarray, start: int, members: int, cache: Path) -> np.ndarray:
    """Return the members of STEPS (lead_time, realization, y, x), from the cache if they are there."""
    folder = cache / pysteps_rivals.digest(np.nan_to_num(values)) / f"steps_members_{members}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{start}.npy"
    if not path.exists():
        inputs = values[start - pysteps_rivals.INPUTS + 1 : start + 1][:, None]
        seconds, leads = np.arange(len(inputs)) * 300.0, np.array(LEADS) * 60.0
        ensemble = steps_members(inputs, seconds, leads, members=members).astype(np.float16)
        unfinished = path.with_suffix(".tmp")
        with unfinished.open("wb") as file:
            np.save(file, ensemble)
        unfinished.replace(path)
    return np.load(path).astype(np.float32)


def crps_differences(sums: dict[str, xr.Dataset]) -> list[dict]:
    """Return the fair CRPS of the model minus that of STEPS by lead time, with 90 % intervals of a block bootstrap."""
    rows = []
    for index, lead in enumerate(LEADS):
        model, steps = (sums[method][["crps", "pixels"]][{"lead_time": index}] for method in ("model", "STEPS"))
        total = xr.Dataset({"difference": model["crps"] - steps["crps"], "pixels": model["pixels"]})
        mean = float(total["difference"].sum() / total["pixels"].sum())
        influence = (total["difference"] - mean * total["pixels"]).values
        pooled = pool(total, resampling_weights(len(influence), 0, automatic_block_length(influence)))
        value, lower, upper = value_and_interval(pooled["difference"] / pooled["pixels"], len(influence))
        rows.append({"lead_time": lead, "difference": value, "lower": lower, "upper": upper})
    return rows


def add_areas(counts: np.ndarray, ensemble: np.ndarray, observed: np.ndarray, known: np.ndarray) -> None:
    """Add to the sums of forecast probability, events and areas by lead time, threshold and bin of probability."""
    truth, complete = area_mean(np.nan_to_num(observed)), area_mean(known.astype(float)) == 1
    means = area_mean(np.nan_to_num(ensemble))
    for lead, index in np.ndindex(len(LEADS), len(AREA_THRESHOLDS)):
        chance = (means[lead] >= AREA_THRESHOLDS[index]).mean(axis=0)[complete[lead]]
        happened = (truth[lead] >= AREA_THRESHOLDS[index])[complete[lead]]
        for column, weight in enumerate((chance, happened, np.ones_like(chance))):
            counts[lead, index, :, column] += np.histogram(chance, BINS, weights=np.asarray(weight, float))[0]


def area_mean(fields: np.ndarray) -> np.ndarray:
    """Return the means over squares of AREA cells, without the incomplete ones at the edges."""
    height, width = (side // AREA for side in fields.shape[-2:])
    cut = fields[..., : height * AREA, : width * AREA]
    return cut.reshape(*fields.shape[:-2], height, AREA, width, AREA).mean(axis=(-3, -1))


def reliability(counts: np.ndarray) -> list[dict]:
    """Return the largest distance from the diagonal, over all bins and over those with more than 1 % of the areas."""
    rows = []
    for lead, index in np.ndindex(len(LEADS), len(AREA_THRESHOLDS)):
        chance, happened, number = counts[lead, index].T
        used = number > 0.01 * number.sum()
        distance = np.abs(chance - happened)[used] / number[used]
        over_all = float(np.abs(chance - happened).sum() / number.sum())
        rows.append(
            {
                "lead_time": LEADS[lead],
                "threshold": AREA_THRESHOLDS[index],
                "largest": round(float(distance.max()), 4),
                "mean": round(over_all, 4),
                "areas": int(number.sum()),
            }
        )
    return rows


def spectrum(fields: np.ndarray) -> np.ndarray:
    """Return the mean power (..., band) between the wavelengths, of fields with a window that is 0 at the edges."""
    height, width = fields.shape[-2:]
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.abs(np.fft.rfft2((fields - fields.mean(axis=(-2, -1), keepdims=True)) * window)) ** 2
    wavenumber = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    bands = [(1 / long, 1 / short) for long, short in pairwise(WAVELENGTHS)]
    means = [power[..., (wavenumber >= low) & (wavenumber < high)].mean(axis=-1) for low, high in bands]
    return np.stack(means, axis=-1)


def measure(method: str, options: argparse.Namespace) -> dict:
    """Return seconds and memory of one method in a process of its own, and print them."""
    command = [sys.executable, "-m", "benchmarks.skill.ensembles", *map(str, (options.model, options.data))]
    command += [str(options.cache), str(options.output), "--members", str(options.members), "--alone", method]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(finished.stdout.splitlines()[-1])
    print(method, result, flush=True)
    return result


def run_alone(method: str, path: Path, rain: np.ndarray, start: int, members: int) -> dict:
    """Return the seconds of a forecast of 12 steps on the large grid, and the memory of this process."""
    frames = rain[start - INPUT_LENGTH + 1 : start + 1]
    margins = [(0, 0), *((0, 1000 - side) for side in frames.shape[1:])]
    inputs = np.pad(frames, margins, mode="symmetric")[:, None].astype(np.float32)
    seconds, leads = np.arange(INPUT_LENGTH) * 300.0, np.arange(1, 13) * 300.0
    model = load_nowcaster(path, threads=2) if method == "model" else None
    began = time.perf_counter()
    if model is None:
        fields = steps_members(inputs[-4:], seconds[-4:], leads, members=members)
        count, parts = fields.shape[1], {}
    else:
        probability = model.predict_probability(inputs[None], seconds[None], leads)[0]
        parts = {"seconds of the probabilities": round(time.perf_counter() - began, 1)}
        count = 0
        for member in make_members(model, probability, inputs, seconds, leads, members):
            count += int(np.isfinite(member).all())
    elapsed = time.perf_counter() - began
    assert count == members
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": round(elapsed, 1), **parts, "peak MB": round(peak / 1024), "members": count}


if __name__ == "__main__":
    main()
