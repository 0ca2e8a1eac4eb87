"""Sampling the dropout masks of a call in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

from convlstm.frontend import dropout
from convlstm.frontend.dropout import MaskSpec
from convlstm.mlx import inputs
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

_PART: ContextVar[tuple[int, int] | None] = ContextVar("_PART", default=None)


@contextmanager
def batch_part(first: int, batch_size: int) -> Iterator[None]:
    """Give the rows of a part of a batch, from the row `first`, the masks that they have in the whole batch."""
    token = _PART.set((first, batch_size))
    try:
        yield
    finally:
        _PART.reset(token)


def sample_masks(
    spec: ConvLSTMSpec, like: mx.array, input_size: tuple[int, ...], steps: int, key: mx.array | None
) -> DropoutMasks | None:
    """Sample every mask that a call in training needs; each has its own key, whatever else is sampled.

    Args:
        spec: The stack.
        like: An array (time, batch, ...) of the type of the masks.
        input_size: Spatial size of the stack's input.
        steps: Number of steps.
        key: Source of randomness, as `mx.random.key` makes it; None means MLX's global one.

    Returns:
        The masks, time first and channels last, or None where the stack has no random part.
    """
    if not spec.is_random:
        return None
    count = spec.depth * (4 * len(spec.directions) + 1)
    keys = iter([None] * count if key is None else list(mx.random.split(key, count)))

    def sample(mask: MaskSpec) -> mx.array | None:
        mask_key = next(keys)
        if not mask.rate:
            return None
        random = _uniform(mask, mask_key)
        if mask.is_factor:
            return (random >= mask.rate).astype(like.dtype) / (1.0 - mask.rate)
        return (random < mask.rate).astype(like.dtype)

    return dropout.sample_masks(spec, like.shape[1], input_size, steps, sample, channels_last=True)


def _uniform(mask: MaskSpec, key: mx.array | None) -> mx.array:
    """Return the random numbers of a mask; for a part of a batch, its rows of those of the whole batch."""
    part = _PART.get()
    if part is None:
        return mx.random.uniform(shape=mask.shape, key=key)
    first, batch_size = part
    axis = 1 if mask.is_per_step else 0
    shape = list(mask.shape)
    rows, shape[axis] = shape[axis], batch_size
    return mx.take(mx.random.uniform(shape=shape, key=key), mx.arange(first, first + rows), axis=axis)


def read_masks(spec: ConvLSTMSpec, masks: object, frames: mx.array) -> DropoutMasks:
    """Return masks of a caller time first, after checking that they fit frames (time, batch, *space, channel)."""

    def read(name: str, mask: object) -> mx.array:
        return inputs.as_type_of(name, mask, frames)

    size, steps = tuple(frames.shape[2:-1]), len(frames)
    return dropout.read_masks(spec, masks, frames.shape[1], size, steps, read, swap_time_and_batch, channels_last=True)


def swap_time_and_batch(mask: mx.array) -> mx.array:
    """Return a mask with its first two axes exchanged."""
    return mask.swapaxes(0, 1)
