"""One model trained by the command line in each of the six set-ups, on the sample that ships in the package.

    python benchmarks/frameworks.py OUTPUT [--steps 150] [--seeds 3]

Each set-up trains with the same configuration and seed; PyTorch also with other seeds, whose spread is the measure.
Compared are the loss of the first step, the scores of the test day after the last, and the forecasts that every set-up
makes with every other's weights. Each command runs in a process of its own, as a user runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from convlstm.conformance.environments import ENVIRONMENTS, Environment
from convlstm.data import sample_path

CONFIG = {
    "model.hidden_channels": "[24,24]",
    "data.crop": "64",
    "training.batch_size": "4",
    "training.precision": "float32",
    "training.validation_windows": "16",
}
LEADS = (5, 30, 60)


def main() -> None:
    """Train, evaluate and exchange weights; write what was found as JSON and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    setups = [setup for setup in ENVIRONMENTS if setup.installed]
    found = {"steps": options.steps, "first loss": {}, "scores": {}, "exchange": {}}
    for setup in setups:
        first = train(setup, options.output / f"{setup.name}-first", 1, 0)
        found["first loss"][setup.name] = first
    for setup in setups:
        for seed in range(options.seeds if setup.name == "torch" else 1):
            name = f"{setup.name}, seed {seed}"
            run = options.output / f"{setup.name}-{seed}"
            train(setup, run, options.steps, seed)
            found["scores"][name] = evaluate(setup, run)
            print(name, found["scores"][name], flush=True)
    for trained in setups:
        model = options.output / f"{trained.name}-0"
        forecasts = {setup.name: forecast(setup, model, options.output) for setup in setups}
        for name, values in forecasts.items():
            found["exchange"][f"{trained.name} weights in {name}"] = float(
                np.abs(values - forecasts[trained.name]).max()
            )
    (options.output / "frameworks.json").write_text(json.dumps(found, indent=1))
    for line in table(found):
        print(line)


def command(setup: Environment, *words: str) -> None:
    """Run one `convlstm` command in a set-up."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    words = (*words, "--framework", setup.frontend)
    subprocess.run(
        [sys.executable, "-m", "convlstm", *words], env={**os.environ, **quiet, **setup.variables}, check=True
    )


def train(setup: Environment, run: Path, steps: int, seed: int) -> float:
    """Train, and return the mean loss up to the first validation."""
    settings = [
        word for item in (CONFIG | {"training.steps": str(steps)}).items() for word in ("--set", "=".join(item))
    ]
    if not (run / "model.safetensors").exists():
        command(setup, "train", str(sample_path()), "-o", str(run), "--seed", str(seed), *settings)
    return float(json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"])


def evaluate(setup: Environment, run: Path) -> dict[str, float]:
    """Return RMSE and CSI of the test day by lead time."""
    folder = run / "evaluation"
    command(setup, "evaluate", str(run), str(sample_path()), "-o", str(folder))
    scores = pd.read_csv(folder / "scores.csv")
    own = scores[scores.method == "convlstm"]
    result = {}
    for minutes in LEADS:
        here = own[np.isclose(own.lead_time, minutes)]
        result[f"RMSE {minutes}"] = float(here[here.score == "rmse"].value.iloc[0])
        result[f"CSI {minutes}"] = float(here[(here.score == "csi") & (here.threshold == 1.0)].value.iloc[0])
    return result


def forecast(setup: Environment, model: Path, folder: Path) -> np.ndarray:
    """Return the forecast after the last frame of the sample."""
    path = folder / "forecast.nc"
    command(setup, "forecast", str(model), str(sample_path()), "-o", str(path))
    with xr.open_dataset(path, decode_timedelta=False) as dataset:
        return dataset["rainfall_rate"].values


def table(found: dict) -> list[str]:
    """Return what was found as Markdown."""
    lines = ["| set-up | first loss | " + " | ".join(f"{m} {n} min" for n in LEADS for m in ("RMSE", "CSI")) + " |"]
    lines.append("|---" * (2 + 2 * len(LEADS)) + "|")
    for name, scores in found["scores"].items():
        first = found["first loss"][name.split(",")[0]] if name.endswith("seed 0") else float("nan")
        lines.append(f"| {name} | {first:.7f} | " + " | ".join(f"{v:.4f}" for v in scores.values()) + " |")
    worst = max(found["exchange"].items(), key=lambda item: item[1])
    return [*lines, f"largest difference between forecasts from one set of weights: {worst[1]:.1e} mm/h ({worst[0]})"]


if __name__ == "__main__":
    main()
