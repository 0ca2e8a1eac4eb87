"""Sampling the dropout masks of a call in training, on the active backend's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from convlstm.frontend import dropout
from convlstm.frontend.dropout import MaskSpec
from convlstm.keras.engines import Tensor
from convlstm.keras.inputs import tensor
from convlstm.keras.stack import Size, grids
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec


def sample_masks(
    spec: ConvLSTMSpec, dtype: str, batch: Any, input_size: Size, steps: Any, generator: keras.random.SeedGenerator
) -> DropoutMasks | None:
    """Sample every mask of a call, time first and channels last, in a fixed order; None without a random part."""

    def sample(mask: MaskSpec) -> Tensor | None:
        if not mask.rate:
            return None
        random = keras.random.uniform(mask.shape, dtype="float32", seed=generator)
        if mask.is_factor:
            return keras.ops.cast(random >= mask.rate, dtype) / (1.0 - mask.rate)
        return keras.ops.cast(random < mask.rate, dtype)

    sizes = grids(spec, input_size) if spec.is_random else None
    return dropout.sample_masks(spec, batch, input_size, steps, sample, channels_last=True, grids=sizes)


def read_masks(
    spec: ConvLSTMSpec,
    masks: object,
    shape: tuple[int | None, ...],
    dtype: str,
    to_last: Callable[[Tensor], Tensor] | None = None,
) -> DropoutMasks:
    """Return masks of a caller time first, after checking that they fit frames of a shape (batch, time, *space, _).

    `to_last` moves the channels of a mask to its last axis; None means that they are there.
    """

    def read(name: str, mask: object) -> Tensor:
        array = tensor(name, mask, dtype)
        return array if to_last is None else to_last(array)

    batch, steps, *size = shape[:-1]
    sizes = grids(spec, tuple(size))
    return dropout.read_masks(
        spec, masks, batch, tuple(size), steps, read, swap_time_and_batch, channels_last=True, grids=sizes
    )


def masks_of_sequence(
    spec: ConvLSTMSpec, dtype: str, shape: tuple[int, ...], steps: int | None, seed: Any
) -> DropoutMasks:
    """Return new masks batch first, for frames of a shape (batch, time, *space, _) or for `steps` that are checked.

    `seed` is a number or a generator.
    """
    batch, of_frames, *size = shape[:-1]
    generator = keras.random.SeedGenerator(seed) if isinstance(seed, int) else seed
    sampled = sample_masks(spec, dtype, batch, tuple(size), of_frames if steps is None else steps, generator)
    return dropout.batch_first(spec, sampled, swap_time_and_batch)


def swap_time_and_batch(mask: Tensor) -> Tensor:
    """Return a mask with its first two axes exchanged."""
    return keras.ops.swapaxes(mask, 0, 1)
