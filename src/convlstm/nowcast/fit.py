"""Train with one loop for every framework; the result depends on configuration, data and seed only.

Batch n and its dropout depend on the seed and n only, so that a resumed run gives the same bits. Several processes run
the same loop: each reads its own rows of a batch and its own validation batches, and the first one writes the files.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from convlstm.data import Frames
from convlstm.data.summary import Summary, summarise
from convlstm.errors import DataError, TrainingError
from convlstm.frontend.processes import ONE_PROCESS, DeviceMesh, Processes, check_parts, check_same
from convlstm.frontend.trainer import Optimisation, Sample, Trainer
from convlstm.nowcast.baselines import optical_flow
from convlstm.nowcast.clock import utc_text
from convlstm.nowcast.config import Config, TrainingConfig
from convlstm.nowcast.events import ClassLines, EventCounts, EventRules, class_means
from convlstm.nowcast.frameworks import build_trainer
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.prepare import TrainingData, prepare, to_sample
from convlstm.nowcast.provenance import Provenance
from convlstm.nowcast.run_folder import Progress, ReadOnlyRunFolder, RunFolder, flat_options
from convlstm.nowcast.signals import collected_signals
from convlstm.nowcast.start_model import check_start, load_start
from convlstm.nowcast.training_logs import check_training_logs, training_logs
from convlstm.nowcast.weight_average import WeightAverage
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model


@dataclass(frozen=True)
class StepReport:
    """The progress of a run after one step."""

    step: int  # number of finished optimiser steps
    steps: int  # number of all steps
    loss: float  # of this step
    validation_loss: float | None  # at this step; None without a validation
    learning_rate: float  # of this step


class InterruptedTrainingError(TrainingError):
    """A signal stopped the training; the state is saved for `--resume`."""


def fit(
    config: Config,
    frames: Frames,
    folder: RunFolder,
    *,
    framework: str = "torch",
    device: str | None = None,
    processes: Processes = ONE_PROCESS,
    mesh: DeviceMesh | None = None,
    resume: bool = False,
    logs: Sequence[str] = (),
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_begin: Callable[[Summary, Pipeline], None] = lambda summary, pipeline: None,
) -> Progress:
    """Train a forecaster, save its best weights in the run folder, and return the progress at the end of the run.

    With `resume` the run in the folder continues, also to more steps than it had. `on_begin` receives what was read,
    before the first step. After SIGINT, SIGTERM or SIGHUP the state is saved, and an `InterruptedTrainingError` is
    raised. A loss that is NaN or infinite is a `TrainingError`. A launcher such as torchrun starts several `processes`,
    each of which makes this call. A `mesh` divides the work among the devices of all processes. `logs` are further
    places for the lines of the log: tensorboard, mlflow.
    """
    check_training_logs(logs)
    setup = _set_up(config, frames, framework, device, processes, mesh)
    trainer = setup.trainer
    if trainer.rank:
        folder = ReadOnlyRunFolder(folder.path)
    with folder.begun(config, resume):
        with trainer.connected():
            progress = _train(setup, config, frames, folder, () if trainer.rank else logs, on_begin, on_step)
        is_writer = trainer.rank == 0
        if is_writer and setup.spec.thresholds and "events" not in load_model(folder.model).extra:
            _save_event_rules(folder, frames, setup.data, framework, device)
    return progress


def _train(
    setup: _Setup,
    config: Config,
    frames: Frames,
    folder: RunFolder,
    logs: Sequence[str],
    on_begin: Callable[[Summary, Pipeline], None],
    on_step: Callable[[StepReport], None],
) -> Progress:
    """Restore the state in the folder, run the remaining steps, and return the progress."""
    pipeline, trainer = setup.pipeline, setup.trainer
    data_description = pipeline.to_dict() | {"shape": list(frames.shape)}
    state, progress = folder.load_state(data_description)
    check_same(trainer.gather, [config.model_dump(mode="json"), data_description, progress.step])
    folder.save_config(config)  # a resumed run may have more steps
    summary = summarise(frames)
    folder.save_summary(summary.to_dict() | {"transform": pipeline.transform.to_dict(), "days": pipeline.days})
    on_begin(summary, pipeline)
    average = WeightAverage(config.training.average)
    if state is not None:
        trainer.restore(average.restore(state))
    has_more_steps = progress.step < config.training.steps
    with training_logs(logs, folder, flat_options(config)) as on_log:
        if not progress.finished or (has_more_steps and not _has_no_improvement(config, progress)):
            progress.finished = False
            with collected_signals() as signals:
                run = _TrainingRun(config, setup, average, folder, progress, data_description, on_log, on_step, signals)
                run.train()
    return progress


@dataclass(frozen=True)
class _Setup:
    """The data, the options and the trainer at the start of a training."""

    data: TrainingData
    pipeline: Pipeline
    spec: ForecasterSpec
    trainer: Trainer
    started_from: str | None  # digest of the first weights, if they are those of a model

    def sample(self, config: Config, step: int) -> Sample:
        """Return this process's part of the sample of a training step."""
        rows = self.trainer.batch_rows(config.training.batch_size)
        return to_sample(self.data.train.batch(step, rows), self.pipeline, config)


def _set_up(
    config: Config,
    frames: Frames,
    framework: str,
    device: str | None = None,
    processes: Processes = ONE_PROCESS,
    mesh: DeviceMesh | None = None,
) -> _Setup:
    """Prepare the data, and a trainer whose first weights are random, or those of `training.start_from`."""
    check_parts(config.training.batch_size, config.training.accumulate, processes, mesh)
    name, start = config.training.start_from, None
    if name is None:
        data, pipeline = prepare(config, frames)
        spec = config.model.spec(pipeline.channels, pipeline.time_step)
        weights: Mapping[str, Array] = initialise(spec, config.seed)
    else:
        start = load_start(name)
        before = Pipeline.of_model(start, name)
        data, pipeline = prepare(config, frames, before.transform)
        pipeline = replace(pipeline, days=pipeline.days | {"earlier": before.seen_days})
        spec, weights = check_start(start, config, pipeline), start.weights
    options = replace(optimisation(config.training), device=device, processes=processes, mesh=mesh)
    trainer = build_trainer(framework, spec, weights, options)
    return _Setup(data, pipeline, spec, trainer, None if start is None else start.digest)


def seconds_per_step(config: Config, frames: Frames, framework: str, skipped: int, measured: int) -> float:
    """Return the median time of a step, from a trial of `measured` steps after some that are skipped."""
    setup = _set_up(config, frames, framework)
    trainer = setup.trainer
    samples = _SamplesAhead(lambda step: setup.sample(config, step), skipped + measured)
    times = []
    for step in range(skipped + measured):
        started = time.perf_counter()
        trainer.step(samples.of_step(step), config.training.learning_rate, 0)
        times.append(time.perf_counter() - started)
    samples.close()
    return float(np.median(times[skipped:]))


def optimisation(options: TrainingConfig) -> Optimisation:
    """Return the options of loss and optimiser from the section `training`."""
    return Optimisation(
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        absolute_error=options.absolute_error,
        precision=options.precision,
        accumulate=options.accumulate,
    )


def learning_rate(config: Config, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine down to 1 % of the peak."""
    options = config.training
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
    return options.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class _TrainingRun:
    """The remaining steps of a run, with everything they need."""

    config: Config
    setup: _Setup
    average: WeightAverage
    folder: RunFolder
    progress: Progress
    data_description: Mapping[str, Any]
    on_log: Callable[[Mapping[str, Any]], None]
    on_step: Callable[[StepReport], None]
    signals: list[int]  # numbers of the signals received so far

    @cached_property
    def samples(self) -> _SamplesAhead:
        """The samples of the steps, of which the next one is made in the background."""
        return _SamplesAhead(lambda step: self.setup.sample(self.config, step), self.config.training.steps)

    @cached_property
    def class_means(self) -> tuple[float, ...]:
        """The mean of the training values in each class of the thresholds."""
        setup = self.setup
        return class_means(setup.data.sample.first_variable(), setup.spec.thresholds, rain=setup.pipeline.rain)

    def train(self) -> None:
        """Run the remaining steps; save after every validation, after a signal, and at the end."""
        try:
            self._train()
        finally:
            self.samples.close()

    def _train(self) -> None:
        options, progress = self.config.training, self.progress
        while progress.step < options.steps and not _has_no_improvement(self.config, progress):
            if signal_number := self._agreed_signal():
                self._save_state()
                raise _interrupted(signal_number)
            rate = learning_rate(self.config, progress.step)
            loss = self._step(rate)
            validation_loss = None
            if progress.step % options.validate_every == 0 or progress.step == options.steps:
                weights = self.average.weights or self.setup.trainer.weights()
                with self.setup.trainer.using(weights):
                    validation_loss = _finite(self._validate(), progress.step)
                self._keep_if_best(validation_loss, weights)
                entry = self._log(validation_loss, rate)
                self._save_state()
                self.on_log(entry)  # after the state, which stays if a server cannot be reached
            if not self.signals:  # after SIGHUP there is no terminal to write to
                self.on_step(StepReport(progress.step, options.steps, loss, validation_loss, rate))
        progress.finished = True
        self._save_state()

    def _agreed_signal(self) -> int:
        """Return the number of a signal that any process has received, the same in all of them; 0 without one."""
        return int(self.setup.trainer.gather(self.signals[0] if self.signals else 0).max())

    def _step(self, rate: float) -> float:
        """Make one optimiser step and return its loss."""
        progress = self.progress
        sample = self.samples.of_step(progress.step)
        loss = self.setup.trainer.step(sample, rate, _dropout_seed(self.config.seed, progress.step))
        progress.step += 1
        self.average.add(self.setup.trainer.weights, progress.step)
        progress.losses.append(_finite(loss, progress.step))
        return loss

    def _validate(self) -> float:
        """Return the mean loss over all values of the validation windows, each of which one process evaluates."""
        trainer, batches = self.setup.trainer, self.setup.data.validation
        count = trainer.options.processes.count
        weights, losses = np.zeros((2, len(batches)))
        for first in range(0, len(batches), count):
            # all processes compute as many losses, because FSDP gathers the weights for each
            number = min(first + trainer.rank, len(batches) - 1)
            sample = to_sample(batches.batch(number), self.setup.pipeline, self.config)
            loss = trainer.loss(sample)
            if number == first + trainer.rank:
                weights[number], losses[number] = sample.weight.sum(dtype=np.float64), loss
        weights, losses = trainer.gather(np.stack([weights, losses])).sum(axis=0)
        weight = math.fsum(weights)
        if not weight:
            raise DataError(
                "validation days",
                expected="known values",
                received="missing values only",
                hint="Choose other days in `data.validation`.",
            )
        return math.fsum(weights * losses) / weight

    def _keep_if_best(self, validation_loss: float, weights: Mapping[str, Array]) -> None:
        """Save the weights if they are the best on the validation days so far."""
        progress = self.progress
        if progress.best_loss is not None and validation_loss >= progress.best_loss:
            progress.validations_without_improvement += 1
            return
        progress.best_loss = validation_loss
        progress.best_step = progress.step
        progress.validations_without_improvement = 0
        extra: dict[str, Any] = {
            "pipeline": self.setup.pipeline.to_dict(),
            "provenance": Provenance.of_run(self.config, self.setup.started_from).to_dict(),
        }
        if self.setup.spec.thresholds:
            # the means of the classes, for a forecast before the end of the training
            extra["class_means"] = self.class_means
        self.folder.save_model(self.setup.spec, weights, extra)

    def _log(self, validation_loss: float, rate: float) -> dict[str, Any]:
        """Write a line of the log with the mean training loss since the last validation, and return it."""
        progress = self.progress
        entry = {"step": progress.step, "loss": float(np.mean(progress.losses)), "validation_loss": validation_loss}
        line = entry | {"learning_rate": rate, "time": utc_text()}
        self.folder.log(line)
        progress.losses.clear()
        return line

    def _save_state(self) -> None:
        self.folder.save_state(self.setup.trainer.state() | self.average.state(), self.progress, self.data_description)


class _SamplesAhead:
    """The samples of the steps; while one is used, a thread makes the next, up to the last step."""

    def __init__(self, make: Callable[[int], Sample], steps: int) -> None:
        self._make, self._steps = make, steps
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._next: tuple[int, Future[Sample]] | None = None

    def of_step(self, step: int) -> Sample:
        """Return the sample of a step, and begin with that of the next one."""
        is_ready = self._next is not None and self._next[0] == step
        sample = self._next[1].result() if self._next is not None and is_ready else self._make(step)
        self._next = (step + 1, self._thread.submit(self._make, step + 1)) if step + 1 < self._steps else None
        return sample

    def close(self) -> None:
        """End the thread without waiting for it."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._next = None


def _save_event_rules(
    folder: RunFolder, frames: Frames, data: TrainingData, framework: str, device: str | None
) -> None:
    """Choose the cuts and the lines of the mean on the validation windows, and add them to the model file."""
    nowcaster = load_nowcaster(folder.model, framework, device=device)
    pipeline, thresholds = nowcaster.pipeline, nowcaster.spec.thresholds
    counts, lines = EventCounts(pipeline.horizon, thresholds), ClassLines(pipeline.horizon, thresholds)
    for start in data.validation_starts:
        window = slice(start, start + pipeline.input_length + pipeline.horizon)
        values, seconds = frames.read(window), frames.seconds[window]
        past, future = np.split(np.arange(len(seconds)), [pipeline.input_length])
        leads = seconds[future] - seconds[past[-1]]
        probability = nowcaster.predict_probability(values[None, past], seconds[None, past], leads)[0]
        counts.add(probability, values[future, 0])
        moved = np.nan_to_num(optical_flow(values[past, :1], seconds[past], leads)[:, 0])
        lines.add(moved, values[future, 0])
    means = class_means(data.sample.first_variable(), thresholds, rain=pipeline.rain)
    class_lines = lines.lines(means, rain=pipeline.rain)
    rules = EventRules(thresholds, counts.best_cuts(), means, class_lines)
    folder.save_model(nowcaster.spec, nowcaster.model.weights, nowcaster.model.extra | {"events": rules.to_dict()})


def _interrupted(number: int) -> InterruptedTrainingError:
    error = InterruptedTrainingError(
        "training",
        expected="no interruption",
        received=signal.Signals(number).name,
        hint="Continue with `convlstm train --resume`, or run `convlstm demo` again. The state is saved.",
    )
    error.exit_code = 128 + number
    return error


def _has_no_improvement(config: Config, progress: Progress) -> bool:
    """Return whether the training ends because the last validations gave no improvement."""
    return progress.validations_without_improvement >= config.training.patience


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise TrainingError(
        "loss",
        expected="a finite number",
        received=f"{loss} at step {step}",
        hint="Decrease `training.learning_rate` and train again. The best model so far is saved.",
    )


def _dropout_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
