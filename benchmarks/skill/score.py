"""Score the shipped model and its rivals on days that nothing was chosen on, and write the tables of its card.

    python -m benchmarks.skill.score MODEL DATA CACHE OUTPUT.json [--check]

DATA is the RADOLAN YW file of pycomlink 0.6.0. The cuts of the rivals are tuned on day 7 (17 May 2018), as those of the
model were. Scored are the wet frames of days 8 to 10: all frames with over 5 % of cells at or above 0.1 mm/h, every
k-th, at least 64. Missing observations are left out for all methods. Where a rival has no value, it takes that of
optical flow. With `--check` the starts are those of day 7: a trial that leaves the test days untouched.

Forecasts of the rivals are cached in CACHE, and those of the model are computed anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from benchmarks.skill import rivals as pysteps_rivals
from convlstm.data import open_frames
from convlstm.nowcast.nowcaster import Nowcaster, load_nowcaster
from convlstm.verification.differences import difference_table
from convlstm.verification.probabilities import reliability_table, score_probabilities
from convlstm.verification.scorecard import CaseSums, case_sums, score_table
from convlstm.verification.spectra import spectrum_tables

LEADS, THRESHOLDS = pysteps_rivals.LEADS, pysteps_rivals.THRESHOLDS
MODEL = "model"
DIMS = ("init_time", "lead_time", "y", "x")
INPUT_LENGTH = 6


def main() -> None:
    """Score, print the tables, and write them as JSON."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=pysteps_rivals.METHODS,
        default=pysteps_rivals.METHODS,
        help="rivals; without a name the model alone, which needs no pysteps",
    )
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="score every n-th of the starts, in a slow framework")
    options = parser.parse_args()

    frames = open_frames(options.data, units="mm")
    values = frames.read(slice(None))[:, 0]
    known = np.isfinite(values)
    rain = np.nan_to_num(values)
    validation = pysteps_rivals.choose_starts(rain, 7, 8, 31)
    starts = validation if options.check else pysteps_rivals.choose_starts(rain, 8, 11, 64)
    starts = starts[:: options.every]
    print(f"{len(validation)} starts to tune the rivals, {len(starts)} to score")
    forecasts, cuts = rival_forecasts(options.methods, rain, known, validation, starts, options.cache)
    model = load_nowcaster(options.model, options.framework, options.threads)
    forecasts |= model_forecasts(model, values, starts)
    observation = np.stack([[values[start + lead // 5] for lead in LEADS] for start in starts])

    scores = tables(forecasts, cuts, observation, values[starts], model.spec.patch_size)
    report = {
        "starts": len(starts),
        "digest": model.model.digest,
        "framework": model.trainer.description,
    } | {name: json.loads(table.to_json(orient="records")) for name, table in scores.items()}
    options.output.write_text(json.dumps(report, indent=1))
    print("\n".join(markdown(scores)))


def argument_parser(documentation: str) -> argparse.ArgumentParser:
    """Return a parser of the arguments that the comparisons with rivals share."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--check", action="store_true", help="score day 7 instead of the test days")
    return parser


def rival_forecasts(
    methods: tuple[str, ...],
    rain: np.ndarray,
    known: np.ndarray,
    validation: np.ndarray,
    starts: np.ndarray,
    cache: Path,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the forecasts of the rivals by method, and their cuts (threshold, lead_time) tuned on the validation."""
    forecasts, cuts = {}, {}
    if not methods:
        return forecasts, cuts
    flow = {name: pysteps_rivals.cached("optical_flow", rain, known, chosen, cache)
            for name, chosen in (("validation", validation), ("starts", starts))}  # fmt: skip
    for method in methods:
        tuning = pysteps_rivals.cached(method, rain, known, validation, cache)
        tuning = pysteps_rivals.fill(method, tuning, flow["validation"])
        counts = pysteps_rivals.count(method, tuning, rain, known, validation)
        cuts[method] = np.array(pysteps_rivals.tune(method, counts))
        forecast = pysteps_rivals.cached(method, rain, known, starts, cache)
        forecasts[method] = pysteps_rivals.fill(method, forecast, flow["starts"]).astype(np.float32)
    return forecasts, cuts


def model_forecasts(model: Nowcaster, values: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the field, the mean (case, lead_time, y, x) and the probabilities (with threshold) of the model."""
    leads = np.array(LEADS) * 60.0
    fields, means, probabilities = [], [], []
    for start in starts:
        inputs = values[start - INPUT_LENGTH + 1 : start + 1][:, None]
        probability, mean = model.predict_events(inputs, np.arange(INPUT_LENGTH) * 300.0, leads)
        means.append(mean)
        fields.append(model.field(probability, leads))
        chosen = [model.spec.thresholds.index(threshold) for threshold in THRESHOLDS]
        probabilities.append(probability[:, chosen])
    return {MODEL: np.stack(fields), "mean": np.stack(means), "probability": np.stack(probabilities)}


def tables(
    forecasts: Mapping[str, np.ndarray],
    cuts: Mapping[str, np.ndarray],
    observation: np.ndarray,
    last_frames: np.ndarray,
    patch_size: int,
) -> dict[str, pd.DataFrame]:
    """Return the tables of scores by name."""
    coords = {"init_time": np.arange(len(observation)), "lead_time": list(map(float, LEADS))}
    observed = xr.DataArray(observation, dims=DIMS, coords=coords)
    fields = [method for method in forecasts if method in pysteps_rivals.FIELDS]
    mean = {MODEL: xr.DataArray(forecasts["mean"], dims=DIMS, coords=coords)}
    untuned = named({name: forecasts[name] for name in (MODEL, *fields)}, coords)
    plain_sums = case_sums(untuned, observed, thresholds=THRESHOLDS, means=mean)
    tuned_sums: list[list[CaseSums]] = []
    for index, threshold in enumerate(THRESHOLDS):
        # an event of a rival is a value from its cut on: divided by the cut, it is a value from the threshold on
        scaled = {MODEL: forecasts[MODEL]}
        for method, cut in cuts.items():
            values = forecasts[method] if method in fields else forecasts[method][:, :, index]
            scale = cut[index] if method in fields else cut[index] / threshold
            # the cache has half precision, whose rounding must not move a value below its cut
            scaled[method] = values / scale[:, None, None].astype(np.float32) * np.float32(1 + 2**-11)
        tuned_sums.append(case_sums(named(scaled, coords), observed, thresholds=[threshold]))
    probability = xr.DataArray(
        forecasts["probability"],
        dims=("init_time", "lead_time", "threshold", "y", "x"),
        coords=coords | {"threshold": list(THRESHOLDS)},
    )
    last = xr.DataArray(last_frames, dims=("init_time", "y", "x"))
    _, fine_scales = spectrum_tables(untuned, observed, last, patch_size=patch_size)
    tuned = pd.concat([score_table(sums) for sums in tuned_sums])
    differences = errors = pd.DataFrame(columns=["score"])
    if len(forecasts) > len((MODEL, "mean", "probability")):
        differences = pd.concat([difference_table(sums, MODEL) for sums in tuned_sums])
        errors = difference_table(plain_sums, MODEL)
    return {
        "plain": score_table(plain_sums),
        "tuned": tuned[tuned["threshold"].notna()],
        "differences": differences[differences["score"] == "csi"],
        "error_differences": errors[errors["score"] == "rmse"],
        "probabilities": score_probabilities(probability, observed),
        "reliability": reliability_table({MODEL: probability}, observed),
        "fine_scales": fine_scales,
    }


def named(forecasts: Mapping[str, np.ndarray], coords: Mapping[str, Any]) -> xr.DataArray:
    """Return forecasts (case, lead_time, y, x) by method as one array."""
    stacked = np.stack(list(forecasts.values()))
    return xr.DataArray(stacked, dims=("method", *DIMS), coords={**coords, "method": list(forecasts)})


def markdown(scores: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the main tables as Markdown."""
    lines = []
    for name, title in (("tuned", "cuts tuned on day 7"), ("plain", "cuts of the rivals not tuned")):
        for threshold in THRESHOLDS:
            rows = scores[name].query("score == 'csi' and threshold == @threshold")
            lines += pivot(f"CSI ≥ {threshold:g} mm/h, {title}", rows, "value")
    rmse = scores["plain"].query("score == 'rmse'")
    lines += pivot("RMSE of the mean, mm/h", rmse, "value")
    bias = scores["tuned"].query("score == 'bias' and threshold == 1.0")
    lines += pivot("Frequency bias ≥ 1 mm/h", bias, "value")
    lines += intervals("CSI difference", scores["differences"])
    lines += intervals("RMSE difference", scores["error_differences"])
    lines += ["", scores["probabilities"].to_string(index=False)]
    lines += ["", scores["reliability"].to_string(index=False)]
    return [*lines, "", scores["fine_scales"].to_string(index=False)]


def pivot(title: str, rows: pd.DataFrame, column: str) -> list[str]:
    """Return a table of method by lead time."""
    lines = ["", f"| {title} | {' | '.join(f'{lead} min' for lead in LEADS)} |", "|---" * (len(LEADS) + 1) + "|"]
    for method in dict.fromkeys(rows["method"]):
        values = rows[rows["method"] == method].set_index("lead_time")[column]
        lines.append(f"| {method} | {' | '.join(f'{values[float(lead)]:.3f}' for lead in LEADS)} |")
    return lines


def intervals(title: str, rows: pd.DataFrame) -> list[str]:
    """Return one line per difference with its interval."""
    lines = [""]
    for row in rows.itertuples():
        lines.append(
            f"{title} to {row.other} at {row.lead_time:g} min, threshold {row.threshold:g}: "
            f"{row.difference:+.4f} ({row.lower:+.4f} to {row.upper:+.4f})"
        )
    return lines


if __name__ == "__main__":
    main()
