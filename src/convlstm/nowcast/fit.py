"""Training as a pure function of configuration, data, seed and step; one loop for every framework.

Batch n and its dropout follow from the seed and n alone, so a run that was killed goes on bit for bit.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from convlstm import __version__
from convlstm.contract.checkpoint import save_model
from convlstm.contract.training import Optimisation, Sample, Trainer
from convlstm.contract.weights import initialise
from convlstm.data import RAIN_RATE, Batch, Batches, Frames, OrderedBatches, find_windows, split_days, windows_within
from convlstm.errors import DataError, TrainingError
from convlstm.nowcast.config import Config
from convlstm.nowcast.faces import build_trainer
from convlstm.nowcast.pipeline import Pipeline, choose_thresholds, choose_transform, emphasis, pad_to_patches
from convlstm.nowcast.run import Progress, RunFolder

_VALIDATION_BATCH = 4


@dataclass(frozen=True)
class Report:
    """What a run tells while it goes on.

    Args:
        step: Optimiser steps taken.
        steps: Steps in all.
        loss: Training loss of the last step.
        validation_loss: Loss of a validation just done, else None.
        learning_rate: Of the last step.
    """

    step: int
    steps: int
    loss: float
    validation_loss: float | None
    learning_rate: float


class InterruptedTrainingError(TrainingError):
    """Training was asked to stop; its state is saved and `--resume` goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(
            "training",
            expected="no interruption",
            received=signal.Signals(number).name,
            mend="the state is saved: go on with --resume.",
        )
        self.exit_code = 128 + number


def fit(
    config: Config,
    frames: Frames,
    folder: RunFolder,
    *,
    framework: str = "torch",
    resume: bool = False,
    tell: Callable[[Report], None] = lambda report: None,
) -> Progress:
    """Train a forecaster and leave its best weights in the run's folder.

    Args:
        config: The run.
        frames: The sequence to learn from.
        folder: Where model, state and log go.
        framework: Which framework trains.
        resume: Whether to go on with the run in the folder.
        tell: Called after every step.

    Returns:
        Where the run ended.

    Raises:
        DataError: if the data has no windows to train or validate on.
        TrainingError: if the loss is no longer finite; the last good model and state are kept.
        InterruptedTrainingError: on SIGINT or SIGTERM, after the state was saved.
    """
    data, pipeline = prepare(config, frames)
    spec = config.model.spec(len(frames.variables), pipeline.time_step)
    options = config.training
    optimisation = Optimisation(
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        absolute_error=options.absolute_error,
        precision=options.precision,
    )
    trainer = build_trainer(framework, spec, initialise(spec, config.seed), optimisation)
    folder.begin(config, resume)
    progress = Progress()
    found = folder.load_state()
    if found is not None:
        trainer.restore(found[0])
        progress = found[1]
    if progress.finished:
        return progress
    extra = {
        "pipeline": pipeline.to_dict(),
        "provenance": {"version": __version__, "config": config.model_dump(mode="json")},
    }

    def keep_best() -> None:
        save_model(folder.model, spec, trainer.weights(), extra)

    with _signals() as asked:
        _loop(_Loop(config, data, pipeline, trainer, folder, progress, keep_best, tell, asked))
    return progress


@dataclass(frozen=True)
class TrainingData:
    """Batches to learn from and to validate on."""

    train: Batches
    validation: OrderedBatches


def prepare(config: Config, frames: Frames) -> tuple[TrainingData, Pipeline]:
    """Split the days, fit the transform on the training days alone, and cut windows.

    Args:
        config: The run.
        frames: The sequence.

    Returns:
        The batches, and the pipeline to be kept with the model.

    Raises:
        DataError: if a split has no window.
    """
    data, training = config.data, config.training
    splits = split_days(frames.time, validation=data.validation, test=data.test)
    transform = choose_transform(data.transform, frames, splits["train"])
    length = data.input_length + data.horizon
    starts = find_windows(frames.seconds, length, time_step=frames.time_step, max_gap=data.max_gap)
    parts = {name: windows_within(starts, length, splits[name]) for name in ("train", "validation")}
    for name, part in parts.items():
        if not len(part):
            raise DataError(
                f"{name} days",
                expected=f"at least one run of {length} frames without a gap",
                received="none",
                mend="give more days, allow gaps by data.max_gap, or shorten input_length or horizon.",
            )
    crop = (
        None
        if data.crop is None
        else min(data.crop, *frames.shape[2:]) // config.model.patch_size * config.model.patch_size
    )
    train = Batches(
        frames,
        parts["train"],
        transform,
        input_length=data.input_length,
        horizon=data.horizon,
        batch_size=training.batch_size,
        crop=crop or None,
        augment=frames.units == RAIN_RATE if training.augment == "auto" else training.augment,
        seed=config.seed,
    )
    count = min(len(parts["validation"]), training.validation_windows)
    spread = parts["validation"][np.linspace(0, len(parts["validation"]) - 1, count).astype(int)]
    validation = Batches.in_order(
        frames,
        spread,
        transform,
        input_length=data.input_length,
        horizon=data.horizon,
        batch_size=_VALIDATION_BATCH,
    )
    days = frames.time.dt.strftime("%Y-%m-%d").values.astype(str)
    pipeline = Pipeline(
        variables=frames.variables,
        units=frames.units,
        transform=transform,
        time_step=float(frames.time_step),
        input_length=data.input_length,
        horizon=data.horizon,
        thresholds=choose_thresholds(frames, splits["train"]),
        days={name: sorted(set(days[mask].tolist())) for name, mask in splits.items()},
    )
    return TrainingData(train, validation), pipeline


def learning_rate(config: Config, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine down to 1 % of the peak."""
    options = config.training
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class _Loop:
    config: Config
    data: TrainingData
    pipeline: Pipeline
    trainer: Trainer
    folder: RunFolder
    progress: Progress
    keep_best: Callable[[], None]
    tell: Callable[[Report], None]
    asked: list[int]


def _loop(loop: _Loop) -> None:
    """Take the remaining steps; validate and save every so many, and when asked to stop."""
    options, progress = loop.config.training, loop.progress
    losses: list[float] = []
    while progress.step < options.steps and progress.worse < options.patience:
        if loop.asked:
            loop.folder.save_state(loop.trainer.state(), progress)
            raise InterruptedTrainingError(loop.asked[0])
        rate = learning_rate(loop.config, progress.step)
        sample = _sample(loop, loop.data.train.batch(progress.step))
        loss = loop.trainer.step(sample, rate, _key(loop.config.seed, progress.step))
        progress.step += 1
        losses.append(_finite(loss, progress.step))
        validation = None
        if progress.step % options.validate_every == 0 or progress.step == options.steps:
            validation = _finite(_validate(loop), progress.step)
            _judge(loop, validation)
            entry = {"step": progress.step, "loss": float(np.mean(losses)), "validation_loss": validation}
            loop.folder.log(entry | {"learning_rate": rate})
            losses = []
            loop.folder.save_state(loop.trainer.state(), progress)
        loop.tell(Report(progress.step, options.steps, loss, validation, rate))
    progress.finished = True
    loop.folder.save_state(loop.trainer.state(), progress)


def _judge(loop: _Loop, loss: float) -> None:
    progress = loop.progress
    if progress.best_loss is None or loss < progress.best_loss:
        progress.best_loss, progress.best_step, progress.worse = loss, progress.step, 0
        loop.keep_best()
    else:
        progress.worse += 1


def _validate(loop: _Loop) -> float:
    """Return the loss over the validation windows, each value weighing the same."""
    total = weight = 0.0
    for number in range(len(loop.data.validation)):
        sample = _sample(loop, loop.data.validation.batch(number))
        share = float(sample.weight.sum(dtype=np.float64))
        if share:
            total, weight = total + share * loop.trainer.loss(sample), weight + share
    if not weight:
        raise DataError(
            "validation days", expected="known values", received="missing ones alone", mend="choose other days."
        )
    return total / weight


def _sample(loop: _Loop, batch: Batch) -> Sample:
    return to_sample(batch, loop.pipeline, loop.config)


def to_sample(batch: Batch, pipeline: Pipeline, config: Config) -> Sample:
    """Return what a model learns from a batch: weights with emphasis on rain, durations where it uses them."""
    weight = batch.weight
    if pipeline.rain and config.training.emphasis:
        weight = weight * emphasis(batch.targets, pipeline.transform, config.training.emphasis)
    aware = config.model.duration_strategy != "none"
    sample = Sample(
        batch.inputs,
        batch.targets,
        weight,
        durations=batch.durations if aware else None,
        lead_durations=batch.lead_durations if aware or _feeds_gaps(config) else None,
        gaps=batch.durations if config.model.memory_decay else None,
    )
    return pad_to_patches(sample, config.model.patch_size)


def _feeds_gaps(config: Config) -> bool:
    return config.model.memory_decay and config.model.rollout == "feedback"


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise TrainingError(
        "loss",
        expected="a finite number",
        received=f"{loss} at step {step}",
        mend="lower training.learning_rate; the last good model and state are kept.",
    )


def _key(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that training stops between two steps; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> Any:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, where no signal arrives
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
