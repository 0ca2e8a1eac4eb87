"""Compare a model with durations and the same model without them on radar rain with randomly dropped frames.

    python benchmarks/irregular.py RADOLAN.nc [--steps 600] [--seeds 3]

The gaps between the remaining frames are 5 to 30 minutes, uniformly distributed. Both models train on the same windows
in the same order, from the same initial weights, for the same number of steps. The additional weights of the model with
durations have no effect at initialisation. Both forecast the remaining frames at their actual times. The scores are in
mm/h on the test day by lead time, over three samples of dropped frames, with persistence for comparison. Each seed
samples other weights, batches and dropped frames.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from convlstm.data import Batch, Batches, Frames, find_windows, open_frames, split_days, windows_within
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.nowcast.config import Config, validate
from convlstm.nowcast.fit import learning_rate
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.prepare import prepare, to_sample
from convlstm.spec.options import ConvLSTMSpec
from convlstm.torch.training import Trainer
from convlstm.weights.canonical import initialise

MINUTES = (5, 10, 15, 20, 25, 30)
BINS = ((0, 15), (15, 30), (30, 60), (60, 120))
THRESHOLD = 1.0


def main() -> None:
    """Train and score both models for every seed, and print mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategy", default="mlp", help="how durations scale the candidate")
    parser.add_argument("--decay", action=argparse.BooleanOptionalAction, default=True, help="memory decay")
    parser.add_argument("--output", type=Path, default=Path("irregular.json"))
    options = parser.parse_args()
    frames = open_frames(options.data, units="mm")
    runs = []
    for seed in range(options.seeds):
        runs.append(run(frames, options, seed))
        settings = {"steps": options.steps, "strategy": options.strategy, "decay": options.decay}
        options.output.write_text(json.dumps(settings | {"runs": runs}, indent=1))
        print(f"seed {seed}:", json.dumps(runs[-1]), flush=True)
    for line in table(runs):
        print(line)


def run(frames: Frames, options: argparse.Namespace, seed: int) -> dict[str, dict[str, list[float]]]:
    """Return scores by model and measure, one per bin of lead time."""
    config = validate(
        {
            "data": {"input_length": 6, "horizon": 4, "max_gap": 1800.0, "crop": 64},
            "model": {
                "hidden_channels": [32, 32],
                "duration_strategy": options.strategy,
                "memory_decay": options.decay,
            },
            "training": {"steps": options.steps, "batch_size": 4, "precision": "float32"},
            "seed": seed,
        }
    )
    thinned = thin(frames, np.random.default_rng([seed, 1]))
    data, pipeline = prepare(config, thinned)
    timed = config.model.spec(1, pipeline.time_step)
    untimed_spec = replace(timed, encoder=without_durations(timed.encoder))
    trainers = {
        name: Trainer(spec, initialise(spec, seed), Optimisation(precision="float32"))
        for name, spec in (("with durations", timed), ("without", untimed_spec))
    }
    for step in range(options.steps):
        sample = to_sample(data.train.batch(step), pipeline, config)
        for name, trainer in trainers.items():
            trainer.step(
                sample if name == "with durations" else without_times(sample), learning_rate(config, step), step
            )
    return score(frames, config, pipeline, trainers)


def thin(frames: Frames, random: np.random.Generator) -> Frames:
    """Drop frames so that the gaps are uniformly distributed over `MINUTES`, where the source has no gap."""
    wanted = np.cumsum(random.choice(MINUTES, len(frames.seconds))) * 60.0
    keep = np.isin(frames.seconds, frames.seconds[0] + wanted)
    channels = tuple(replace(channel, packed=channel.packed[keep]) for channel in frames.channels)
    return replace(frames, time=frames.time[keep], seconds=frames.seconds[keep], channels=channels)


def without_durations(spec: ConvLSTMSpec) -> ConvLSTMSpec:
    """Return the stack without durations."""
    return replace(spec, duration_strategy="none", memory_decay=False, reference_duration=1.0)


def without_times(sample: Sample) -> Sample:
    """Return the sample without durations."""
    return replace(sample, durations=None, lead_durations=None, gaps=None)


def score(
    frames: Frames, config: Config, pipeline: Pipeline, trainers: dict[str, Trainer]
) -> dict[str, dict[str, list[float]]]:
    """Return RMSE and CSI of each model and of persistence by bins of lead time, over three samples of frames."""
    counts = {name: np.zeros((len(BINS), 5)) for name in ("with durations", "without", "persistence")}
    for sample_number in range(3):
        thinned = thin(frames, np.random.default_rng([sample_number, 2]))
        for batch in test_batches(thinned, config, pipeline):
            sample = to_sample(batch, pipeline, config)
            truth = pipeline.transform.inverse(batch.targets)
            shape = truth.shape[-2:]
            forecasts = {"persistence": np.repeat(pipeline.transform.inverse(batch.inputs[:, -1:]), truth.shape[1], 1)}
            for name, trainer in trainers.items():
                inputs = sample if name == "with durations" else without_times(sample)
                values = trainer.predict(inputs, truth.shape[1])[..., : shape[0], : shape[1]]
                forecasts[name] = np.maximum(pipeline.transform.inverse(values), 0.0)
            minutes = np.cumsum(batch.lead_durations, axis=1) / 60.0
            for name, forecast in forecasts.items():
                counts[name] += tally(forecast, truth, batch.weight, minutes)
    return {name: scores(count) for name, count in counts.items()}


def test_batches(frames: Frames, config: Config, pipeline: Pipeline) -> list[Batch]:
    """Return every window of the test day, on the whole grid."""
    part = config.data
    length = part.input_length + part.horizon
    starts = find_windows(frames.seconds, length, time_step=frames.time_step, max_gap=part.max_gap)
    test = windows_within(starts, length, split_days(frames.time, validation=part.validation, test=part.test)["test"])
    sizes = {"input_length": part.input_length, "horizon": part.horizon, "batch_size": 8}
    ordered = Batches.in_order(frames, test, pipeline.transform, **sizes)
    return [ordered.batch(n) for n in range(len(ordered))]


def tally(forecast: np.ndarray, truth: np.ndarray, weight: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """Return per bin: squared error, known values, hits, misses, false alarms."""
    known = weight > 0
    observed_event, forecast_event = (truth >= THRESHOLD) & known, (forecast >= THRESHOLD) & known
    parts = np.stack(
        [
            np.where(known, (forecast - truth) ** 2, 0),
            known,
            observed_event & forecast_event,
            observed_event & ~forecast_event,
            forecast_event & ~observed_event,
        ]
    )
    sums = parts.sum(axis=(-3, -2, -1), dtype=np.float64)  # (5, batch, lead)
    return np.array([sums[:, (minutes > low) & (minutes <= high)].sum(axis=1) for low, high in BINS])


def scores(counts: np.ndarray) -> dict[str, list[float]]:
    """Return RMSE and CSI by bin."""
    error, known, hits, misses, alarms = counts.T
    return {
        "rmse": np.sqrt(error / known).round(4).tolist(),
        "csi": (hits / (hits + misses + alarms)).round(4).tolist(),
    }


def table(runs: list[dict[str, dict[str, list[float]]]]) -> list[str]:
    """Return mean and spread over seeds as a Markdown table."""
    heads = [f"{low}–{high} min" for low, high in BINS]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for measure in ("rmse", "csi"):
        for name in ("with durations", "without", "persistence"):
            values = np.array([run_scores[name][measure] for run_scores in runs])
            cells = [f"{m:.3f} ± {s:.3f}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
            lines.append(f"| {measure.upper()}, {name} | {' | '.join(cells)} |")
        gain = np.array(
            [np.subtract(run_scores["with durations"][measure], run_scores["without"][measure]) for run_scores in runs]
        )
        cells = [f"{m:+.3f} ± {s:.3f}" for m, s in zip(gain.mean(0), gain.std(0, ddof=1), strict=True)]
        lines.append(f"| {measure.upper()}, with − without | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
