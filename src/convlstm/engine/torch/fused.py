"""The quick path in PyTorch: convolutions in their quickest form, gates in place, weight gradients over many steps.

It serves the plain cell (tanh, sigmoid, peephole none or channel, no masks, norm or zoneout). Where a transform, an
export, forward-mode or a second derivative asks for an ordinary graph, the plain path is taken instead, so that no
derivative is ever silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.engine.torch.convolution import one_output_column
from convlstm.engine.torch.direct import DirectConvolutions
from convlstm.engine.torch.gates import gate_arithmetic, over_points, peephole_gradient
from convlstm.engine.torch.modes import are_batched, transforms_are_active
from convlstm.engine.torch.native import is_native, put_channels_last
from convlstm.engine.torch.plan import Plan
from convlstm.engine.torch.precision import wide_type, without_autocast
from convlstm.engine.torch.winograd_layer import convolutions
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec

Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]

_SLOTS = ("weight_ih", "bias", "weight_hh", "peephole")


def serves(layer: LayerSpec, shape: Sequence[int]) -> bool:
    """Return whether this path computes the layer, here and now, for states of this shape."""
    return (
        layer.is_standard_cell
        and 0 not in shape
        and not torch.compiler.is_compiling()
        and not transforms_are_active()
    )


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor | None,
    state: State | None,
    shape: tuple[int, ...],
    *,
    steps: int,
    reverse: bool,
    plain: Callable[..., tuple[Tensor, State]],
) -> tuple[Tensor, State]:
    """Run one layer in one direction over a sequence.

    Args:
        layer: A layer that this path serves.
        weights: Its arrays, the recurrent kernel in the type to compute in.
        x: Frames, time first (time, batch, in_channels, *space), or None for a layer without input.
        state: Initial h and c in the types to compute in, or None for zeros, which the first step need not convolve.
        shape: Of a state.
        steps: Number of steps, at least 1.
        reverse: Run from the last step to the first; outputs still stand in input order.
        plain: The plain path, for derivatives that this one cannot give.

    Returns:
        Outputs, time first (time, batch, hidden_channels, *grid), and the final (h, c).
    """
    like = weights["weight_hh"]
    arrays = [None if name not in weights else weights[name].to(like.dtype) for name in _SLOTS]
    if x is not None and like.dtype == torch.bfloat16:
        layer, x = _with_one_output_column(layer, x)
    plan = Plan(layer, steps, shape, reverse, plain)
    x = None if x is None else _in_type(plan, x, like.dtype)
    inputs = (x, *(state or (None, None)), *arrays)
    with without_autocast(like):
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
            outputs, h, c = _Fused.apply(plan, *inputs)  # type: ignore[no-untyped-call]
        else:
            outputs, h, c, _, _ = _run(plan, inputs, keep=False)
    return outputs, (h, c)


def _with_one_output_column(layer: LayerSpec, x: Tensor) -> tuple[LayerSpec, Tensor]:
    """Return the layer and its frames in a form that is right in bfloat16 (see `one_output_column`)."""
    size = tuple(x.shape[3:])
    if layer.stride[-1] == 1 or layer.grid(size)[-1] > 1:
        return layer, x
    widths = pad_widths(size, layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    x = F.pad(x, [n for width in reversed(widths) for n in width])
    x, stride = one_output_column(x, layer.kernel_size, layer.stride, layer.dilation)
    return replace(layer, stride=tuple(stride), padding="valid"), x


def _in_type(plan: Plan, x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype == dtype or not is_native(x) or x.shape[2] == 1:
        return x.to(dtype)
    narrowed: Tensor = _Narrowed.apply(plan, x, dtype)  # type: ignore[no-untyped-call]
    return narrowed


class _Narrowed(torch.autograd.Function):
    """Frames in another type, and in the order in which convolutions take them: one pass in place of three."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = x.dtype
        return plan.put_in_order(x, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, gradients[0].to(ctx.dtype), None


class _Fused(torch.autograd.Function):
    """The recurrence with its own backward pass: of the gradients only that of the state goes step by step."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
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
            if torch.is_grad_enabled() or ctx.spent or are_batched(gradients):
                return None, *_plain_gradients(ctx.plan, inputs, gradients, needed)
            ctx.spent = True  # the gates' buffer takes their gradients; a second backward goes the plain way
            return None, *_gradients(ctx.plan, inputs, hidden, cells, gates.data, gradients, needed)


def _run(
    plan: Plan,
    inputs: Sequence[Tensor | None],
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return outputs, final h and c, the gates as `advance` leaves them, and (h, c) of all steps from the initial."""
    x, h, c, weight_ih, bias, weight_hh, peephole = inputs
    assert weight_hh is not None
    gates = plan.empty(plan.steps if keep else plan.group, plan.gate_shape, weight_hh)
    hidden = plan.empty(plan.steps + 1, plan.shape, weight_hh)
    cells = plan.empty(plan.steps + 1 if keep else 1, plan.shape, weight_hh, wide_type(weight_hh.dtype))
    start, end = plan.route[0][1], plan.route[-1][2]
    h_start, c_start = (
        _start(plan, states[start if len(states) > 1 else 0], given, keep=keep)
        for states, given in ((hidden, h), (cells, c))
    )
    arithmetic = gate_arithmetic(gates[0], cells[0], peephole)
    convolved = convolutions(plan, x, weight_ih, bias, weight_hh)
    for span in plan.spans:
        z = gates[span] if keep else gates[: span.stop - span.start]
        convolved.fill(z, span)
        for t, before, after in plan.route_through(span):
            first = before == start
            convolved.add(z[t - span.start], t, hidden[before] if not first else None if h is None else h_start)
            c_before, c_after = (cells[before], cells[after]) if keep else (cells[0], cells[0])
            arithmetic.advance(z[t - span.start], c_start if first else c_before, c_after, hidden[after])
    c_end = (
        cells[end].clone() if keep else cells[0].detach()
    )  # no view of what autograd knows: it may be detached in place
    return hidden[plan.after], hidden[end].clone(), c_end, gates, (hidden, cells)


def _start(plan: Plan, place: Tensor, given: Tensor | None, *, keep: bool) -> Tensor:
    """Return the state before the first step: in its place among the others if that is kept, else as it was given."""
    if given is None:
        return place.zero_()
    if keep:
        return place.copy_(given)
    # axes of length 1 may have any stride there, which oneDNN would take for another order
    return given.contiguous(memory_format=plan.memory_format).as_strided(place.shape, place.stride())


def _gradients(
    plan: Plan,
    inputs: Sequence[Tensor | None],
    hidden: Tensor,
    cells: Tensor,
    gates: Tensor,
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of the inputs; the gates' buffer ends up holding the gradient of z."""
    x, h, _, weight_ih, bias, weight_hh, peephole = inputs
    assert weight_hh is not None
    wanted = (needed[0], needed[3], needed[5])
    convolved = convolutions(plan, x, weight_ih, bias, weight_hh, wanted)
    dh, dc = _through_steps(plan, convolved, peephole, (hidden, cells, gates), gradients, whole=needed[1])
    of_x, of_w_ih, of_w_hh = convolved.gradients(hidden, gates, whole=h is not None)
    return [
        of_x,
        dh if needed[1] else None,
        dc if needed[2] else None,
        of_w_ih,
        over_points(gates.flatten(0, 1)) if bias is not None and needed[4] else None,
        of_w_hh,
        peephole_gradient(gates, cells[plan.before], cells[plan.after]) if peephole is not None and needed[6] else None,
    ]


def _through_steps(
    plan: Plan,
    convolved: DirectConvolutions,
    peephole: Tensor | None,
    kept: tuple[Tensor, Tensor, Tensor],
    gradients: Sequence[Tensor | None],
    *,
    whole: bool,
) -> tuple[Tensor, Tensor]:
    """Turn the gates into the gradient of z, last step first; return the gradients of the initial h and c.

    That of h is right only if the `whole` is wanted: the first step's convolution is left out otherwise.
    """
    hidden, cells, gates = kept
    of_outputs, of_h, of_c = gradients
    dh, dc = torch.empty_like(hidden[0]), torch.zeros_like(cells[0])
    dh.zero_() if of_h is None else dh.copy_(of_h)
    if of_c is not None:
        dc.copy_(of_c)
    route, arithmetic = plan.route, gate_arithmetic(gates[0], cells[0], peephole)
    if of_outputs is not None:
        dh.add_(of_outputs[route[-1][0]])
    for number, (t, before, after) in reversed(list(enumerate(route))):
        arithmetic.retreat(gates[t], cells[before], cells[after], dh, dc)
        if number or whole:
            if number and of_outputs is not None:
                put_channels_last(dh, of_outputs[route[number - 1][0]])
            else:
                dh.zero_()
            convolved.go_back(gates[t], dh)
    return dh, dc


def _plain_gradients(
    plan: Plan,
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the same gradients through an ordinary graph, so that they can be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [
            t if t is None or not n or create_graph else t.detach().requires_grad_()
            for t, n in zip(inputs, needed, strict=True)
        ]
        x, h, c, *arrays = own
        weights = {name: array for name, array in zip(_SLOTS, arrays, strict=True) if array is not None}
        start = None if h is None else (h, c)
        outputs, state = plan.plain(plan.layer, weights, x, start, plan.shape, steps=plan.steps, reverse=plan.reverse)
    pairs = [(y, dy) for y, dy in zip((outputs, *state), gradients, strict=True) if dy is not None]
    wanted = [t for t, n in zip(own, needed, strict=True) if n and t is not None]
    found = iter(
        torch.autograd.grad(
            [y for y, _ in pairs], wanted, [dy for _, dy in pairs], create_graph=create_graph, allow_unused=True
        )
    )
    return [next(found) if n and t is not None else None for t, n in zip(own, needed, strict=True)]
