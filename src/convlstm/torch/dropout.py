"""Sampling the dropout masks of a call in training."""

from __future__ import annotations

import torch
from torch import Tensor

from convlstm.frontend import dropout
from convlstm.frontend.dropout import DropoutMasks, MaskSpec
from convlstm.spec.masks import LayerMasks
from convlstm.spec.stack import ConvLSTMSpec


def sample_masks(
    spec: ConvLSTMSpec, like: Tensor, input_size: tuple[int, ...], steps: int, generator: torch.Generator | None
) -> DropoutMasks | None:
    """Sample every mask that a call in training needs, in a fixed order.

    Args:
        spec: The stack.
        like: A tensor (time, batch, ...) of the type and device of the masks.
        input_size: Spatial size of the stack's input.
        steps: Number of steps.
        generator: Source of randomness; None means PyTorch's global one.

    Returns:
        The masks, channels first, or None where the stack has no random part.
    """

    def sample(mask: MaskSpec) -> Tensor | None:
        if not mask.rate:
            return None
        random = torch.rand(mask.shape, generator=generator, device=like.device)
        if mask.is_factor:
            return (random >= mask.rate).to(like.dtype) / (1.0 - mask.rate)
        return (random < mask.rate).to(like.dtype)

    return dropout.sample_masks(spec, like.shape[1], input_size, steps, sample, LayerMasks)


def check_masks(spec: ConvLSTMSpec, given: object, frames: Tensor) -> None:
    """Refuse masks that were not sampled for frames like these (time, batch, channel, *space)."""
    meta = frames.new_empty(frames.shape, device="meta")
    expected = sample_masks(spec, meta, tuple(frames.shape[3:]), len(frames), None)
    dropout.check_masks(given, expected, "layer.draw(x)")


def cut_steps(masks: DropoutMasks, span: slice) -> DropoutMasks:
    """Return the masks of a span of steps; those of a whole call stay."""

    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[span]

    inside = {
        key: layer._replace(zoneout_h=cut(layer.zoneout_h), zoneout_c=cut(layer.zoneout_c))
        for key, layer in masks.masks.items()
    }
    return DropoutMasks(inside, tuple(cut(factor) for factor in masks.dropout))
