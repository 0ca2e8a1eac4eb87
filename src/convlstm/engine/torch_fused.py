"""The quick path in PyTorch: one input convolution, gates in place, one weight gradient over all steps.

It serves the plain cell (tanh, sigmoid, peephole none or channel, no masks, norm or zoneout). Where a transform, an
export, forward-mode or a second derivative asks for an ordinary graph, the plain path is taken instead, so that no
derivative is ever silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.contract.geometry import Widths, pad_widths, recurrent_pad_widths
from convlstm.contract.layer import LayerSpec
from convlstm.engine.torch_convolution import CONVOLUTIONS, add_convolution, convolve, padded, unambiguous
from convlstm.engine.torch_gates import advance, over_points, peephole_gradient, retreat
from convlstm.engine.torch_precision import without_autocast

Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]

_SLOTS = ("weight_ih", "bias", "weight_hh", "peephole")
_MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class _Plan:
    """What stays the same between forward and backward."""

    layer: LayerSpec
    steps: int
    plain: Callable[..., tuple[Tensor, State]]

    @property
    def rank(self) -> int:
        return self.layer.stack.spatial_dims

    def input_widths(self, size: Sequence[int]) -> Widths:
        layer = self.layer
        return pad_widths(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)


def serves(layer: LayerSpec, state: State) -> bool:
    """Return whether this path computes the layer, here and now."""
    spec = layer.stack
    return (
        spec.norm == "none"
        and spec.activation == "tanh"
        and spec.recurrent_activation == "sigmoid"
        and spec.peephole != "pixel"
        and not (spec.zoneout_h or spec.zoneout_c)
        and set(spec.boundary) == {"zeros"}
        and layer.groups == 1
        and state[0].numel() > 0
        and not torch.compiler.is_compiling()
        and not transforms_are_active()
    )


def transforms_are_active() -> bool:
    """Return whether functorch transforms or forward-mode differentiation are at work (private names)."""
    return bool(torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0)


def _are_batched(gradients: Sequence[Tensor | None]) -> bool:
    """Return whether gradients come in batches (`is_grads_batched`), which in-place work cannot take (private)."""
    kinds = (torch._C._functorch.is_batchedtensor, torch._C._functorch.is_legacy_batchedtensor)
    return any(dy is not None and any(kind(dy) for kind in kinds) for dy in gradients)


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor | None,
    state: State,
    *,
    steps: int,
    reverse: bool,
    plain: Callable[..., tuple[Tensor, State]],
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a sequence.

    Args:
        layer: A layer that this path serves.
        weights: Its arrays.
        x: Frames, time first (time, batch, in_channels, *space), or None for a layer without input.
        state: Initial h and c, h in the type to compute in.
        steps: Number of steps, at least 1.
        reverse: Run from the last step to the first; outputs still stand in input order.
        plain: The plain path, for derivatives that this one cannot give.

    Returns:
        Outputs, time first (time, batch, hidden_channels, *grid), and the final (h, c).
    """
    dtype = state[0].dtype
    arrays = [None if name not in weights else weights[name].to(dtype) for name in _SLOTS]
    x = None if x is None else (x.flip(0) if reverse else x).to(dtype)
    inputs = (x, *state, *arrays)
    plan = _Plan(layer, steps, plain)
    with without_autocast(state[0]):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
            outputs, h, c = _Fused.apply(plan, *inputs)  # type: ignore[no-untyped-call]
        else:
            outputs, h, c, _, _ = _run(plan, inputs, keep=False)
    return outputs.flip(0) if reverse else outputs, (h, c)


class _Fused(torch.autograd.Function):
    """The recurrence with its own backward pass: only h ∗ W_hh and its data gradient go step by step."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        outputs, h, c, gates, memory = _run(plan, inputs, keep=True)
        ctx.plan, ctx.spent = plan, False
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *memory, gates)
        return outputs, h, c

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, hidden, cells, gates = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        with without_autocast(hidden):
            if torch.is_grad_enabled() or ctx.spent or _are_batched(gradients):
                return None, *_plain_gradients(ctx.plan, inputs, gradients, needed)
            ctx.spent = True  # the gates' buffer takes their gradients; a second backward goes the plain way
            return None, *_gradients(ctx.plan, inputs, hidden, cells, gates.data, gradients, needed)


def _run(
    plan: _Plan,
    inputs: Sequence[Tensor | None],
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return outputs, final h and c, the activated gates, and (h, c) of all steps with the initial ones first."""
    x, h, c, weight_ih, bias, weight_hh, peephole = inputs
    assert h is not None
    assert c is not None
    assert weight_hh is not None
    gates = _input_gates(plan, x, h, weight_ih, bias).unflatten(0, (plan.steps, len(h)))
    hidden = _buffer(plan, (plan.steps + 1) * len(h), h).unflatten(0, (plan.steps + 1, len(h)))
    cells = _buffer(plan, (plan.steps + 1 if keep else 1) * len(h), c).unflatten(0, (-1, len(h)))
    hidden[0], cells[0] = h, c
    peeps = _peepholes(plan, peephole)
    weight_hh = unambiguous(weight_hh.contiguous(memory_format=_MEMORY_FORMATS[plan.rank]))
    widths = recurrent_pad_widths(plan.layer.recurrent_kernel_size)
    for t in range(plan.steps):
        add_convolution(gates[t], hidden[t], weight_hh, widths)
        before, after = (cells[t], cells[t + 1]) if keep else (cells[0], cells[0])
        advance(gates[t], before, after, hidden[t + 1], peeps)
    return hidden[1:], hidden[-1].clone(), cells[-1].clone(), gates, (hidden, cells)


def _gradients(
    plan: _Plan,
    inputs: Sequence[Tensor | None],
    hidden: Tensor,
    cells: Tensor,
    gates: Tensor,
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of the inputs; the gates' buffer ends up holding the gradient of z."""
    x, _, _, weight_ih, bias, weight_hh, peephole = inputs
    assert weight_hh is not None
    of_outputs, of_h, of_c = gradients
    peeps = _peepholes(plan, peephole)
    turned = weight_hh.flip(tuple(range(2, weight_hh.ndim))).transpose(0, 1)
    turned = unambiguous(turned.contiguous(memory_format=_MEMORY_FORMATS[plan.rank]))
    widths = tuple((after, before) for before, after in recurrent_pad_widths(plan.layer.recurrent_kernel_size))
    dh = torch.zeros_like(hidden[0]) if of_h is None else of_h
    dc = torch.zeros_like(cells[0])
    if of_c is not None:
        dc.copy_(of_c)
    for t in reversed(range(plan.steps)):
        dh = dh if of_outputs is None else dh + of_outputs[t]
        retreat(gates[t], cells[t], cells[t + 1], dh.to(dc.dtype), dc, peeps)
        if t or needed[1]:
            dh = convolve(gates[t], turned, widths)
    flat, before = gates.flatten(0, 1), hidden[:-1].flatten(0, 1)
    of_x, of_w_ih = _input_gradients(plan, x, weight_ih, flat, (needed[0], needed[3]))
    of_w_hh = _weight_gradient(plan, before, weight_hh, flat) if needed[5] else None
    return [
        of_x,
        dh if needed[1] else None,
        dc if needed[2] else None,
        of_w_ih,
        over_points(flat) if bias is not None and needed[4] else None,
        of_w_hh,
        peephole_gradient(gates, cells) if peephole is not None and needed[6] else None,
    ]


def _plain_gradients(
    plan: _Plan,
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the same gradients through an ordinary graph, so that they can be differentiated again."""
    x, h, c, *arrays = inputs
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [
            t if t is None or not n or create_graph else t.detach().requires_grad_()
            for t, n in zip(inputs, needed, strict=True)
        ]
        x, h, c, *arrays = own
        weights = {name: array for name, array in zip(_SLOTS, arrays, strict=True) if array is not None}
        outputs, state = plan.plain(plan.layer, weights, x, (h, c), steps=plan.steps)
    pairs = [(y, dy) for y, dy in zip((outputs, *state), gradients, strict=True) if dy is not None]
    wanted = [t for t, n in zip(own, needed, strict=True) if n and t is not None]
    found = iter(
        torch.autograd.grad(
            [y for y, _ in pairs], wanted, [dy for _, dy in pairs], create_graph=create_graph, allow_unused=True
        )
    )
    return [next(found) if n and t is not None else None for t, n in zip(own, needed, strict=True)]


def _input_gates(plan: _Plan, x: Tensor | None, h: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return W_ih ∗ x + b for all steps (time · batch, 4·hidden, *grid), in a buffer of its own."""
    if x is None:
        z = h.new_zeros((plan.steps * len(h), 4 * h.shape[1], *h.shape[2:]))
        z = z if bias is None else z + bias.reshape(-1, *(1,) * plan.rank)
        return z.contiguous(memory_format=_MEMORY_FORMATS[plan.rank])
    flat, padding = _padded_input(plan, x)
    assert weight is not None
    weight = unambiguous(weight.contiguous(memory_format=_MEMORY_FORMATS[plan.rank]))
    z = CONVOLUTIONS[plan.rank](flat, weight, bias, plan.layer.stride, padding, plan.layer.dilation)
    return z.contiguous(memory_format=_MEMORY_FORMATS[plan.rank])


def _padded_input(plan: _Plan, x: Tensor) -> tuple[Tensor, list[int]]:
    """Return frames in one batch, channels last, and what padding is left to the convolution."""
    flat = x.flatten(0, 1)
    widths = plan.input_widths(flat.shape[2:])
    if any(before != after for before, after in widths):
        flat, widths = F.pad(flat, [n for width in reversed(widths) for n in width]), ((0, 0),) * plan.rank
    flat = flat.contiguous(memory_format=_MEMORY_FORMATS[plan.rank])
    return unambiguous(flat), [before for before, _ in widths]


def _input_gradients(
    plan: _Plan, x: Tensor | None, weight: Tensor | None, of_z: Tensor, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    if x is None or weight is None or not any(needed):
        return None, None
    flat, padding = _padded_input(plan, x)
    layer, weight = plan.layer, unambiguous(weight)
    zeros = [0] * plan.rank
    of_flat, of_weight, _ = torch.ops.aten.convolution_backward(
        of_z, flat, weight, None, layer.stride, padding, layer.dilation, False, zeros, 1, (*needed, False)
    )
    if needed[0] and flat.shape[2:] != x.shape[3:]:
        widths = plan.input_widths(x.shape[3:])
        of_flat = F.pad(of_flat, [-n for width in reversed(widths) for n in width])
    return (of_flat.unflatten(0, x.shape[:2]) if needed[0] else None), (of_weight if needed[1] else None)


def _weight_gradient(plan: _Plan, before: Tensor, weight: Tensor, of_z: Tensor) -> Tensor:
    """Return the gradient of W_hh from all steps at once."""
    widths = recurrent_pad_widths(plan.layer.recurrent_kernel_size)
    h, padding = padded(unambiguous(before), widths)
    ones, zeros = [1] * plan.rank, [0] * plan.rank
    arguments = (None, ones, padding, ones, False, zeros, 1, (False, True, False))
    gradient: Tensor = torch.ops.aten.convolution_backward(of_z, h, weight, *arguments)[1]
    return gradient


def _peepholes(plan: _Plan, peephole: Tensor | None) -> Sequence[Tensor] | None:
    return None if peephole is None else peephole.reshape(3, -1, *(1,) * plan.rank).unbind()


def _buffer(plan: _Plan, count: int, like: Tensor) -> Tensor:
    return like.new_empty((count, *like.shape[1:])).contiguous(memory_format=_MEMORY_FORMATS[plan.rank])
