"""Sampling the dropout masks of a call in training."""

from __future__ import annotations

import mlx.core as mx

from convlstm.frontend import dropout
from convlstm.frontend.dropout import MaskSpec
from convlstm.mlx import inputs
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec


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
        random = mx.random.uniform(shape=mask.shape, key=mask_key)
        if mask.is_factor:
            return (random >= mask.rate).astype(like.dtype) / (1.0 - mask.rate)
        return (random < mask.rate).astype(like.dtype)

    return dropout.sample_masks(spec, like.shape[1], input_size, steps, sample, channels_last=True)


def read_masks(spec: ConvLSTMSpec, masks: object, frames: mx.array) -> DropoutMasks:
    """Return masks of a caller time first, after checking that they fit frames (time, batch, *space, channel)."""

    def read(name: str, mask: object) -> mx.array:
        return inputs.as_type_of(name, mask, frames)

    size, steps = tuple(frames.shape[2:-1]), len(frames)
    return dropout.read_masks(spec, masks, frames.shape[1], size, steps, read, swap_time_and_batch, channels_last=True)


def swap_time_and_batch(mask: mx.array) -> mx.array:
    """Return a mask with its first two axes exchanged."""
    return mask.swapaxes(0, 1)
