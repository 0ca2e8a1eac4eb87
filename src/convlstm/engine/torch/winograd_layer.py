"""The convolutions of one layer over a sequence by Winograd's algorithm, where it is faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convlstm.engine.torch import winograd_rule as rule
from convlstm.engine.torch.convolution import can_add
from convlstm.engine.torch.direct import DirectConvolutions, Gradients
from convlstm.engine.torch.fixed_weights import are_fixed
from convlstm.engine.torch.fused_plan import Plan, flatten_time
from convlstm.engine.torch.modes import matmul_is_float32
from convlstm.engine.torch.native import is_native
from convlstm.engine.torch.winograd import NativeWinograd, Winograd


def convolutions(
    plan: Plan,
    x: Tensor | None,
    weight_ih: Tensor | None,
    bias: Tensor | None,
    weight_hh: Tensor,
    needed: tuple[bool, bool, bool] = (False, False, False),
) -> DirectConvolutions:
    """Return the faster implementation of a layer's convolutions."""
    size = tuple(plan.shape[2:] if x is None else x.shape[3:])
    weights = [weight for weight in (weight_ih, weight_hh) if weight is not None]
    has_fixed_weights = not any(needed) and are_fixed(weights)
    is_faster = (
        weight_hh.dtype == torch.float32
        and rule.is_faster(plan.layer, plan.steps, plan.shape[0], size, has_fixed_weights=has_fixed_weights)
        and can_add(weight_hh)
        and matmul_is_float32()
    )
    implementation = WinogradConvolutions if is_faster else DirectConvolutions
    return implementation(plan, x, weight_ih, bias, weight_hh, needed)


@dataclass(frozen=True)
class WinogradConvolutions(DirectConvolutions):
    """W_ih ∗ x + W_hh ∗ h as one convolution per step; W_ih ∗ x separately where its form differs."""

    def write_input_terms(self, z: Tensor, chunk: slice) -> None:
        """Write b of a chunk of steps to z, and W_ih ∗ x if it is computed separately."""
        if self._joint is None:
            super().write_input_terms(z, chunk)
        else:
            self._write_bias(z)

    def add_recurrent_term(self, z: Tensor, t: int, h: Tensor | None) -> None:
        """Add W_hh ∗ h to z of step t, and W_ih ∗ x if it is computed together; an h of None is zero."""
        inputs = (h,) if self._joint is None else (self._joint[t], h)
        if any(array is not None for array in inputs):
            self._winograd.add(z, inputs)

    def backward(self, dz: Tensor, dh: Tensor) -> None:
        """Add the gradient of the h that a step convolved, which follows from dz, to dh in place."""
        self._winograd.backward(dz, d_inputs=(dh,) if self._joint is None else (None, dh))

    def gradients(self, hidden: Tensor, dz: Tensor, *, zero_initial_state: bool) -> Gradients:
        """Return the gradients of x, W_ih and W_hh, None for those that are not needed."""
        plan, x, winograd = self.plan, self._joint, self._winograd
        needs_dx, needs_dw_ih, needs_dw_hh = self.needed
        dx = None
        if x is not None and needs_dx:
            dx = plan.empty(plan.steps, x.shape[1:], x).zero_()
        for chunk, h_is_zero in self._gradient_chunks(zero_initial_state=zero_initial_state):
            h = frames = d_frames = None
            if needs_dw_hh and not h_is_zero:
                h = flatten_time(hidden[plan.before][chunk])
            if x is not None and needs_dw_ih:
                frames = plan.channels_last_batch(x[chunk])
            if dx is not None:
                d_frames = flatten_time(dx[chunk])
            if h is None and frames is None and d_frames is None:
                continue
            if x is None:
                winograd.backward(flatten_time(dz[chunk]), (h,))
            else:
                winograd.backward(flatten_time(dz[chunk]), (frames, h), (d_frames, None))
        dw: Sequence[Tensor | None] = [None] * len(winograd.weights)
        if needs_dw_ih or needs_dw_hh:
            dw = winograd.weight_gradients()
        if len(dw) == 2:
            return dx, dw[0], dw[1]
        dx, dw_ih = self._input_gradients(dz)
        return dx, dw_ih, dw[0]

    @cached_property
    def _joint(self) -> Tensor | None:
        """The frames if they are convolved together with h, else None."""
        return self.x if self.x is not None and rule.is_joint(self.plan.layer, self.x.shape[3:]) else None

    @cached_property
    def _winograd(self) -> Winograd:
        weights = [self.weight_hh]
        if self._joint is not None and self.weight_ih is not None:
            weights = [self.weight_ih, self.weight_hh]
        samples = rule.samples(self.plan.layer, self.plan.shape[2:])
        implementation = NativeWinograd if is_native(self.weight_hh) else Winograd
        return implementation(weights, [before for before, _ in self._widths], samples)

    def _gradient_chunks(self, *, zero_initial_state: bool) -> Iterator[tuple[slice, bool]]:
        """Yield the steps to compute together and whether their h is zero: the first step alone, if the state was."""
        plan = self.plan
        length = max(1, rule.samples(plan.layer, plan.shape[2:]) // plan.shape[0])
        first_step = plan.time_order[0][0]
        start, stop = 0, plan.steps
        if zero_initial_state and plan.reverse:
            stop -= 1
        elif zero_initial_state:
            start = 1
        for n in range(start, stop, length):
            yield slice(n, min(n + length, stop)), False
        if zero_initial_state:
            yield slice(first_step, first_step + 1), True
