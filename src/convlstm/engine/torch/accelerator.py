"""The fused implementation on an accelerator, without what only a CPU needs.

    z_t = W_ih ∗ x_t + W_hh ∗ h_{t-1} + b

W_ih ∗ x is one convolution over all steps. Each step then takes one convolution of h and one pass over the gates, and
each step of the backward pass takes the same. The gradient of each kernel is one convolution over all steps. The host
reads no value and no memory is pooled, so that CUDA graphs can capture a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from convlstm.engine.torch.accelerator_gates import on_device, step_gates
from convlstm.engine.torch.convolution import CONVOLUTIONS, UNIT, Form, padded
from convlstm.engine.torch.direct import DirectConvolutions
from convlstm.engine.torch.fused_plan import Plan
from convlstm.engine.torch.gates import peephole_gradient, sum_over_points
from convlstm.engine.torch.precision import wide_type
from convlstm.spec.geometry import Widths

_MAX_KEPT_VALUES = 2**31 - 1
"""Most values of W_ih ∗ x in training, which keeps them, for one convolution: the indices of cuDNN have 32 bits."""
_MAX_CHUNK_BYTES = 1 << 30
"""Most bytes of W_ih ∗ x of a chunk of steps, in inference and above the other limit. It was not measured."""


def serves(like: Tensor) -> bool:
    """Return whether this implementation computes arrays on the device of this one."""
    return like.device.type != "cpu"


def run(
    plan: Plan, inputs: Sequence[Tensor | None], *, save: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Return outputs, final h and c, the activated gates, and h and c of all T + 1 steps; `save` keeps all of them.

    The inputs are x, h and c before the first step, and W_ih, b, W_hh and the peepholes. The gates are i, f, g and o.
    """
    x, h, c, weight_ih, bias, weight_hh, peephole = inputs
    assert weight_hh is not None
    convolved = AcceleratorConvolutions(plan, x, weight_ih, None, weight_hh)
    arithmetic = step_gates(plan, weight_hh, bias, peephole)
    hidden = plan.empty(plan.steps + 1, plan.shape, weight_hh)
    cells = plan.empty(plan.steps + 1 if save else 1, plan.shape, weight_hh, wide_type(weight_hh.dtype))
    start, end = plan.time_order[0][1], plan.time_order[-1][2]
    _write_state(hidden[start], h)
    _write_state(cells[start if save else 0], c)
    chunks = _chunks(plan, weight_hh, save=save)
    gates = plan.empty(plan.steps if save and (x is None or len(chunks) > 1) else 0, plan.gate_shape, weight_hh)
    with on_device(weight_hh):
        for chunk in chunks:
            terms = convolved.input_terms(chunk)
            if save and terms is not None and len(chunks) == 1:
                gates = terms
            for t, before, after in plan.time_order_of(chunk):
                z_x = None if terms is None else terms[t - chunk.start]
                recurrent = None if before == start and h is None else convolved.recurrent_term(hidden[before])
                kept = z_x if gates is terms else gates[t] if save else None
                c_before, c_after = (cells[before], cells[after]) if save else (cells[0], cells[0])
                arithmetic.forward(z_x, recurrent, c_before, c_after, hidden[after], kept)
    # no views of an array that autograd knows: the caller may detach or change them in place
    c_end = cells[end].clone() if save else cells[0].detach()
    return hidden[plan.after].data, hidden[end].clone(), c_end, gates, (hidden, cells)


def gradients(
    plan: Plan,
    inputs: Sequence[Tensor | None],
    hidden: Tensor,
    cells: Tensor,
    gates: Tensor,
    d_results: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of the inputs of `run` from those of outputs, h and c; dz overwrites the gates."""
    x, h, _, weight_ih, bias, weight_hh, peephole = inputs
    assert weight_hh is not None
    convolved = AcceleratorConvolutions(plan, x, weight_ih, None, weight_hh, (needed[0], needed[3], needed[5]))
    arithmetic = step_gates(plan, weight_hh, bias, peephole)
    d_outputs, recurrent, dc_final = d_results  # dh of the last step is that of its output and of the final h
    dc = torch.zeros_like(cells[0]) if dc_final is None else torch.empty_like(cells[0]).copy_(dc_final)
    with on_device(weight_hh):
        for number in reversed(range(plan.steps)):
            t, before, after = plan.time_order[number]
            d_output = None if d_outputs is None else d_outputs[t]
            arithmetic.backward(gates[t], cells[before], cells[after], recurrent, d_output, dc)
            recurrent = convolved.backward_term(gates[t]) if number or needed[1] else None
        dx, dw_ih, dw_hh = convolved.gradients(hidden, gates, zero_initial_state=h is None)
    d_bias = d_peephole = None
    if bias is not None and needed[4]:
        d_bias = sum_over_points(gates.flatten(0, 1))
    if peephole is not None and needed[6]:
        d_peephole = peephole_gradient(gates, cells[plan.before], cells[plan.after])
    return [dx, recurrent, dc if needed[2] else None, dw_ih, d_bias, dw_hh, d_peephole]


def _chunks(plan: Plan, like: Tensor, *, save: bool) -> list[slice]:
    """Return the steps whose inputs are convolved together, in time order: all of them, if memory permits."""
    values_per_step = prod(plan.gate_shape)
    if save and plan.steps * values_per_step <= _MAX_KEPT_VALUES:
        return plan.chunks_of(plan.steps)
    return plan.chunks_of(max(1, _MAX_CHUNK_BYTES // like.dtype.itemsize // values_per_step))


def _write_state(slot: Tensor, state: Tensor | None) -> None:
    if state is None:
        slot.zero_()
    else:
        slot.copy_(state)


class AcceleratorConvolutions(DirectConvolutions):
    """Convolutions whose results are new arrays: no kernel is packed and nothing is added inside a convolution."""

    def input_terms(self, chunk: slice) -> Tensor | None:
        """Return W_ih ∗ x of a chunk of steps (time, batch, 4·hidden, *grid), None without an input."""
        if self.x is None or self.weight_ih is None:
            return None
        layer = self.plan.layer
        frames = self.x[chunk]
        flat, padding = self._padded_input(frames)
        convolve = CONVOLUTIONS[self.plan.rank]
        z = convolve(flat, self._input_kernel, None, layer.stride, padding, layer.dilation)
        return self.plan.with_time(z, len(frames))

    def recurrent_term(self, h: Tensor) -> Tensor:
        """Return W_hh ∗ h (batch, 4·hidden, *grid)."""
        h, padding = padded(h, self._widths)
        return CONVOLUTIONS[self.plan.rank](h, self._kernel, None, 1, padding, self.plan.layer.recurrent_dilation)

    def backward_term(self, dz: Tensor) -> Tensor:
        """Return the gradient of the h that a step convolved, which follows from dz."""
        dz, padding = padded(dz, self._flipped_widths)
        dilation = self.plan.layer.recurrent_dilation
        return CONVOLUTIONS[self.plan.rank](dz, self._flipped_kernel, None, 1, padding, dilation)

    def _in_fast_layout(self, weight: Tensor, size: Sequence[int], widths: Widths, form: Form = UNIT) -> Tensor:
        return self.plan.kernel(weight)

    def _input_gradients(self, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and W_ih from all steps at once."""
        needed = self.needed[:2]
        if self.x is None or self.weight_ih is None or not any(needed):
            return None, None
        return self._chunk_gradients(self.x, self.weight_ih, dz, needed)
