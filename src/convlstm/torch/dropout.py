"""Sampling the dropout masks of a call in training."""

from __future__ import annotations

import torch
from torch import Tensor

from convlstm.errors import SpecError
from convlstm.frontend import dropout
from convlstm.frontend.dropout import DropoutMasks, MaskSpec
from convlstm.spec.options import ConvLSTMSpec


def sample_masks(
    spec: ConvLSTMSpec, like: Tensor, input_size: tuple[int, ...], steps: int, generator: torch.Generator | None
) -> DropoutMasks | None:
    """Sample every mask of a call, channels first, of the type and device of `like` (time, batch, ...)."""

    def sample(mask: MaskSpec) -> Tensor | None:
        if not mask.rate:
            return None
        random = torch.rand(mask.shape, generator=generator, device=like.device)
        if mask.is_factor:
            return (random >= mask.rate).to(like.dtype) / (1.0 - mask.rate)
        return (random < mask.rate).to(like.dtype)

    return dropout.sample_masks(spec, like.shape[1], input_size, steps, sample)


def check_generator(generator: object, like: Tensor) -> None:
    """Raise an error unless the source of random numbers is None or a generator for the device of `like`."""
    if generator is None:
        return
    received = repr(generator)
    if isinstance(generator, torch.Generator):
        if generator.device.type == like.device.type or like.is_meta:
            return
        received = f"one on {generator.device}"
    raise SpecError(
        "generator",
        expected=f"None or a torch.Generator on {like.device.type}",
        received=received,
        hint=f"Create it with `torch.Generator({like.device.type!r}).manual_seed(0)`.",
    )


def check_masks(spec: ConvLSTMSpec, given: object, frames: Tensor) -> None:
    """Raise an error for masks that do not fit frames (time, batch, channel, *space)."""
    meta = frames.new_empty(frames.shape, device="meta")
    expected = sample_masks(spec, meta, tuple(frames.shape[3:]), len(frames), None)
    dropout.check_masks(given, expected, "layer.sample_dropout_masks(x)")


def cut_steps(masks: DropoutMasks, span: slice) -> DropoutMasks:
    """Return the masks of a span of steps; masks for all steps stay."""

    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[span]

    inside = {
        key: layer._replace(zoneout_h=cut(layer.zoneout_h), zoneout_c=cut(layer.zoneout_c))
        for key, layer in masks.masks.items()
    }
    return DropoutMasks(inside, tuple(cut(factor) for factor in masks.dropout))
