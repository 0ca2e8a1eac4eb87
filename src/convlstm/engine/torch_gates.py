"""The gate arithmetic of the quick path, in place, forwards and backwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def advance(gates: Tensor, before: Tensor, after: Tensor, h: Tensor, peeps: Sequence[Tensor] | None) -> None:
    """Turn z into activated gates in place, and write the new cell state and h."""
    size = h.shape[1]
    i, f, g, o = gates.split(size, dim=1)
    if peeps is not None:
        i.addcmul_(peeps[0], before)
        f.addcmul_(peeps[1], before)
    gates[:, : 2 * size].sigmoid_()
    g.tanh_()
    torch.mul(f, before, out=after)
    after.addcmul_(i, g)
    if peeps is not None:
        o.addcmul_(peeps[2], after)
    o.sigmoid_()
    torch.tanh(after, out=h) if h.dtype == after.dtype else h.copy_(torch.tanh(after))
    h.mul_(o)


def retreat(
    gates: Tensor, before: Tensor, after: Tensor, dh: Tensor, dc: Tensor, peeps: Sequence[Tensor] | None
) -> None:
    """Turn activated gates into the gradient of z in place, and dc into the gradient of the cell before."""
    i, f, g, o = gates.chunk(4, dim=1)
    tanh_c = torch.tanh(after)
    of_o = dh * tanh_c
    dc.add_(torch.ops.aten.tanh_backward(dh * o, tanh_c))
    _through_sigmoid(of_o, o)
    if peeps is not None:
        dc.addcmul_(peeps[2], o)
    of_i, of_g, of_f = torch.mul(dc, g, out=of_o), torch.mul(dc, i, out=tanh_c), dc * before
    dc.mul_(f)
    _through_sigmoid(of_i, i)
    _through_sigmoid(of_f, f)
    _through_tanh(of_g, g)
    if peeps is not None:
        dc.addcmul_(peeps[0], i).addcmul_(peeps[1], f)


def _through_sigmoid(gradient: Tensor, gate: Tensor) -> None:
    if gradient.dtype == gate.dtype:
        torch.ops.aten.sigmoid_backward.grad_input(gradient, gate, grad_input=gate)
    else:
        gate.copy_(torch.ops.aten.sigmoid_backward(gradient, gate.to(gradient.dtype)))


def _through_tanh(gradient: Tensor, gate: Tensor) -> None:
    if gradient.dtype == gate.dtype:
        torch.ops.aten.tanh_backward.grad_input(gradient, gate, grad_input=gate)
    else:
        gate.copy_(torch.ops.aten.tanh_backward(gradient, gate.to(gradient.dtype)))


def peephole_gradient(of_z: Tensor, cells: Tensor) -> Tensor:
    """Return the gradient of the peepholes (3, hidden) from all steps; `cells` has the initial c first."""
    of_i, of_f, _, of_o = of_z.chunk(4, dim=2)
    seen = ((of_i, cells[:-1]), (of_f, cells[:-1]), (of_o, cells[1:]))
    return torch.stack([over_points((gradient * c).flatten(0, 1)) for gradient, c in seen]).to(of_z.dtype)


def over_points(values: Tensor) -> Tensor:
    """Return the sum over batch and space, per channel."""
    return values.sum(dim=(0, *range(2, values.ndim)))
