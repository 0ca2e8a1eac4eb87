"""The order of the steps in the fused implementation, and its large arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from convlstm.engine.torch.block import BLOCK_VALUES
from convlstm.engine.torch.buffers import empty
from convlstm.engine.torch.convolution import contiguous_strides
from convlstm.engine.torch.native import put_channels_last
from convlstm.spec.geometry import Widths, pad_widths
from convlstm.spec.layer import LayerSpec

_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


def flatten_time(x: Tensor) -> Tensor:
    """Return x (time, batch, ...), whose steps are consecutive in memory, as one batch.

    A reshape may give an axis of length one any stride, and oneDNN then takes the array for channels first.
    """
    return x.as_strided((len(x) * x.shape[1], *x.shape[2:]), x.stride()[1:])


@dataclass(frozen=True)
class Plan:
    """One layer over one sequence, with states of this shape."""

    layer: LayerSpec
    steps: int
    shape: tuple[int, ...]
    reverse: bool

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return self.layer.stack.spatial_dims

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last, where PyTorch has that format."""
        return _MEMORY_FORMATS[self.rank]

    @property
    def gate_shape(self) -> tuple[int, ...]:
        """Shape of z of one step."""
        return (self.shape[0], 4 * self.shape[1], *self.shape[2:])

    @property
    def steps_per_chunk(self) -> int:
        """Number of steps whose input is convolved together, so few that the result stays in the cache."""
        return min(self.steps, max(1, BLOCK_VALUES // prod(self.gate_shape)))

    @property
    def chunks(self) -> list[slice]:
        """The steps that are convolved together, in the order of the recurrence."""
        return self.chunks_of(self.steps_per_chunk)

    def chunks_of(self, length: int) -> list[slice]:
        """Return the steps in chunks of this length, in the order of the recurrence."""
        chunks = [slice(n, min(n + length, self.steps)) for n in range(0, self.steps, length)]
        return chunks[::-1] if self.reverse else chunks

    def time_order_of(self, chunk: slice) -> list[tuple[int, int, int]]:
        """Return each step and the indices of the states before and after it among all T + 1, in time order."""
        if self.reverse:
            return [(t, t + 1, t) for t in reversed(range(chunk.start, chunk.stop))]
        return [(t, t, t + 1) for t in range(chunk.start, chunk.stop)]

    @property
    def time_order(self) -> list[tuple[int, int, int]]:
        """All steps (see `time_order_of`)."""
        return self.time_order_of(slice(0, self.steps))

    @property
    def after(self) -> slice:
        """Indices of the states after each step among all T + 1."""
        return slice(0, -1) if self.reverse else slice(1, None)

    @property
    def before(self) -> slice:
        """Indices of the states before each step among all T + 1."""
        return slice(1, None) if self.reverse else slice(0, -1)

    def input_widths(self, size: Sequence[int]) -> Widths:
        """Return the points of padding around an input of this size."""
        layer = self.layer
        return pad_widths(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)

    def is_channels_last(self, x: Tensor) -> bool:
        """Return whether frames (time, batch, channels, *space) are consecutive in memory and channels last."""
        return x.stride(0) == x.shape[1] * x.stride(1) and x[0].is_contiguous(memory_format=self.memory_format)

    def channels_last_batch(self, x: Tensor) -> Tensor:
        """Return frames (time, batch, channels, *space) as one batch, channels last."""
        return flatten_time(x if self.is_channels_last(x) else self.to_channels_last(x, x.dtype))

    def to_channels_last(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy of frames (time, batch, channels, *space) in a type, for which `is_channels_last` holds."""
        frames = self.empty(len(x), x.shape[1:], x, dtype)
        if self.rank == 1 or x.device.type != "cpu":
            return frames.copy_(x)
        for target, source in zip(frames, x, strict=True):
            put_channels_last(target, source)
        return frames

    def with_time(self, flat: Tensor, steps: int) -> Tensor:
        """Return frames in one batch as (time, batch, channels, *space), for which `is_channels_last` holds."""
        flat = flat.contiguous(memory_format=self.memory_format)
        layout = self.empty(steps, (len(flat) // steps, *flat.shape[1:]), flat.new_empty(0, device="meta"))
        return flat.as_strided(layout.shape, layout.stride())

    def kernel(self, weight: Tensor) -> Tensor:
        """Return a kernel channels last; a single step with fewer gates than weights does not repay the copy."""
        if self.steps > 1 or weight.numel() < prod(self.gate_shape):
            weight = weight.contiguous(memory_format=self.memory_format)
        return contiguous_strides(weight)

    def empty(self, steps: int, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return an array (steps, *shape) of undefined content."""
        batch, *rest = shape
        flat = empty((steps * batch, *rest), like, self.memory_format, dtype or like.dtype)
        values = prod(rest)
        return flat.as_strided((steps, batch, *rest), (batch * values, values, *flat.stride()[1:]))
