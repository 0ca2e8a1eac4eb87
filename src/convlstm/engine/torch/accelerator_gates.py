"""The gates of one step on an accelerator: one kernel of Triton, or PyTorch's operations where it is missing.

    i, f, o = σ(z),  g = tanh(z_g),  c_t = f ∘ c_{t-1} + i ∘ g,  h_t = o ∘ tanh(c_t)

Both forms compute in the type of c and keep i, f, g and o in the type of z, so that one may follow the other.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from convlstm.engine.torch.fused_plan import Plan
from convlstm.engine.torch.modes import is_traced
from convlstm.engine.torch.precision import wide_type
from convlstm.engine.torch.switches import is_enabled

SWITCH = "CONVLSTM_TRITON"
"""Environment variable that switches the kernels of Triton off while it is 0."""

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_COMPILES: dict[int, bool] = {}
"""Whether Triton compiles the kernels, by the number of the CUDA device."""


def step_gates(plan: Plan, like: Tensor, bias: Tensor | None, peephole: Tensor | None) -> TorchStepGates | Any:
    """Return the implementation for a layer whose h has the type and device of `like`."""
    if triton_serves(like):
        arrays = (None if array is None else array.contiguous() for array in (bias, peephole))
        return _triton_gates().TritonStepGates(plan.shape, plan.memory_format, *arrays)
    shape = (-1, *(1,) * plan.rank)
    wide = wide_type(like.dtype)
    return TorchStepGates(
        plan.gate_shape,
        None if bias is None else bias.to(wide).reshape(shape),
        None if peephole is None else peephole.to(wide).reshape(3, *shape).unbind(),
    )


def triton_serves(like: Tensor) -> bool:
    """Return whether the kernels of Triton can compute arrays like this one now."""
    return (
        like.device.type == "cuda"
        and like.dtype in _TYPES
        and is_enabled(SWITCH, "the kernels of Triton")
        and not is_traced()
        and _compiles(like.device.index)
    )


def on_device(like: Tensor) -> AbstractContextManager[Any]:
    """Select the device of a tensor, on which Triton starts its kernels."""
    return torch.cuda.device(like.device) if triton_serves(like) else nullcontext()


def _compiles(index: int) -> bool:
    """Return whether Triton is installed and compiles the kernels for this device; no value is read back."""
    if index not in _COMPILES:
        if torch.cuda.is_current_stream_capturing():
            return False  # nothing can be compiled now: a CUDA graph needs a call before its capture
        _COMPILES[index] = _is_importable() and _can_compile(torch.device("cuda", index))
    return _COMPILES[index]


def _is_importable() -> bool:
    """Return whether Triton is installed and its import cannot end the process.

    Triton and TensorFlow contain LLVM each. Where TensorFlow was imported first, the import of Triton aborts.
    """
    if "triton" in sys.modules:
        return True
    return "tensorflow" not in sys.modules and find_spec("triton") is not None


def _can_compile(device: torch.device) -> bool:
    try:
        _triton_gates().compile_for(device)
    except Exception:  # Triton, its C compiler and the driver raise errors of many classes
        return False
    return True


def _triton_gates() -> Any:
    return import_module("convlstm.engine.torch.triton_gates")


@dataclass(frozen=True)
class TorchStepGates:
    """PyTorch's operations, in place; bias and peepholes are in the type of c and broadcast over points."""

    gate_shape: tuple[int, ...]
    bias: Tensor | None
    peepholes: tuple[Tensor, ...] | None

    def forward(
        self,
        z_x: Tensor | None,
        recurrent: Tensor | None,
        c_before: Tensor,
        c_after: Tensor,
        h: Tensor,
        kept: Tensor | None,
    ) -> None:
        """Write c, h and, if they are kept, the gates of a step from both terms of z; the terms may be overwritten."""
        z = self._sum(z_x, recurrent, c_before)
        i, f, g, o = z.chunk(4, dim=1)
        if self.peepholes is not None:
            i.addcmul_(self.peepholes[0], c_before)
            f.addcmul_(self.peepholes[1], c_before)
        z[:, : 2 * i.shape[1]].sigmoid_()
        g.tanh_()
        torch.mul(f, c_before, out=c_after).addcmul_(i, g)
        if self.peepholes is not None:
            o.addcmul_(self.peepholes[2], c_after)
        o.sigmoid_()
        if h.dtype == o.dtype:
            torch.mul(o, torch.tanh(c_after), out=h)
        else:
            h.copy_(torch.tanh(c_after).mul_(o))
        if kept is not None and (kept is not z_x or z is not z_x):
            kept.copy_(z)

    def backward(
        self,
        gates: Tensor,
        c_before: Tensor,
        c_after: Tensor,
        recurrent: Tensor | None,
        d_output: Tensor | None,
        dc: Tensor,
    ) -> None:
        """Turn the gates into dz in place, and dc into the gradient of the previous cell state.

        The gradient of h is `recurrent` + `d_output`; either may be None.
        """
        aten = torch.ops.aten
        wide = gates.to(dc.dtype)
        i, f, g, o = wide.chunk(4, dim=1)
        if recurrent is None and d_output is None:
            do = torch.zeros_like(dc)
        else:
            dh = _sum_of(recurrent, d_output).to(dc.dtype)
            tanh_c = torch.tanh(c_after)
            do = dh * tanh_c
            dc.add_(aten.tanh_backward(dh.mul(o), tanh_c))
        aten.sigmoid_backward.grad_input(do, o, grad_input=o)  # from here on, the gates turn into dz
        if self.peepholes is not None:
            dc.addcmul_(self.peepholes[2], o)
        di, df, dg = dc * g, dc * c_before, dc * i
        dc.mul_(f)
        aten.sigmoid_backward.grad_input(di, i, grad_input=i)
        aten.sigmoid_backward.grad_input(df, f, grad_input=f)
        aten.tanh_backward.grad_input(dg, g, grad_input=g)
        if self.peepholes is not None:
            dc.addcmul_(self.peepholes[0], i).addcmul_(self.peepholes[1], f)
        if wide is not gates:
            gates.copy_(wide)

    def _sum(self, z_x: Tensor | None, recurrent: Tensor | None, c: Tensor) -> Tensor:
        if z_x is None and recurrent is None:
            z = c.new_zeros(self.gate_shape)
        elif z_x is None or recurrent is None:
            z = _sum_of(z_x, recurrent).to(c.dtype)
        else:
            z = z_x.to(c.dtype).add_(recurrent)
        return z if self.bias is None else z.add_(self.bias)


def _sum_of(first: Tensor | None, second: Tensor | None) -> Tensor:
    if first is None or second is None:
        present = second if first is None else first
        assert present is not None
        return present
    return first + second
