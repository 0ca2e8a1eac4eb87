"""The convolutions of one layer over a sequence by Winograd's way, where that is quicker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from convlstm.engine.torch import winograd_rule as rule
from convlstm.engine.torch.convolution import can_add
from convlstm.engine.torch.direct import DirectConvolutions, Gradients
from convlstm.engine.torch.modes import multiplies_exactly
from convlstm.engine.torch.native import is_native
from convlstm.engine.torch.plan import Plan, in_one_batch
from convlstm.engine.torch.winograd import NativeWinograd, Winograd


def convolutions(
    plan: Plan,
    x: Tensor | None,
    weight_ih: Tensor | None,
    bias: Tensor | None,
    weight_hh: Tensor,
    needed: tuple[bool, bool, bool] = (False, False, False),
) -> DirectConvolutions:
    """Return the quicker way to compute a layer's convolutions; the arguments are those of either."""
    size = tuple(plan.shape[2:] if x is None else x.shape[3:])
    quicker = (
        weight_hh.dtype == torch.float32
        and rule.is_quicker(plan.layer, plan.steps, plan.shape[0], size)
        and can_add(weight_hh)
        and multiplies_exactly()
    )
    kind = WinogradConvolutions if quicker else DirectConvolutions
    return kind(plan, x, weight_ih, bias, weight_hh, needed)


@dataclass(frozen=True)
class WinogradConvolutions(DirectConvolutions):
    """W_ih ∗ x + W_hh ∗ h as one convolution, step by step; the input's by itself where its form is another."""

    def fill(self, z: Tensor, span: slice) -> None:
        """Write what some steps have beforehand: b, and W_ih ∗ x if the input's form is another."""
        super().fill(z, span) if self._joint is None else self._fill_with_bias(z)

    def add(self, z: Tensor, t: int, h: Tensor | None) -> None:
        """Add the rest of step t."""
        inputs = (h,) if self._joint is None else (self._joint[t], h)
        if any(part is not None for part in inputs):
            self._winograd.add(z, inputs)

    def go_back(self, of_z: Tensor, dh: Tensor) -> None:
        """Add the gradient of a step's h, that of z given, to dh in place."""
        self._winograd.go_back(of_z, of_inputs=(dh,) if self._joint is None else (None, dh))

    def gradients(self, hidden: Tensor, of_z: Tensor, *, whole: bool) -> Gradients:
        """Return the gradients of x, W_ih and W_hh, as far as they are needed, when all steps have gone back."""
        plan, x, winograd = self.plan, self._joint, self._winograd
        of_x = None if x is None or not self.needed[0] else plan.empty(plan.steps, x.shape[1:], x).zero_()
        for span, from_zeros in self._spans(whole=whole):
            h = in_one_batch(hidden[plan.before][span]) if self.needed[2] and not from_zeros else None
            frames = plan.in_order(x[span]) if x is not None and self.needed[1] else None
            of_frames = None if of_x is None else in_one_batch(of_x[span])
            if any(array is not None for array in (h, frames, of_frames)):
                inputs, of_inputs = ((h,), ()) if x is None else ((frames, h), (of_frames, None))
                winograd.go_back(in_one_batch(of_z[span]), inputs, of_inputs)
        *joint, of_w_hh = winograd.weight_gradients() if any(self.needed[1:]) else [None] * len(winograd.weights)
        of_x, of_w_ih = (of_x, joint[0]) if joint else self._input_gradients(of_z)
        return of_x, of_w_ih, of_w_hh

    @cached_property
    def _joint(self) -> Tensor | None:
        """The frames, if they are convolved together with h."""
        return self.x if self.x is not None and rule.is_joint(self.plan.layer, self.x.shape[3:]) else None

    @cached_property
    def _winograd(self) -> Winograd:
        joint = [] if self._joint is None or self.weight_ih is None else [self.weight_ih]
        samples = rule.samples(self.plan.layer, self.plan.shape[2:])
        kind = NativeWinograd if is_native(self.weight_hh) else Winograd
        return kind([*joint, self.weight_hh], [before for before, _ in self._widths], samples)

    def _spans(self, *, whole: bool) -> Iterator[tuple[slice, bool]]:
        """Return steps to take together; the first by itself if it saw zeros, without the `whole`."""
        plan = self.plan
        together = max(1, rule.samples(plan.layer, plan.shape[2:]) // plan.shape[0])
        start, stop = (0, plan.steps) if whole else (0, plan.steps - 1) if plan.reverse else (1, plan.steps)
        for n in range(start, stop, together):
            yield slice(n, min(n + together, stop)), False
        if not whole:
            yield slice(plan.route[0][0], plan.route[0][0] + 1), True
