"""Train the model in the package for a few steps without one part of its training, and score each on 17 May.

    python -m benchmarks.skill.parts DATA FOLDER [--steps 160] [--batch-size 2] [--cases 16] [--parts crops average]

DATA is the RADOLAN YW file of pycomlink 0.6.0. The full recipe is first_stage.yaml with fewer steps and smaller
batches. It is trained with two seeds, whose difference shows what chance alone changes. Every part is left out with the
first of them. No test day is scored. Each result is FOLDER/NAME/scores.json, and those that exist are not computed
again. A training that was interrupted continues.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml

from benchmarks.skill.rivals import LEADS, THRESHOLDS, choose_starts, csi
from benchmarks.skill.score import MODEL, model_forecasts
from convlstm.data import Frames, open_frames
from convlstm.data.sampling import Size, UniformSampler
from convlstm.data.windows import Starts
from convlstm.nowcast import moving_batches
from convlstm.nowcast.config import Config, validate
from convlstm.nowcast.fit import fit
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.run_folder import RunFolder
from convlstm.weights.checkpoint import load_arrays, load_model

SCORES = "scores.json"
RECIPE = Path(__file__).with_name("first_stage.yaml")
FULL, OTHER_SEED, CROPS, AVERAGE = "full", "other-seed", "crops", "average"

CHANGES: dict[str, dict[str, Any]] = {
    FULL: {},
    OTHER_SEED: {"seed": 1},
    CROPS: {},  # see `uniform_crops`: no option of a training turns them off
    "flips": {"training.augment": False},
    "intensity": {"training.intensity": 0.0},
    AVERAGE: {},  # see `save_last_weights`: the average changes no step, so that no training is needed
    "decay": {"training.weight_decay": 0.0},
    "weights": {"training.threshold_weights": [], "training.first_lead_weight": 1.0},
}
"""Options by training, as `section.option`, that differ from the full recipe."""

LABELS = {
    FULL: "full recipe",
    OTHER_SEED: "full recipe, another seed",
    CROPS: "crops anywhere, not by rain",
    "flips": "no flips and turns",
    "intensity": "no random factor",
    AVERAGE: "last weights, not their average",
    "decay": "no weight decay",
    "weights": "equal weights of thresholds and lead times",
}


def main() -> None:
    """Train and score what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--cases", type=int, default=16, help="least number of starts of 17 May to score")
    parser.add_argument("--parts", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parser.parse_args()
    frames = open_frames(options.data, units="mm")
    values = frames.read(slice(None))[:, 0]
    starts = choose_starts(np.nan_to_num(values), 7, 8, options.cases)
    scores = {}
    for name in options.parts:
        folder = RunFolder(options.folder / name)
        path = folder.path / SCORES
        if not path.exists():
            if name == AVERAGE and not folder.holds_run:
                save_last_weights(RunFolder(options.folder / FULL), folder)
            train(name, configuration(name, options.steps, options.batch_size), frames, folder)
            path.write_text(json.dumps(score(folder, values, starts), indent=1), encoding="utf-8")
        scores[name] = json.loads(path.read_text(encoding="utf-8"))
        print(f"{name}: {scores[name]}", flush=True)
    print("\n".join(table(scores)))


def configuration(name: str, steps: int, batch_size: int) -> Config:
    """Return the options of a training; the only validation is the one at its end."""
    values = copy.deepcopy(yaml.safe_load(RECIPE.read_text(encoding="utf-8")))
    values["training"] |= {"steps": steps, "batch_size": batch_size, "validate_every": steps}
    for option, value in CHANGES[name].items():
        section, _, key = option.rpartition(".")
        (values[section] if section else values)[key] = value
    return validate(values)


def train(name: str, config: Config, frames: Frames, folder: RunFolder) -> None:
    """Train a model in a folder, or continue a training that was interrupted."""
    crops: AbstractContextManager[Any] = nullcontext()
    if name == CROPS:
        crops = patch.object(moving_batches, "WetSampler", uniform_crops)
    with crops:
        fit(config, frames, folder, resume=folder.holds_run)


def save_last_weights(full: RunFolder, folder: RunFolder) -> None:
    """Copy the finished training of the full recipe to a folder, with its last weights in place of their average.

    The model has no cuts then, and the training, which has no further step, chooses them.
    """
    if not (full.path / SCORES).exists():
        raise SystemExit(f"the part {AVERAGE} needs the finished training {FULL} in the same folder")
    unfinished = RunFolder(folder.path.with_name(f"{AVERAGE}.unfinished"))
    shutil.rmtree(unfinished.path, ignore_errors=True)
    shutil.copytree(full.path, unfinished.path, ignore=shutil.ignore_patterns(SCORES))
    arrays, _, _ = load_arrays(unfinished.path / "state.safetensors")
    weights = {key.removeprefix("weights."): array for key, array in arrays.items() if key.startswith("weights.")}
    model = load_model(unfinished.model)
    unfinished.save_model(model.spec, weights, {key: value for key, value in model.extra.items() if key != "events"})
    unfinished.path.rename(folder.path)


def uniform_crops(frames: Frames, starts: Starts, length: int, crop: Size) -> UniformSampler:
    """Return a sampler of any window and crop, with the arguments of the sampler by rain."""
    return UniformSampler(starts, frames.shape[2:], crop)


def score(folder: RunFolder, values: np.ndarray, starts: np.ndarray) -> dict[str, list[float]]:
    """Return the scores of the model in a folder on some starts."""
    forecasts = model_forecasts(load_nowcaster(folder.model, threads=1), values, starts)
    observation = np.stack([[values[start + lead // 5] for lead in LEADS] for start in starts])
    return scores_of(forecasts[MODEL], forecasts["probability"], observation)


def scores_of(field: np.ndarray, probability: np.ndarray, observation: np.ndarray) -> dict[str, list[float]]:
    """Return CSI by threshold, and the Brier score of 1 mm/h, each by lead time.

    Arrays are (case, lead_time, y, x), the probabilities (case, lead_time, threshold, y, x). Unknown observations are
    NaN and left out.
    """
    known = np.isfinite(observation)
    scores = {}
    for threshold in THRESHOLDS:
        observed, predicted = observation >= np.float32(threshold), field >= np.float32(threshold)
        parts = (predicted & observed, ~predicted & observed, predicted & known & ~observed)
        counts = np.stack([part.sum(axis=(0, 2, 3)) for part in parts], axis=-1)
        scores[f"csi {threshold:g}"] = csi(counts).round(4).tolist()
    error = probability[:, :, THRESHOLDS.index(1.0)] - (observation >= 1)
    brier = np.square(error, where=known, out=np.zeros_like(error)).sum(axis=(0, 2, 3), dtype=np.float64)
    return scores | {"brier 1": (brier / known.sum(axis=(0, 2, 3))).round(6).tolist()}


def table(scores: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the Markdown table: a row per training, with CSI, and the Brier score of 1 mm/h."""
    columns = [(f"csi {threshold:g}", lead) for threshold, lead in ((1, 5), (1, 15), (1, 30), (1, 45), (1, 60))]
    columns += [("csi 0.1", 30), ("csi 5", 30), ("brier 1", 30)]
    heads = [f"{kind.replace('csi ', '≥ ')}, {lead} min" for kind, lead in columns]
    lines = [f"| training | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for name, values in scores.items():
        cells = [f"{values[kind][LEADS.index(lead)]:.{4 if kind == 'brier 1' else 3}f}" for kind, lead in columns]
        lines.append(f"| {LABELS[name]} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
