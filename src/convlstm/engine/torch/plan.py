"""The order of the quick path's steps, and its large arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from convlstm.engine.torch.block import BLOCK_VALUES
from convlstm.engine.torch.buffers import empty
from convlstm.engine.torch.convolution import unambiguous
from convlstm.engine.torch.native import put_channels_last
from convlstm.spec.geometry import Widths, pad_widths
from convlstm.spec.layer import LayerSpec

State = tuple[Tensor, Tensor]

_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


def in_one_batch(x: Tensor) -> Tensor:
    """Return x (time, batch, ...), whose steps stand one after another, as one batch.

    A view may give an axis of length one any stride, and oneDNN then takes the array for channels first.
    """
    return x.as_strided((len(x) * x.shape[1], *x.shape[2:]), x.stride()[1:])


@dataclass(frozen=True)
class Plan:
    """One layer over one sequence, as forward and backward both need it.

    Args:
        layer: The layer.
        steps: Number of steps.
        shape: Of a state.
        reverse: Whether it runs from the last step to the first.
        plain: The plain path.
    """

    layer: LayerSpec
    steps: int
    shape: tuple[int, ...]
    reverse: bool
    plain: Callable[..., tuple[Tensor, State]]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return self.layer.stack.spatial_dims

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels last, where there is such a format."""
        return _MEMORY_FORMATS[self.rank]

    @property
    def gate_shape(self) -> tuple[int, ...]:
        """Shape of z of one step."""
        return (self.shape[0], 4 * self.shape[1], *self.shape[2:])

    @property
    def group(self) -> int:
        """Number of steps whose input is convolved together: enough for the convolution, and near when it is used."""
        return min(self.steps, max(1, BLOCK_VALUES // prod(self.gate_shape)))

    @property
    def spans(self) -> list[slice]:
        """These steps, in the order of travel."""
        spans = [slice(n, min(n + self.group, self.steps)) for n in range(0, self.steps, self.group)]
        return spans[::-1] if self.reverse else spans

    def route_through(self, span: slice) -> list[tuple[int, int, int]]:
        """In the order of travel, each step and where the states before and after it stand among all T + 1."""
        steps = [(t, t, t + 1) for t in range(span.start, span.stop)]
        return [(t, after, before) for t, before, after in reversed(steps)] if self.reverse else steps

    @property
    def route(self) -> list[tuple[int, int, int]]:
        """The whole way."""
        return self.route_through(slice(0, self.steps))

    @property
    def after(self) -> slice:
        """Where the states after a step stand among all."""
        return slice(0, -1) if self.reverse else slice(1, None)

    @property
    def before(self) -> slice:
        """Where the states before a step stand among all."""
        return slice(1, None) if self.reverse else slice(0, -1)

    def input_widths(self, size: Sequence[int]) -> Widths:
        """Return the points of padding around an input of this size."""
        layer = self.layer
        return pad_widths(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)

    def is_in_order(self, x: Tensor) -> bool:
        """Return whether frames (time, batch, channels, *space) stand as one batch, channels last."""
        return x.stride(0) == x.shape[1] * x.stride(1) and x[0].is_contiguous(memory_format=self.memory_format)

    def in_order(self, x: Tensor) -> Tensor:
        """Return frames (time, batch, channels, *space) as one batch, channels last."""
        return in_one_batch(x if self.is_in_order(x) else self.put_in_order(x, x.dtype))

    def put_in_order(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a copy of frames (time, batch, channels, *space) that `is_in_order`, in a type."""
        frames = self.empty(len(x), x.shape[1:], x, dtype)
        if self.rank > 1:
            for frame, of_x in zip(frames, x, strict=True):
                put_channels_last(frame, of_x)
            return frames
        return frames.copy_(x)

    def kernel(self, weight: Tensor) -> Tensor:
        """Return a kernel in the order that convolutions take; for a single step of fewer gates not worth a copy."""
        worth_it = self.steps > 1 or weight.numel() < prod(self.gate_shape)
        return unambiguous(weight.contiguous(memory_format=self.memory_format) if worth_it else weight)

    def empty(self, steps: int, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return an array for some steps (steps, *shape) of undefined content."""
        batch, *rest = shape
        flat = empty((steps * batch, *rest), like, self.memory_format, dtype or like.dtype)
        one = prod(rest)
        return flat.as_strided((steps, batch, *rest), (batch * one, one, *flat.stride()[1:]))
