"""The convolutions of one layer over a sequence in the fused implementation; W_ih ∗ x for many steps at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.engine.torch.convolution import (
    CONVOLUTIONS,
    Form,
    add_convolution,
    can_add,
    channels_last_strides,
    contiguous_strides,
    is_channels_last,
    padded,
    prepack,
)
from convlstm.engine.torch.fixed_weights import are_fixed, cached
from convlstm.engine.torch.fused_plan import Plan, flatten_time
from convlstm.spec.geometry import Widths

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class DirectConvolutions:
    """W_ih ∗ x and W_hh ∗ h, computed separately; `needed` says which gradients are: of x, W_ih and W_hh."""

    plan: Plan
    x: Tensor | None
    weight_ih: Tensor | None
    bias: Tensor | None
    weight_hh: Tensor
    needed: tuple[bool, bool, bool] = (False, False, False)

    def write_input_terms(self, z: Tensor, chunk: slice) -> None:
        """Write W_ih ∗ x + b of a chunk of steps to z (time, batch, 4·hidden, *grid)."""
        if self.x is None or self.weight_ih is None:
            self._write_bias(z)
            return
        layer, bias = self.plan.layer, self.bias
        flat, padding = self._padded_input(self.x[chunk])
        kernel, form = self._input_kernel, (layer.stride, layer.dilation)
        if can_add(flat) and is_channels_last(kernel):
            widths = tuple((n, n) for n in padding)
            add_convolution(flatten_time(z.zero_()), flat, kernel, widths, bias, form)
        else:
            flat, padding = padded(flat, tuple((n, n) for n in padding))
            convolve = CONVOLUTIONS[self.plan.rank]
            flatten_time(z).copy_(convolve(flat, kernel, bias, layer.stride, padding, layer.dilation))

    def add_recurrent_term(self, z: Tensor, t: int, h: Tensor | None) -> None:
        """Add W_hh ∗ h to z of step t; an h of None is zero."""
        if h is not None:
            add_convolution(z, h, self._kernel, self._widths, form=self._form)

    def backward(self, dz: Tensor, dh: Tensor) -> None:
        """Add the gradient of the h that a step convolved, which follows from dz, to dh in place."""
        add_convolution(dh, dz, self._flipped_kernel, self._flipped_widths, form=self._form)

    def gradients(self, hidden: Tensor, dz: Tensor, *, zero_initial_state: bool) -> Gradients:
        """Return the gradients of x, W_ih and W_hh, None for those not needed, from h of T + 1 steps and dz of T."""
        dx, dw_ih = self._input_gradients(dz)
        return dx, dw_ih, self._recurrent_gradient(hidden, dz, zero_initial_state=zero_initial_state)

    @cached_property
    def _widths(self) -> tuple[tuple[int, int], ...]:
        return self.plan.layer.recurrent_widths

    @property
    def _form(self) -> Form:
        return (), self.plan.layer.recurrent_dilation

    @property
    def _flipped_widths(self) -> tuple[tuple[int, int], ...]:
        return tuple((after, before) for before, after in self._widths)

    @cached_property
    def _kernel(self) -> Tensor:
        return self._in_fast_layout(self.weight_hh, self.plan.shape, self._widths, self._form)

    @cached_property
    def _flipped_kernel(self) -> Tensor:
        flipped = self.weight_hh.flip(tuple(range(2, self.weight_hh.ndim))).transpose(0, 1)
        return self._in_fast_layout(flipped, self.plan.gate_shape, self._flipped_widths, self._form)

    @cached_property
    def _input_kernel(self) -> Tensor:
        """W_ih in the layout for a full chunk of steps; a shorter last chunk accepts it too."""
        plan, x, weight = self.plan, self.x, self.weight_ih
        assert x is not None
        assert weight is not None
        size, form = (plan.steps_per_chunk * x.shape[1], *x.shape[2:]), (plan.layer.stride, plan.layer.dilation)
        return self._in_fast_layout(weight, size, plan.input_widths(x.shape[3:]), form)

    def _in_fast_layout(self, weight: Tensor, size: Sequence[int], widths: Widths, form: Form) -> Tensor:
        """Return a kernel in the layout in which its convolutions are fastest; a single step does not repay a copy.

        Fixed weights are reordered once. Kernels with one channel stay as they are: they fit either layout, and oneDNN
        takes the faster one.
        """
        if 1 in weight.shape[:2] or not can_add(weight):
            return self.plan.kernel(weight)
        if are_fixed([weight]):
            key = (tuple(size), widths, *map(tuple, form))
            return cached([weight], key, lambda: prepack(weight.contiguous(), size, widths, form))
        if self.plan.steps > 1:
            return prepack(weight.contiguous(), size, widths, form)
        return self.plan.kernel(weight)

    def _write_bias(self, z: Tensor) -> None:
        if self.bias is None:
            z.zero_()
        else:
            z.copy_(self.bias.reshape(-1, *(1,) * self.plan.rank))

    def _padded_input(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return frames as one batch, channels last, and the padding that is left to the convolution."""
        plan, widths = self.plan, self.plan.input_widths(x.shape[3:])
        if any(before != after for before, after in widths):
            x, widths = F.pad(x, [n for width in reversed(widths) for n in width]), ((0, 0),) * plan.rank
        batch = channels_last_strides(plan.channels_last_batch(x), plan.layer.stride)
        return batch, [before for before, _ in widths]

    def _input_gradients(self, dz: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and W_ih: of all steps at once, or of one chunk at a time where x is copied."""
        plan, x, needed = self.plan, self.x, self.needed[:2]
        if x is None or self.weight_ih is None or not any(needed):
            return None, None
        chunks = [slice(0, plan.steps)]
        if not plan.is_channels_last(x):
            chunks = sorted(plan.chunks, key=lambda chunk: chunk.start)
        gradients = (self._chunk_gradients(x[chunk], self.weight_ih, dz[chunk], needed) for chunk in chunks)
        dx_of_chunks, dw_of_chunks = zip(*gradients, strict=True)
        dx = dw_ih = None
        if needed[0]:
            dx = dx_of_chunks[0] if len(chunks) == 1 else torch.cat(dx_of_chunks)
        if needed[1]:
            dw_ih = sum(dw_of_chunks[1:], dw_of_chunks[0])
        return dx, dw_ih

    def _chunk_gradients(self, x: Tensor, weight: Tensor, dz: Tensor, needed: tuple[bool, bool]) -> tuple[Any, Any]:
        plan = self.plan
        flat, padding = self._padded_input(x)
        form = (plan.layer.stride, padding, plan.layer.dilation, False, [0] * plan.rank, 1)
        d_flat, dw_ih, _ = torch.ops.aten.convolution_backward(
            flatten_time(dz), flat, contiguous_strides(weight), None, *form, (*needed, False)
        )
        if not needed[0]:
            return None, dw_ih
        if flat.shape[2:] != x.shape[3:]:
            d_flat = F.pad(d_flat, [-n for width in reversed(plan.input_widths(x.shape[3:])) for n in width])
        return d_flat.unflatten(0, x.shape[:2]), dw_ih

    def _recurrent_gradient(self, hidden: Tensor, dz: Tensor, *, zero_initial_state: bool) -> Tensor | None:
        """Return the gradient of W_hh from all steps at once; a zero initial state contributes nothing."""
        plan = self.plan
        if not self.needed[2]:
            return None
        before = hidden[plan.before]
        if zero_initial_state:
            later_steps = slice(0, -1) if plan.reverse else slice(1, None)
            before, dz = before[later_steps], dz[later_steps]
        if not len(before):
            return torch.zeros_like(self.weight_hh)
        h, padding = padded(contiguous_strides(flatten_time(before)), self._widths)
        ones, zero, dilation = [1] * plan.rank, [0] * plan.rank, plan.layer.recurrent_dilation
        arguments = (None, ones, padding, dilation, False, zero, 1, (False, True, False))
        dw_hh: Tensor = torch.ops.aten.convolution_backward(flatten_time(dz), h, self.weight_hh, *arguments)[1]
        return dw_hh
