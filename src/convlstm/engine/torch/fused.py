"""The fused implementation in PyTorch: fast convolutions, gates in place, and weight gradients of many steps at once.

It computes the standard cell (`LayerSpec.is_standard_cell`) without masks. Where a transform, an export, forward-mode
or a second derivative needs an ordinary graph, the generic implementation computes it instead, so that no derivative
is silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.engine.torch import accelerator
from convlstm.engine.torch.convolution import needs_two_columns, one_output_column
from convlstm.engine.torch.direct import DirectConvolutions
from convlstm.engine.torch.fused_plan import Plan
from convlstm.engine.torch.gates import gate_arithmetic, peephole_gradient, sum_over_points, write_hidden
from convlstm.engine.torch.modes import (
    are_batched,
    is_jit_traced,
    saved_tensors_are_replaced,
    transforms_are_active,
)
from convlstm.engine.torch.native import is_native, put_channels_last
from convlstm.engine.torch.precision import wide_type, without_autocast
from convlstm.engine.torch.winograd_layer import convolutions
from convlstm.spec.geometry import pad_widths
from convlstm.spec.layer import LayerSpec

Weights = Mapping[str, Tensor]
State = tuple[Tensor, Tensor]
Generic = Callable[..., tuple[Tensor, State]]

_SLOTS = ("weight_ih", "bias", "weight_hh", "peephole")


def serves(layer: LayerSpec, shape: Sequence[int]) -> bool:
    """Return whether this implementation can compute the layer now, for states of this shape."""
    return layer.is_standard_cell and 0 not in shape and not transforms_are_active() and not is_jit_traced()


def sequence(
    layer: LayerSpec,
    weights: Weights,
    x: Tensor | None,
    state: State | None,
    shape: tuple[int, ...],
    *,
    steps: int,
    reverse: bool,
    generic: Generic,
) -> tuple[Tensor, State]:
    """Run a layer for which `serves` holds over at least one step, in the type of `weight_hh`.

    `generic` computes the derivatives that this implementation does not have; `shape` is that of h and c.
    """
    like = weights["weight_hh"]
    arrays = weight_arrays(weights)
    if x is not None and needs_two_columns(like.dtype):
        layer, x = _with_one_output_column(layer, x)
    plan = Plan(layer, steps, shape, reverse)
    x = None if x is None else _in_type(plan, x, like.dtype)
    inputs = (x, *(state or (None, None)), *arrays)
    with without_autocast(like):
        records = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        if records and any(t is not None and t.requires_grad for t in inputs):
            outputs, h, c = _Fused.apply(plan, generic, *inputs)  # type: ignore[no-untyped-call]
        else:
            outputs, h, c, _, _ = run(plan, inputs, save=False)
    return outputs, (h, c)


def weight_arrays(weights: Weights) -> list[Tensor | None]:
    """Return W_ih, b, W_hh and p in the type of W_hh, None for those that the layer lacks."""
    dtype = weights["weight_hh"].dtype
    return [weights[name].to(dtype) if name in weights else None for name in _SLOTS]


def _with_one_output_column(layer: LayerSpec, x: Tensor) -> tuple[LayerSpec, Tensor]:
    """Return the layer and its frames in a form that oneDNN computes correctly (see `one_output_column`)."""
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
    """Frames in another type and channels last, in one pass in place of three."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = x.dtype
        return plan.to_channels_last(x, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, gradients[0].to(ctx.dtype), None


class _Fused(torch.autograd.Function):
    """The recurrence with its own backward pass, in which only the gradient of the state goes step by step.

    The caller may change the outputs in place. They lie in the memory of the saved h, but have their own version, and
    an alias of them tells whether it changed.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, generic: Generic, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        outputs, h, c, gates, states = run(plan, inputs, save=True)
        ctx.plan, ctx.generic = plan, generic
        ctx.gates_are_overwritten, ctx.alias = False, None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *states, gates)
        if saved_tensors_are_replaced():  # by less memory, which an alias would keep
            return outputs.clone(), h, c
        ctx.alias, ctx.version = outputs.detach(), outputs._version
        return outputs, h, c

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, hidden, cells, gates = ctx.saved_tensors
        plan, needed = ctx.plan, ctx.needs_input_grad[2:]
        with without_autocast(hidden):
            if torch.is_grad_enabled() or are_batched(gradients):
                return None, None, *_generic_gradients(plan, ctx.generic, inputs, gradients, needed)
            gates = gates.data
            if ctx.gates_are_overwritten:  # by dz of an earlier backward pass
                _, _, _, gates, (hidden, cells) = run(plan, inputs, save=True)
            elif ctx.alias is not None and ctx.alias._version != ctx.version:
                hidden = _hidden_again(plan, hidden, cells, gates)
            ctx.gates_are_overwritten, ctx.alias = True, None
            return None, None, *gradients_of(plan, inputs, hidden, cells, gates, gradients, needed)


def run(
    plan: Plan, inputs: Sequence[Tensor | None], *, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return outputs, final h and c, the activated gates, and h and c of all T + 1 steps; `save` keeps all of them.

    The inputs are x, h and c before the first step, and the weights in the order of `_SLOTS`.
    """
    x, h, c, weight_ih, bias, weight_hh, peephole = inputs
    assert weight_hh is not None
    if accelerator.serves(weight_hh):
        return accelerator.run(plan, inputs, save=save)
    gates = plan.empty(plan.steps if save else plan.steps_per_chunk, plan.gate_shape, weight_hh)
    hidden = plan.empty(plan.steps + 1, plan.shape, weight_hh)
    cells = plan.empty(plan.steps + 1 if save else 1, plan.shape, weight_hh, wide_type(weight_hh.dtype))
    start, end = plan.time_order[0][1], plan.time_order[-1][2]
    h_start = _initial_state(plan, hidden[start], h, save=save)
    c_start = _initial_state(plan, cells[start] if save else cells[0], c, save=save)
    arithmetic = gate_arithmetic(gates[0], cells[0], peephole)
    convolved = convolutions(plan, x, weight_ih, bias, weight_hh)
    for chunk in plan.chunks:
        z = gates[chunk] if save else gates[: chunk.stop - chunk.start]
        convolved.write_input_terms(z, chunk)
        for t, before, after in plan.time_order_of(chunk):
            z_t = z[t - chunk.start]
            h_before: Tensor | None = hidden[before]
            c_before, c_after = (cells[before], cells[after]) if save else (cells[0], cells[0])
            if before == start:
                h_before = None if h is None else h_start
                c_before = c_start
            convolved.add_recurrent_term(z_t, t, h_before)
            arithmetic.forward(z_t, c_before, c_after, hidden[after])
    # no views of an array that autograd knows: the caller may detach or change them in place
    c_end = cells[end].clone() if save else cells[0].detach()
    return hidden[plan.after].data, hidden[end].clone(), c_end, gates, (hidden, cells)


def _hidden_again(plan: Plan, hidden: Tensor, cells: Tensor, gates: Tensor) -> Tensor:
    """Return h of all T + 1 steps, whose memory the caller changed, from the initial one and the gates."""
    again = plan.empty(plan.steps + 1, plan.shape, hidden)
    start = plan.time_order[0][1]
    again[start].copy_(hidden[start])
    for t, _, after in plan.time_order:
        write_hidden(gates[t], cells[after], again[after])
    return again


def _initial_state(plan: Plan, slot: Tensor, state: Tensor | None, *, save: bool) -> Tensor:
    """Return h or c before the first step: in its slot among all states if that is saved, else the caller's array."""
    if state is None:
        return slot.zero_()
    if save:
        return slot.copy_(state)
    # axes of length 1 may have any stride, which oneDNN would take for another memory format
    return state.contiguous(memory_format=plan.memory_format).as_strided(slot.shape, slot.stride())


def gradients_of(
    plan: Plan,
    inputs: Sequence[Tensor | None],
    hidden: Tensor,
    cells: Tensor,
    gates: Tensor,
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of the inputs; dz overwrites the gates."""
    x, h, _, weight_ih, bias, weight_hh, peephole = inputs
    assert weight_hh is not None
    if accelerator.serves(weight_hh):
        return accelerator.gradients(plan, inputs, hidden, cells, gates, gradients, needed)
    convolved = convolutions(plan, x, weight_ih, bias, weight_hh, (needed[0], needed[3], needed[5]))
    dh, dc = _backward_steps(plan, convolved, peephole, (hidden, cells, gates), gradients, needs_initial_dh=needed[1])
    dz = gates
    dx, dw_ih, dw_hh = convolved.gradients(hidden, dz, zero_initial_state=h is None)
    d_bias = d_peephole = None
    if bias is not None and needed[4]:
        d_bias = sum_over_points(dz.flatten(0, 1))
    if peephole is not None and needed[6]:
        d_peephole = peephole_gradient(dz, cells[plan.before], cells[plan.after])
    dh_initial = dh if needed[1] else None
    dc_initial = dc if needed[2] else None
    return [dx, dh_initial, dc_initial, dw_ih, d_bias, dw_hh, d_peephole]


def _backward_steps(
    plan: Plan,
    convolved: DirectConvolutions,
    peephole: Tensor | None,
    saved: tuple[Tensor, Tensor, Tensor],
    gradients: Sequence[Tensor | None],
    *,
    needs_initial_dh: bool,
) -> tuple[Tensor, Tensor]:
    """Turn the gates into dz, last step first; return dh and dc of the initial state, dh valid only if it is needed."""
    hidden, cells, gates = saved
    d_outputs, dh_final, dc_final = gradients
    dh, dc = torch.empty_like(hidden[0]), torch.zeros_like(cells[0])
    if dh_final is None:
        dh.zero_()
    else:
        dh.copy_(dh_final)
    if dc_final is not None:
        dc.copy_(dc_final)
    time_order, arithmetic = plan.time_order, gate_arithmetic(gates[0], cells[0], peephole)
    if d_outputs is not None:
        dh.add_(d_outputs[time_order[-1][0]])
    for number in reversed(range(plan.steps)):
        t, before, after = time_order[number]
        arithmetic.backward(gates[t], cells[before], cells[after], dh, dc)
        if number == 0 and not needs_initial_dh:
            break
        if number and d_outputs is not None:
            put_channels_last(dh, d_outputs[time_order[number - 1][0]])
        else:
            dh.zero_()
        convolved.backward(gates[t], dh)
    return dh, dc


def _generic_gradients(
    plan: Plan,
    generic: Generic,
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the same gradients by the generic implementation, so that they can be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if not create_graph:
            inputs = [
                t.detach().requires_grad_() if t is not None and is_needed else t
                for t, is_needed in zip(inputs, needed, strict=True)
            ]
        x, h, c, *arrays = inputs
        weights = {name: array for name, array in zip(_SLOTS, arrays, strict=True) if array is not None}
        state = None if h is None else (h, c)
        outputs, final = generic(plan.layer, weights, x, state, plan.shape, steps=plan.steps, reverse=plan.reverse)
    pairs = [(y, dy) for y, dy in zip((outputs, *final), gradients, strict=True) if dy is not None]
    differentiated = {n: t for n, t in enumerate(inputs) if needed[n] and t is not None}
    computed = torch.autograd.grad(
        [y for y, _ in pairs],
        list(differentiated.values()),
        [dy for _, dy in pairs],
        create_graph=create_graph,
        allow_unused=True,
    )
    results: list[Tensor | None] = [None] * len(inputs)
    for n, gradient in zip(differentiated, computed, strict=True):
        results[n] = gradient
    return results
