"""The convolutions of one layer over a sequence, in the quick path: the input's over many steps at once."""

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
    UNIT,
    Form,
    add_convolution,
    can_add,
    is_in_order,
    one_channel_last,
    packed,
    padded,
    unambiguous,
)
from convlstm.engine.torch.plan import Plan, in_one_batch
from convlstm.spec.geometry import Widths, recurrent_pad_widths

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


@dataclass(frozen=True)
class DirectConvolutions:
    """W_ih ∗ x and W_hh ∗ h, each by itself.

    Args:
        plan: The layer and its sequence.
        x: Frames, time first, or None for a layer without input.
        weight_ih: Kernel over the frames, or None.
        bias: b, or None.
        weight_hh: Kernel over the states.
        needed: Whether the gradients of x, W_ih and W_hh are wanted.
    """

    plan: Plan
    x: Tensor | None
    weight_ih: Tensor | None
    bias: Tensor | None
    weight_hh: Tensor
    needed: tuple[bool, bool, bool] = (False, False, False)

    def fill(self, z: Tensor, span: slice) -> None:
        """Write what some steps (time, batch, 4·hidden, *grid) have of the input and the bias: W_ih ∗ x + b."""
        if self.x is None or self.weight_ih is None:
            self._fill_with_bias(z)
            return
        plan, layer, bias = self.plan, self.plan.layer, self.bias
        flat, padding = self._padded_input(self.x[span])
        kernel, form = self._input_kernel, (layer.stride, layer.dilation)
        if can_add(flat) and is_in_order(kernel):
            add_convolution(in_one_batch(z.zero_()), flat, kernel, tuple((n, n) for n in padding), bias, form)
        else:
            flat, padding = padded(flat, tuple((n, n) for n in padding))
            in_one_batch(z).copy_(CONVOLUTIONS[plan.rank](flat, kernel, bias, layer.stride, padding, layer.dilation))

    def add(self, z: Tensor, t: int, h: Tensor | None) -> None:
        """Add what step t has besides: W_hh ∗ h, if h is not zero."""
        if h is not None:
            add_convolution(z, h, self._kernel, self._widths)

    def go_back(self, of_z: Tensor, dh: Tensor) -> None:
        """Add the gradient of a step's h, that of z given, to dh in place."""
        add_convolution(dh, of_z, self._turned, self._turned_widths)

    def gradients(self, hidden: Tensor, of_z: Tensor, *, whole: bool) -> Gradients:
        """Return the gradients of x, W_ih and W_hh, as far as they are needed, when all steps have gone back.

        Without the `whole` the first step saw zeros.
        """
        return *self._input_gradients(of_z), self._recurrent_gradient(hidden, of_z, whole=whole)

    @cached_property
    def _widths(self) -> tuple[tuple[int, int], ...]:
        return recurrent_pad_widths(self.plan.layer.recurrent_kernel_size)

    @property
    def _turned_widths(self) -> tuple[tuple[int, int], ...]:
        return tuple((after, before) for before, after in self._widths)

    @cached_property
    def _kernel(self) -> Tensor:
        return self._ready(self.weight_hh, self.plan.shape, self._widths)

    @cached_property
    def _turned(self) -> Tensor:
        turned = self.weight_hh.flip(tuple(range(2, self.weight_hh.ndim))).transpose(0, 1)
        return self._ready(turned, self.plan.gate_shape, self._turned_widths)

    @cached_property
    def _input_kernel(self) -> Tensor:
        """W_ih for as many steps as go together; the last may be fewer, which any order serves."""
        plan, x, weight = self.plan, self.x, self.weight_ih
        assert x is not None
        assert weight is not None
        size, form = (plan.group * x.shape[1], *x.shape[2:]), (plan.layer.stride, plan.layer.dilation)
        return self._ready(weight, size, plan.input_widths(x.shape[3:]), form)

    def _ready(self, weight: Tensor, size: Sequence[int], widths: Widths, form: Form = UNIT) -> Tensor:
        """Return a kernel in the order that its convolutions want; for a single step it is not worth a copy.

        Kernels with one channel are left alone: their arrays fit either order, and oneDNN takes the quicker one.
        """
        if self.plan.steps > 1 and 1 not in weight.shape[:2] and can_add(weight):
            return packed(weight.contiguous(), size, widths, form)
        return self.plan.kernel(weight)

    def _fill_with_bias(self, z: Tensor) -> None:
        z.zero_() if self.bias is None else z.copy_(self.bias.reshape(-1, *(1,) * self.plan.rank))

    def _padded_input(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """Return frames in one batch, channels last, and what padding is left to the convolution."""
        plan, widths = self.plan, self.plan.input_widths(x.shape[3:])
        if any(before != after for before, after in widths):
            x, widths = F.pad(x, [n for width in reversed(widths) for n in width]), ((0, 0),) * plan.rank
        return one_channel_last(plan.in_order(x), plan.layer.stride), [before for before, _ in widths]

    def _input_gradients(self, of_z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of x and W_ih: from all steps at once, or as many as have their input put in order."""
        plan, x, needed = self.plan, self.x, self.needed[:2]
        if x is None or self.weight_ih is None or not any(needed):
            return None, None
        spans = [slice(0, plan.steps)] if plan.is_in_order(x) else sorted(plan.spans, key=lambda span: span.start)
        parts = (self._gradients_of_part(x[span], self.weight_ih, of_z[span], needed) for span in spans)
        of_x, of_weights = zip(*parts, strict=True)
        whole = None if not needed[0] else of_x[0] if len(spans) == 1 else torch.cat(of_x)
        return whole, (sum(of_weights[1:], of_weights[0]) if needed[1] else None)

    def _gradients_of_part(self, x: Tensor, weight: Tensor, of_z: Tensor, needed: tuple[bool, bool]) -> tuple[Any, Any]:
        plan = self.plan
        flat, padding = self._padded_input(x)
        form = (plan.layer.stride, padding, plan.layer.dilation, False, [0] * plan.rank, 1)
        of_flat, of_weight, _ = torch.ops.aten.convolution_backward(
            in_one_batch(of_z), flat, unambiguous(weight), None, *form, (*needed, False)
        )
        if not needed[0]:
            return None, of_weight
        if flat.shape[2:] != x.shape[3:]:
            of_flat = F.pad(of_flat, [-n for width in reversed(plan.input_widths(x.shape[3:])) for n in width])
        return of_flat.unflatten(0, x.shape[:2]), of_weight

    def _recurrent_gradient(self, hidden: Tensor, of_z: Tensor, *, whole: bool) -> Tensor | None:
        """Return the gradient of W_hh from all steps at once; a first step that saw zeros has no part."""
        plan = self.plan
        if not self.needed[2]:
            return None
        before = hidden[plan.before]
        if not whole:
            later = slice(0, -1) if plan.reverse else slice(1, None)
            before, of_z = before[later], of_z[later]
        if not len(before):
            return torch.zeros_like(self.weight_hh)
        h, padding = padded(unambiguous(in_one_batch(before)), self._widths)
        ones, zero = [1] * plan.rank, [0] * plan.rank
        arguments = (None, ones, padding, ones, False, zero, 1, (False, True, False))
        gradient: Tensor = torch.ops.aten.convolution_backward(in_one_batch(of_z), h, self.weight_hh, *arguments)[1]
        return gradient
