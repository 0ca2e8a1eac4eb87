"""The gate arithmetic of the quick path, in place, forwards and backwards.

Where g stands, the arrays hold s = σ(2·z_g), so that all four gates go through one sigmoid over one whole array, and
g = tanh(z_g) = 2s − 1. On a CPU that is several times quicker than a tanh, or than either over a slice of channels;
and samples are taken a few at a time, so that what is written is still near when it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from convlstm.engine.torch.block import BLOCK_VALUES
from convlstm.engine.torch.native import is_native, operators

Peepholes = Sequence[Tensor] | None


@dataclass(frozen=True)
class Scratch:
    """Arrays that hold something for a moment, for as many samples as are taken at a time.

    Args:
        gates: Two of (samples, 4·hidden_channels, *grid), in the cell's type.
        cells: Two of (samples, hidden_channels, *grid).
    """

    gates: tuple[Tensor, Tensor]
    cells: tuple[Tensor, Tensor]

    @classmethod
    def for_steps(cls, z: Tensor, cell: Tensor) -> Scratch:
        """Return what steps with such gates and such a cell need."""
        whole = z.device.type != "cpu" or z.numel() <= BLOCK_VALUES
        samples = len(z) if whole else min(len(z), max(1, BLOCK_VALUES // 4 // z[0].numel()))
        gates, cells = (torch.empty_like(like[:samples], dtype=cell.dtype) for like in (z, cell))
        return cls((gates, torch.empty_like(gates)), (cells, torch.empty_like(cells)))

    def parts(self, arrays: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """Return the arrays by few samples at a time."""
        return zip(*(array.split(len(self.cells[0])) for array in arrays), strict=True)

    def of(self, samples: int) -> Scratch:
        """Return the first part of each array."""
        if samples == len(self.cells[0]):
            return self
        (gates, other), (cells, more) = self.gates, self.cells
        return Scratch((gates[:samples], other[:samples]), (cells[:samples], more[:samples]))


class Gates(Protocol):
    """The gate arithmetic of the steps of one sequence."""

    def advance(self, z: Tensor, before: Tensor, after: Tensor, h: Tensor) -> None:
        """Turn z into activated gates in place, and write the new cell state and h."""

    def retreat(self, z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor) -> None:
        """Turn activated gates into the gradient of z in place, and dc into the gradient of the cell before."""


def gate_arithmetic(z: Tensor, cell: Tensor, peephole: Tensor | None) -> Gates:
    """Return what computes the gates of steps with such z and such a cell; peephole is (3, hidden_channels)."""
    if is_native(z) and cell.dtype == torch.float32:
        return NativeGates(None if peephole is None else _beside_cells(peephole.float(), cell))
    rank = z.ndim - 2
    return PlainGates(
        Scratch.for_steps(z, cell), None if peephole is None else peephole.reshape(3, -1, *(1,) * rank).unbind()
    )


@dataclass(frozen=True)
class NativeGates:
    """All in one pass, by the operators of `convlstm-native`; what they leave in z is what `PlainGates` leaves."""

    peephole: Tensor | None

    def advance(self, z: Tensor, before: Tensor, after: Tensor, h: Tensor) -> None:
        """See `Gates`."""
        operators().advance(z, before, after, h, self.peephole)

    def retreat(self, z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor) -> None:
        """See `Gates`."""
        operators().retreat(z, before, after, dh, dc, self.peephole)


@dataclass(frozen=True)
class PlainGates:
    """By PyTorch's own operations."""

    scratch: Scratch
    peepholes: Peepholes

    def advance(self, z: Tensor, before: Tensor, after: Tensor, h: Tensor) -> None:
        """See `Gates`."""
        work: Callable[..., None] = _advance if z.dtype == after.dtype else _advance_wide
        for parts in self.scratch.parts((z, before, after, h)):
            work(*parts, self.peepholes, self.scratch.of(len(parts[0])))

    def retreat(self, z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor) -> None:
        """See `Gates`."""
        work: Callable[..., None] = _retreat if z.dtype == dc.dtype else _retreat_wide
        for parts in self.scratch.parts((z, before, after, dh, dc)):
            work(*parts, self.peepholes, self.scratch.of(len(parts[0])))


def _advance(z: Tensor, before: Tensor, after: Tensor, h: Tensor, peepholes: Peepholes, scratch: Scratch) -> None:
    i, f, s, o = z.chunk(4, dim=1)
    late, tanh_c = scratch.cells
    if peepholes is not None:
        i.addcmul_(peepholes[0], before)
        f.addcmul_(peepholes[1], before)
        late.copy_(o)
    s.mul_(2)
    z.sigmoid_()
    torch.mul(f, before, out=after).addcmul_(i, s, value=2).sub_(i)
    if peepholes is not None:
        o.copy_(late.addcmul_(peepholes[2], after).sigmoid_())
    torch.mul(o, _tanh(after, tanh_c), out=h)


def _retreat(
    z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor, peepholes: Peepholes, scratch: Scratch
) -> None:
    i, f, s, o = z.chunk(4, dim=1)
    gradient, (product, spare) = scratch.gates[0], scratch.cells
    tanh_c = _tanh(after, spare)
    of_i, of_f, of_s, of_o = gradient.chunk(4, dim=1)
    torch.mul(dh, tanh_c, out=of_o)
    torch.mul(dh, o, out=product)
    dc.add_(torch.ops.aten.tanh_backward.grad_input(product, tanh_c, grad_input=product))
    if peepholes is not None:
        dc.addcmul_(peepholes[2], torch.ops.aten.sigmoid_backward(of_o, o))
    twice = torch.mul(dc, 2, out=product)
    torch.mul(twice, s, out=of_i).sub_(dc)
    torch.mul(twice.mul_(2), i, out=of_s)  # once for g = 2s − 1, once for s = σ(2·z_g)
    torch.mul(dc, before, out=of_f)
    dc.mul_(f)
    torch.ops.aten.sigmoid_backward.grad_input(gradient, z, grad_input=z)
    if peepholes is not None:
        dc.addcmul_(peepholes[0], i).addcmul_(peepholes[1], f)


def _advance_wide(z: Tensor, before: Tensor, after: Tensor, h: Tensor, peepholes: Peepholes, scratch: Scratch) -> None:
    """Compute in the cell's type; a gate in low precision keeps g itself, since 2s − 1 would lose its small values."""
    wide, wide_h = scratch.gates[0].copy_(z), scratch.gates[1].chunk(4, dim=1)[0]
    _advance(wide, before, after, wide_h, peepholes, scratch)
    wide.chunk(4, dim=1)[2].mul_(2).sub_(1)
    z.copy_(wide)
    h.copy_(wide_h)


def _retreat_wide(
    z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor, peepholes: Peepholes, scratch: Scratch
) -> None:
    wide = scratch.gates[1].copy_(z)
    wide.chunk(4, dim=1)[2].add_(1).mul_(0.5)
    _retreat(wide, before, after, dh, dc, peepholes, scratch)
    z.copy_(wide)


def _tanh(c: Tensor, out: Tensor) -> Tensor:
    if c.device.type != "cpu":
        return torch.tanh(c, out=out)
    return torch.mul(c, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _beside_cells(peephole: Tensor, cell: Tensor) -> Tensor:
    """Return (3, hidden) as it stands beside the cells of a place, or of a sample where channels come first (1-D)."""
    peephole = peephole.reshape(3, -1)
    return peephole.contiguous() if cell.ndim > 3 else peephole.repeat_interleave(cell.shape[2], dim=1)


def peephole_gradient(of_z: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the gradient of the peepholes (3, hidden) from all steps, each with the cell before and after it."""
    of_i, of_f, _, of_o = of_z.chunk(4, dim=2)
    seen = ((of_i, before), (of_f, before), (of_o, after))
    return torch.stack([over_points((gradient * c).flatten(0, 1)) for gradient, c in seen]).to(of_z.dtype)


def over_points(values: Tensor) -> Tensor:
    """Return the sum over batch and space, per channel."""
    return values.sum(dim=(0, *range(2, values.ndim)))
