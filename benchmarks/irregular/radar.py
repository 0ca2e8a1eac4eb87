"""Radar rain with randomly dropped frames: models with durations, with memory decay only, and without both.

    python -m benchmarks.irregular.radar RADOLAN.nc [--horizon 12] [--steps 600] [--seeds 3] [--output FOLDER]

The gaps between the remaining frames are 5 to 30 minutes, uniformly distributed. All models of a seed train on the same
windows in the same order, from the same initial weights, for the same number of steps. They forecast the remaining
frames at their actual times. The scores are in mm/h on the test days, over three samples of dropped frames that all
models share. Each seed samples other weights, batches and dropped frames of the training days.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.irregular import runs
from benchmarks.irregular.contenders import CONTENDERS, train
from benchmarks.irregular.scores import group, table, tally
from convlstm.data import Batch, Batches, Frames, find_windows, open_frames, split_days, windows_within
from convlstm.nowcast.config import Config, validate
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.prepare import prepare, to_sample

MINUTES = (5, 10, 15, 20, 25, 30)
BANDS = ((0, 15), (15, 30), (30, 60), (60, 120), (120, 240))
THRESHOLD = 1.0
TEST_DAYS = 3
EVERY = 8  # windows from one scored window to the next
CASE = 3600.0  # seconds; windows that start within one case are drawn together
DATA = {"input_length": 6, "max_gap": 1800.0, "crop": 64, "test": TEST_DAYS}


def main() -> None:
    """Train and score the contenders for every seed, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    runs.add_options(parser, steps=600, horizon=12, output="irregular_radar")
    parser.add_argument("--hidden", type=int, default=32, help="hidden channels of both layers")
    options = parser.parse_args()
    frames = open_frames(options.data, units="mm")
    persistence: list[np.ndarray] = []

    def run(name: str, seed: int) -> runs.Sums:
        return run_one(frames, name, configure(seed, options.steps, options.horizon, options.hidden))

    chosen = {name: getattr(options, name) for name in ("steps", "horizon", "hidden")}
    settings = chosen | {"data": DATA, "every": EVERY}
    results = runs.run_all(options, settings, run)
    sums = {}
    for name, by_seed in results.items():
        sums[name] = np.stack([group(one["forecast"], one["start"], CASE) for one in by_seed])
        persistence = [group(one["persistence"], one["start"], CASE) for one in by_seed]
    bands = [f"{low}–{high} min" for low, high in BANDS]
    for line in table(sums, {"persistence": persistence[0]}, bands, ("RMSE", "CSI")):
        print(line)


def configure(seed: int, steps: int, horizon: int, hidden: int) -> Config:
    """Return the configuration of a run; each contender replaces its use of time."""
    return validate(
        {
            "data": DATA | {"horizon": horizon},
            "model": {"hidden_channels": [hidden, hidden], "duration_strategy": "mlp", "memory_decay": True},
            "training": {"steps": steps, "batch_size": 4, "precision": "float32"},
            "seed": seed,
        }
    )


def run_one(frames: Frames, name: str, config: Config) -> runs.Sums:
    """Train a contender, and return the sums of its forecasts and of persistence by window of the test days."""
    data, pipeline = prepare(config, thin(frames, np.random.default_rng([config.seed, 1])))
    contender = CONTENDERS[name]
    trainer = train(
        contender,
        {"hidden_channels": config.model.hidden_channels},
        1,
        pipeline.time_step,
        config,
        lambda step: to_sample(data.train.batch(step), pipeline, config),
    )
    parts: dict[str, list[np.ndarray]] = {"start": [], "forecast": [], "persistence": []}
    for start, batch in test_batches(frames, config, pipeline):
        sample = to_sample(batch, pipeline, config)
        truth, known = pipeline.transform.inverse(batch.targets), batch.weight > 0
        minutes = np.cumsum(batch.lead_durations, axis=1) / 60.0
        values = trainer.predict(contender.restrict(sample), truth.shape[1])
        values = values[..., : truth.shape[-2], : truth.shape[-1]]  # without the padding to whole patches
        forecast = np.maximum(pipeline.transform.inverse(values), 0.0)
        last = pipeline.transform.inverse(batch.inputs[:, -1:])
        parts["start"].append(start)
        parts["forecast"].append(tally(forecast, truth, known, minutes, BANDS, THRESHOLD))
        parts["persistence"].append(tally(last, truth, known, minutes, BANDS, THRESHOLD))
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}


def thin(frames: Frames, random: np.random.Generator) -> Frames:
    """Drop frames so that the gaps are uniformly distributed over `MINUTES`, where the source has no gap."""
    wanted = np.cumsum(random.choice(MINUTES, len(frames.seconds))) * 60.0
    keep = np.isin(frames.seconds, frames.seconds[0] + wanted)
    channels = tuple(replace(channel, packed=channel.packed[keep]) for channel in frames.channels)
    return replace(frames, time=frames.time[keep], seconds=frames.seconds[keep], channels=channels)


def test_batches(frames: Frames, config: Config, pipeline: Pipeline) -> Iterator[tuple[np.ndarray, Batch]]:
    """Yield the start times in seconds and the windows of the test days, on the whole grid, for three samples."""
    part = config.data
    length = part.input_length + part.horizon
    sizes = {"input_length": part.input_length, "horizon": part.horizon, "batch_size": 8}
    for sample_number in range(3):
        thinned = thin(frames, np.random.default_rng([sample_number, 2]))
        starts = find_windows(thinned.seconds, length, time_step=thinned.time_step, max_gap=part.max_gap, stride=EVERY)
        splits = split_days(thinned.time, validation=part.validation, test=part.test)
        starts = windows_within(starts, length, splits["test"])
        begins = thinned.seconds[starts + part.input_length - 1] - frames.seconds[0]
        ordered = Batches.in_order(thinned, starts, pipeline.transform, **sizes)
        for number in range(len(ordered)):
            yield begins[8 * number : 8 * number + 8], ordered.batch(number)


if __name__ == "__main__":
    main()
