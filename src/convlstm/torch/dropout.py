"""Sampling the dropout masks of a call in training."""

from __future__ import annotations

import torch
from torch import Tensor

from convlstm.errors import SpecError
from convlstm.frontend import dropout
from convlstm.frontend.dropout import MaskSpec
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec
from convlstm.torch import inputs


class BatchPart:
    """A source of random numbers for a part of a batch: its rows get the masks that they have in the whole batch.

    This is no dataclass, because Lightning Fabric looks for arrays in the dataclasses of a call and copies them.

    Args:
        generator: Source of random numbers.
        first: First row of the part.
        batch_size: Rows of the whole batch.
    """

    def __init__(self, generator: torch.Generator, first: int, batch_size: int) -> None:
        self.generator, self.first, self.batch_size = generator, first, batch_size


Source = torch.Generator | BatchPart | None


def sample_masks(
    spec: ConvLSTMSpec, like: Tensor, input_size: tuple[int, ...], steps: int, generator: Source
) -> DropoutMasks | None:
    """Sample every mask of a call, channels first, of the type and device of `like` (time, batch, ...)."""

    def sample(mask: MaskSpec) -> Tensor | None:
        if not mask.rate:
            return None
        if isinstance(generator, BatchPart):
            random = _part_of_random(mask, generator, like.device)
        else:
            random = torch.rand(mask.shape, generator=generator, device=like.device)
        if mask.is_factor:
            return (random >= mask.rate).to(like.dtype) / (1.0 - mask.rate)
        return (random < mask.rate).to(like.dtype)

    return dropout.sample_masks(spec, like.shape[1], input_size, steps, sample)


def _part_of_random(mask: MaskSpec, part: BatchPart, device: torch.device) -> Tensor:
    """Return the random numbers of a part of a batch, from those of the whole batch."""
    axis = 1 if mask.is_per_step else 0
    shape = list(mask.shape)
    rows, shape[axis] = shape[axis], part.batch_size
    return torch.rand(shape, generator=part.generator, device=device).narrow(axis, part.first, rows)


def check_generator(generator: object, like: Tensor) -> None:
    """Raise an error unless the source of random numbers is None or a generator for the device of `like`."""
    if generator is None or isinstance(generator, BatchPart):
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


def read_masks(spec: ConvLSTMSpec, masks: object, frames: Tensor) -> DropoutMasks:
    """Return masks of a caller time first, after checking that they fit frames (time, batch, channel, *space)."""

    def read(name: str, mask: object) -> Tensor:
        return inputs.as_type_of(name, mask, frames)

    size = tuple(frames.shape[3:])
    return dropout.read_masks(spec, masks, frames.shape[1], size, frames.shape[0], read, swap_time_and_batch)


def swap_time_and_batch(mask: Tensor) -> Tensor:
    """Return a mask with its first two axes exchanged."""
    return mask.transpose(0, 1)
