"""The gate arithmetic of the fused implementation, forward and backward, in place.

In place of g the arrays hold s = σ(2·z_g), so that one sigmoid over one array computes all four gates; then
g = tanh(z_g) = 2s − 1. On a CPU this is several times faster than a tanh, or than either over a slice of channels.
A few samples are computed at a time, so that values are still in the cache when they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convlstm.engine.torch.block import BLOCK_VALUES
from convlstm.engine.torch.native import is_native, operators

Peepholes = Sequence[Tensor] | None


@dataclass(frozen=True)
class Scratch:
    """Two temporary arrays like z and two like c, in the type of c, for as many samples as are computed at a time."""

    gates: tuple[Tensor, Tensor]
    cells: tuple[Tensor, Tensor]

    @classmethod
    def for_steps(cls, z: Tensor, cell: Tensor) -> Scratch:
        """Return the arrays for steps with gates like z and a cell state like `cell`."""
        samples = len(z)
        if z.device.type == "cpu" and z.numel() > BLOCK_VALUES:
            samples = min(samples, max(1, BLOCK_VALUES // 4 // z[0].numel()))
        gates, cells = (torch.empty_like(like[:samples], dtype=cell.dtype) for like in (z, cell))
        return cls((gates, torch.empty_like(gates)), (cells, torch.empty_like(cells)))

    def parts(self, arrays: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """Yield a few samples of the arrays at a time."""
        return zip(*(array.split(len(self.cells[0])) for array in arrays), strict=True)

    def of(self, samples: int) -> Scratch:
        """Return the arrays cut to this number of samples."""
        if samples == len(self.cells[0]):
            return self
        (gates, other), (cells, more) = self.gates, self.cells
        return Scratch((gates[:samples], other[:samples]), (cells[:samples], more[:samples]))


def gate_arithmetic(z: Tensor, cell: Tensor, peephole: Tensor | None) -> NativeGates | TorchGates:
    """Return the implementation for steps with gates like z, a cell state like `cell` and peepholes (3, hidden)."""
    if is_native(z) and cell.dtype == torch.float32:
        return NativeGates(None if peephole is None else _in_cell_layout(peephole.float(), cell))
    peepholes = None if peephole is None else peephole.reshape(3, -1, *(1,) * (z.ndim - 2)).unbind()
    return TorchGates(Scratch.for_steps(z, cell), peepholes)


@dataclass(frozen=True)
class NativeGates:
    """One pass per step, by the operators of `convlstm-native`; z holds the same values as after `TorchGates`."""

    peephole: Tensor | None

    def forward(self, z: Tensor, before: Tensor, after: Tensor, h: Tensor) -> None:
        """Turn z into activated gates in place, and write the new cell state and h."""
        operators().advance(z, before, after, h, self.peephole)

    def backward(self, z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor) -> None:
        """Turn activated gates into dz in place, and dc into the gradient of the previous cell state."""
        operators().retreat(z, before, after, dh, dc, self.peephole)


@dataclass(frozen=True)
class TorchGates:
    """PyTorch's own operations."""

    scratch: Scratch
    peepholes: Peepholes

    def forward(self, z: Tensor, before: Tensor, after: Tensor, h: Tensor) -> None:
        """Turn z into activated gates in place, and write the new cell state and h."""
        compute: Callable[..., None] = _forward if z.dtype == after.dtype else _forward_wide
        for parts in self.scratch.parts((z, before, after, h)):
            compute(*parts, self.peepholes, self.scratch.of(len(parts[0])))

    def backward(self, z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor) -> None:
        """Turn activated gates into dz in place, and dc into the gradient of the previous cell state."""
        compute: Callable[..., None] = _backward if z.dtype == dc.dtype else _backward_wide
        for parts in self.scratch.parts((z, before, after, dh, dc)):
            compute(*parts, self.peepholes, self.scratch.of(len(parts[0])))


def _forward(z: Tensor, before: Tensor, after: Tensor, h: Tensor, peepholes: Peepholes, scratch: Scratch) -> None:
    i, f, s, o = z.chunk(4, dim=1)
    z_o, tanh_c = scratch.cells
    if peepholes is not None:
        i.addcmul_(peepholes[0], before)
        f.addcmul_(peepholes[1], before)
        z_o.copy_(o)
    s.mul_(2)
    z.sigmoid_()
    torch.mul(f, before, out=after).addcmul_(i, s, value=2).sub_(i)
    if peepholes is not None:
        o.copy_(z_o.addcmul_(peepholes[2], after).sigmoid_())
    torch.mul(o, _tanh(after, tanh_c), out=h)


def _backward(
    z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor, peepholes: Peepholes, scratch: Scratch
) -> None:
    i, f, s, o = z.chunk(4, dim=1)
    gradient, (product, spare) = scratch.gates[0], scratch.cells
    tanh_c = _tanh(after, spare)
    di, df, ds, do = gradient.chunk(4, dim=1)
    torch.mul(dh, tanh_c, out=do)
    torch.mul(dh, o, out=product)
    dc.add_(torch.ops.aten.tanh_backward.grad_input(product, tanh_c, grad_input=product))
    if peepholes is not None:
        dc.addcmul_(peepholes[2], torch.ops.aten.sigmoid_backward(do, o))
    twice = torch.mul(dc, 2, out=product)
    torch.mul(twice, s, out=di).sub_(dc)
    torch.mul(twice.mul_(2), i, out=ds)  # once for g = 2s − 1, once for s = σ(2·z_g)
    torch.mul(dc, before, out=df)
    dc.mul_(f)
    torch.ops.aten.sigmoid_backward.grad_input(gradient, z, grad_input=z)
    if peepholes is not None:
        dc.addcmul_(peepholes[0], i).addcmul_(peepholes[1], f)


def _forward_wide(z: Tensor, before: Tensor, after: Tensor, h: Tensor, peepholes: Peepholes, scratch: Scratch) -> None:
    """Compute in the cell's type; low-precision gates store g itself, since 2s − 1 would lose its small values."""
    wide, wide_h = scratch.gates[0].copy_(z), scratch.gates[1].chunk(4, dim=1)[0]
    _forward(wide, before, after, wide_h, peepholes, scratch)
    wide.chunk(4, dim=1)[2].mul_(2).sub_(1)
    z.copy_(wide)
    h.copy_(wide_h)


def _backward_wide(
    z: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor, peepholes: Peepholes, scratch: Scratch
) -> None:
    wide = scratch.gates[1].copy_(z)
    wide.chunk(4, dim=1)[2].add_(1).mul_(0.5)
    _backward(wide, before, after, dh, dc, peepholes, scratch)
    z.copy_(wide)


def _tanh(c: Tensor, out: Tensor) -> Tensor:
    if c.device.type != "cpu":
        return torch.tanh(c, out=out)
    return torch.mul(c, 2, out=out).sigmoid_().mul_(2).sub_(1)


def _in_cell_layout(peephole: Tensor, cell: Tensor) -> Tensor:
    """Return (3, hidden) in the layout of the cells of one point, or of one sample in 1-D (channels first)."""
    peephole = peephole.reshape(3, -1)
    return peephole.contiguous() if cell.ndim > 3 else peephole.repeat_interleave(cell.shape[2], dim=1)


def write_hidden(z: Tensor, cell: Tensor, h: Tensor) -> None:
    """Write h of one step, from its activated gates and its new cell state."""
    torch.mul(z.chunk(4, dim=1)[3].to(cell.dtype), _tanh(cell, torch.empty_like(cell)), out=h)


def peephole_gradient(dz: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Return the gradient of the peepholes (3, hidden) from all steps, each with the cell state before and after it."""
    di, df, _, do = dz.chunk(4, dim=2)
    pairs = ((di, before), (df, before), (do, after))
    return torch.stack([sum_over_points((gradient * c).flatten(0, 1)) for gradient, c in pairs]).to(dz.dtype)


def sum_over_points(values: Tensor) -> Tensor:
    """Return the sum over batch and space, per channel."""
    return values.sum(dim=(0, *range(2, values.ndim)))
