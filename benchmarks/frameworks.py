"""Train one model from the command line in each of the six frameworks, on the sample in the package.

    python benchmarks/frameworks.py OUTPUT [--steps 150] [--seeds 3]

Each framework trains with the same configuration and seed. PyTorch also trains with other seeds, for comparison. The
script compares the loss of the first step, the scores of the test day after the last step, and the forecasts of each
framework with the weights of every other. Each command runs in a separate process.
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
    """Train, evaluate and exchange weights; write the results as JSON and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    environments = [environment for environment in ENVIRONMENTS if environment.installed]
    results = {"steps": options.steps, "first loss": {}, "scores": {}, "exchange": {}}
    for environment in environments:
        first = train(environment, options.output / f"{environment.name}-first", 1, 0)
        results["first loss"][environment.name] = first
    for environment in environments:
        for seed in range(options.seeds if environment.name == "torch" else 1):
            name = f"{environment.name}, seed {seed}"
            run = options.output / f"{environment.name}-{seed}"
            train(environment, run, options.steps, seed)
            results["scores"][name] = evaluate(environment, run)
            print(name, results["scores"][name], flush=True)
    for trained in environments:
        model = options.output / f"{trained.name}-0"
        forecasts = {environment.name: forecast(environment, model, options.output) for environment in environments}
        for name, values in forecasts.items():
            results["exchange"][f"{trained.name} weights in {name}"] = float(
                np.abs(values - forecasts[trained.name]).max()
            )
    (options.output / "frameworks.json").write_text(json.dumps(results, indent=1))
    for line in table(results):
        print(line)


def command(environment: Environment, *arguments: str) -> None:
    """Run one `convlstm` command in a framework."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    arguments = (*arguments, "--framework", environment.frontend)
    subprocess.run(
        [sys.executable, "-m", "convlstm", *arguments], env={**os.environ, **quiet, **environment.variables}, check=True
    )


def train(environment: Environment, run: Path, steps: int, seed: int) -> float:
    """Train, and return the mean loss up to the first validation."""
    settings = [
        word for item in (CONFIG | {"training.steps": str(steps)}).items() for word in ("--set", "=".join(item))
    ]
    if not (run / "model.safetensors").exists():
        command(environment, "train", str(sample_path()), "-o", str(run), "--seed", str(seed), *settings)
    return float(json.loads((run / "log.jsonl").read_text().splitlines()[0])["loss"])


def evaluate(environment: Environment, run: Path) -> dict[str, float]:
    """Return RMSE and CSI of the test day by lead time."""
    folder = run / "evaluation"
    command(environment, "evaluate", str(run), str(sample_path()), "-o", str(folder))
    scores = pd.read_csv(folder / "scores.csv")
    of_model = scores[scores.method == "convlstm"]
    result = {}
    for minutes in LEADS:
        at_lead = of_model[np.isclose(of_model.lead_time, minutes)]
        result[f"RMSE {minutes}"] = float(at_lead[at_lead.score == "rmse"].value.iloc[0])
        result[f"CSI {minutes}"] = float(at_lead[(at_lead.score == "csi") & (at_lead.threshold == 1.0)].value.iloc[0])
    return result


def forecast(environment: Environment, model: Path, folder: Path) -> np.ndarray:
    """Return the forecast after the last frame of the sample."""
    path = folder / "forecast.nc"
    command(environment, "forecast", str(model), str(sample_path()), "-o", str(path))
    with xr.open_dataset(path, decode_timedelta=False) as dataset:
        return dataset["rainfall_rate"].values


def table(results: dict) -> list[str]:
    """Return the results as a Markdown table, with a last line for the exchange of weights."""
    lines = ["| framework | first loss | " + " | ".join(f"{m} {n} min" for n in LEADS for m in ("RMSE", "CSI")) + " |"]
    lines.append("|---" * (2 + 2 * len(LEADS)) + "|")
    for name, scores in results["scores"].items():
        first = results["first loss"][name.split(",")[0]] if name.endswith("seed 0") else float("nan")
        lines.append(f"| {name} | {first:.7f} | " + " | ".join(f"{v:.4f}" for v in scores.values()) + " |")
    worst = max(results["exchange"].items(), key=lambda item: item[1])
    return [*lines, f"largest difference between forecasts from the same weights: {worst[1]:.1e} mm/h ({worst[0]})"]


if __name__ == "__main__":
    main()
