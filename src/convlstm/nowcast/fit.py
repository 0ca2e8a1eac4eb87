"""Train with one loop for every framework; the result depends on configuration, data and seed only.

Batch n and its dropout depend on the seed and n only, so that a resumed run gives the same bits.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from convlstm import __version__
from convlstm.data import Frames
from convlstm.errors import DataError, TrainingError
from convlstm.frontend.trainer import Optimisation, Trainer
from convlstm.nowcast.config import Config, TrainingConfig
from convlstm.nowcast.frameworks import build_trainer
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.prepare import TrainingData, prepare, to_sample
from convlstm.nowcast.run_folder import Progress, RunFolder
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import save_model


@dataclass(frozen=True)
class Report:
    """The progress of a run at one step.

    Args:
        step: Number of finished optimiser steps.
        steps: Number of all steps.
        loss: Training loss of the last step.
        validation_loss: Validation loss at this step, or None without a validation.
        learning_rate: Learning rate of the last step.
    """

    step: int
    steps: int
    loss: float
    validation_loss: float | None
    learning_rate: float


class InterruptedTrainingError(TrainingError):
    """A signal stopped the training; the state is saved for `--resume`."""


def fit(
    config: Config,
    frames: Frames,
    folder: RunFolder,
    *,
    framework: str = "torch",
    resume: bool = False,
    tell: Callable[[Report], None] = lambda report: None,
) -> Progress:
    """Train a forecaster and save its best weights in the run folder.

    Args:
        config: The configuration of the run.
        frames: The training data.
        folder: Folder for model, state and log.
        framework: Name of the framework.
        resume: Whether to continue the run in the folder.
        tell: Called after every step.

    Returns:
        The progress at the end of the run.

    Raises:
        DataError: if the data has no windows for training or validation.
        ConfigError: if the folder has a run and `resume` is False, or a run with other options.
        OutputError: if the folder cannot be written, or another training uses it.
        TrainingError: if the loss is NaN or infinite; the last good model and state are saved.
        InterruptedTrainingError: on SIGINT or SIGTERM, after the state was saved.
    """
    data, pipeline = prepare(config, frames)
    spec = config.model.spec(len(pipeline.variables), pipeline.time_step)
    trainer = build_trainer(framework, spec, initialise(spec, config.seed), optimisation(config.training))
    with folder.begun(config, resume):
        origin = pipeline.to_dict() | {"shape": list(frames.shape)}
        state, progress = folder.load_state(origin)
        if state is not None:
            trainer.restore(state)
        if not progress.finished:
            with _signals() as asked:
                _loop(_Loop(config, spec, data, pipeline, trainer, folder, progress, origin, tell, asked))
    return progress


def optimisation(options: TrainingConfig) -> Optimisation:
    """Return the options of loss and optimiser from a configuration.

    Args:
        options: The section `training`.

    Returns:
        The options of a trainer.
    """
    return Optimisation(
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        absolute_error=options.absolute_error,
        precision=options.precision,
    )


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
    spec: ForecasterSpec
    data: TrainingData
    pipeline: Pipeline
    trainer: Trainer
    folder: RunFolder
    progress: Progress
    origin: Mapping[str, Any]
    tell: Callable[[Report], None]
    asked: list[int]

    def save(self) -> None:
        self.folder.save_state(self.trainer.state(), self.progress, self.origin)


def _loop(loop: _Loop) -> None:
    """Run the remaining steps; validate and save at intervals and after a signal."""
    options, progress = loop.config.training, loop.progress
    while progress.step < options.steps and progress.worse < options.patience:
        if loop.asked:
            loop.save()
            raise _interrupted(loop.asked[0])
        rate = learning_rate(loop.config, progress.step)
        sample = to_sample(loop.data.train.batch(progress.step), loop.pipeline, loop.config)
        loss = loop.trainer.step(sample, rate, _key(loop.config.seed, progress.step))
        progress.step += 1
        progress.losses.append(_finite(loss, progress.step))
        validation = None
        if progress.step % options.validate_every == 0 or progress.step == options.steps:
            validation = _finite(_validate(loop), progress.step)
            _judge(loop, validation)
            entry = {"step": progress.step, "loss": float(np.mean(progress.losses)), "validation_loss": validation}
            loop.folder.log(entry | {"learning_rate": rate})
            progress.losses.clear()
            loop.save()
        loop.tell(Report(progress.step, options.steps, loss, validation, rate))
    progress.finished = True
    loop.save()


def _judge(loop: _Loop, loss: float) -> None:
    """Save the weights if they are the best on the validation days so far."""
    progress = loop.progress
    if progress.best_loss is not None and loss >= progress.best_loss:
        progress.worse += 1
        return
    progress.best_loss, progress.best_step, progress.worse = loss, progress.step, 0
    provenance = {"version": __version__, "config": loop.config.model_dump(mode="json")}
    extra = {"pipeline": loop.pipeline.to_dict(), "provenance": provenance}
    save_model(loop.folder.model, loop.spec, loop.trainer.weights(), extra)


def _validate(loop: _Loop) -> float:
    """Return the mean loss over all values of the validation windows."""
    total = weight = 0.0
    for number in range(len(loop.data.validation)):
        sample = to_sample(loop.data.validation.batch(number), loop.pipeline, loop.config)
        share = float(sample.weight.sum(dtype=np.float64))
        if share:
            total, weight = total + share * loop.trainer.loss(sample), weight + share
    if not weight:
        raise DataError(
            "validation days",
            expected="known values",
            received="missing values only",
            hint="Choose other days in `data.validation`.",
        )
    return total / weight


def _interrupted(number: int) -> InterruptedTrainingError:
    error = InterruptedTrainingError(
        "training",
        expected="no interruption",
        received=signal.Signals(number).name,
        hint="Continue with `convlstm train --resume`, or run `convlstm demo` again. The state is saved.",
    )
    error.exit_code = 128 + number
    return error


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise TrainingError(
        "loss",
        expected="a finite number",
        received=f"{loss} at step {step}",
        hint="Decrease `training.learning_rate` and train again. The best model so far is saved.",
    )


def _key(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that training stops between two steps; a second one stops at once."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, which alone receives signals
        yield asked
        return
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
