"""Prepare the training data: days, transform, windows, batches, and samples in model units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.data import (
    RAIN_RATE,
    Batch,
    Batches,
    Frames,
    OrderedBatches,
    Transform,
    find_windows,
    split_days,
    windows_within,
)
from convlstm.data.spacing import grid_spacing
from convlstm.errors import DataError
from convlstm.frontend.trainer import Sample
from convlstm.nowcast.config import Config
from convlstm.nowcast.moving_batches import MovingBatches, MovingValidation, MovingWindows
from convlstm.nowcast.pipeline import (
    Pipeline,
    TrainingSample,
    check_events,
    choose_thresholds,
    choose_transform,
    emphasis,
    events,
    pad_to_patches,
)

_VALIDATION_BATCH = 4
_VALIDATION_VALUES = 2**23  # of the inputs and targets of a validation batch, if it has more than one window


@dataclass(frozen=True)
class TrainingData:
    """Batches for training and validation."""

    train: Batches | MovingBatches
    validation: OrderedBatches | MovingValidation
    validation_starts: NDArray[np.intp]  # first input frames of the validation windows
    sample: TrainingSample  # of the training days


def prepare(config: Config, frames: Frames, transform: Transform | None = None) -> tuple[TrainingData, Pipeline]:
    """Split the days, fit the transform on the training days unless one is given, and cut windows into batches."""
    data = config.data
    splits = split_days(frames.time, validation=data.validation, test=data.test)
    starts = _window_starts(config, frames, splits)
    transform = transform or choose_transform(data.transform, frames, splits["train"], data.log_top)
    thresholds = choose_thresholds(frames, splits["train"])
    if config.model.thresholds:
        check_events(config.model.thresholds, transform)
        # the scores of probabilities need thresholds of the model
        thresholds = tuple(t for t in thresholds if t in config.model.thresholds) or tuple(config.model.thresholds)
    days = frames.time.dt.strftime("%Y-%m-%d").values.astype(str)
    pipeline = Pipeline(
        variables=frames.variables,
        units=frames.units,
        transform=transform,
        time_step=float(frames.time_step),
        max_gap=data.max_gap,
        input_length=data.input_length,
        horizon=data.horizon,
        thresholds=thresholds,
        days={name: sorted(set(days[mask].tolist())) for name, mask in splits.items()},
        frame=data.frame,
        grid_spacing=grid_spacing(frames.grid, frames.y_dim, frames.x_dim),
    )
    train, validation, validation_starts = _batches(config, frames, transform, starts)
    sample = TrainingSample.of_days(frames, splits["train"])
    return TrainingData(train, validation, validation_starts, sample), pipeline


def _window_starts(
    config: Config, frames: Frames, splits: Mapping[str, NDArray[np.bool_]]
) -> dict[str, NDArray[np.intp]]:
    """Return the first frames of the windows of each split; raise an error for a split without a window."""
    data = config.data
    length = data.input_length + data.horizon
    all_starts = find_windows(frames.seconds, length, time_step=frames.time_step, max_gap=data.max_gap)
    starts = {name: windows_within(all_starts, length, mask) for name, mask in splits.items()}
    for name, split_starts in starts.items():
        if not len(split_starts) and (name != "test" or splits[name].any()):
            seconds = (length - 1) * frames.time_step
            span = f"{seconds / 3600:g} h" if seconds < 172800 else f"{seconds / 86400:g} days"
            if name == "train":
                advice = "Pass more data"
            else:
                days = min(int(seconds // 86400) + 1, length)  # a day needs only one frame
                advice = f"Set `data.{name}` to at least {days} days"
            raise DataError(
                f"{name} days",
                expected=f"at least one run of {length} frames ({span}) without a gap",
                received=f"none in {int(splits[name].sum())} frames",
                hint=f"{advice}, or decrease `data.input_length` or `data.horizon`.",
            )
    return starts


def _batches(
    config: Config, frames: Frames, transform: Transform, starts: Mapping[str, NDArray[np.intp]]
) -> tuple[Batches | MovingBatches, OrderedBatches | MovingValidation, NDArray[np.intp]]:
    """Return the batches for training and validation, and the starts of the validation windows."""
    data, training, patch = config.data, config.training, config.model.patch_size
    crop = None if data.crop is None else min(data.crop, *frames.shape[2:]) // patch * patch
    augment = frames.units == RAIN_RATE if training.augment == "auto" else training.augment
    validation_starts = starts["validation"]
    count = min(len(validation_starts), training.validation_windows)
    spread = validation_starts[np.linspace(0, len(validation_starts) - 1, count).astype(int)]
    window_values = (data.input_length + data.horizon) * math.prod(frames.shape[1:])
    validation_batch = int(np.clip(_VALIDATION_VALUES // window_values, 1, _VALIDATION_BATCH))
    if data.frame == "moving":
        windows = MovingWindows(frames, transform, data.input_length, data.horizon)
        moving = MovingBatches(
            windows,
            starts["train"],
            batch_size=training.batch_size,
            crop=crop or None,
            augment=augment,
            intensity=training.intensity,
            seed=config.seed,
        )
        return moving, MovingValidation(windows, spread, validation_batch), spread
    train = Batches(
        frames,
        starts["train"],
        transform,
        input_length=data.input_length,
        horizon=data.horizon,
        batch_size=training.batch_size,
        crop=crop or None,
        augment=augment,
        seed=config.seed,
    )
    validation = Batches.in_order(
        frames,
        spread,
        transform,
        input_length=data.input_length,
        horizon=data.horizon,
        batch_size=validation_batch,
    )
    return train, validation, spread


def to_sample(batch: Batch, pipeline: Pipeline, config: Config) -> Sample:
    """Return the sample of a batch: inputs, targets or events with their weights, and durations if used."""
    targets, weight, training = batch.targets, batch.weight, config.training
    if config.model.thresholds:
        targets, weight = events(
            targets,
            weight,
            pipeline.transform,
            config.model.thresholds,
            threshold_weights=training.threshold_weights,
            first_lead_weight=training.first_lead_weight,
        )
    elif pipeline.rain and training.emphasis:
        weight = weight * emphasis(targets, pipeline.transform, training.emphasis)
    uses_durations = config.model.duration_strategy != "none"
    sample = Sample(
        batch.inputs,
        targets,
        weight,
        durations=batch.durations if uses_durations else None,
        lead_durations=batch.lead_durations if uses_durations else None,
        gaps=batch.durations if config.model.memory_decay else None,
    )
    return pad_to_patches(sample, config.model.patch_size)
