"""The gates of one step as one kernel of Triton, forward and backward.

z and the gates (batch, *grid, 4·hidden) are channels last, c and h (batch, *grid, hidden) too; in 1-D all are channels
first. So the values of one gate are `inner` consecutive ones: hidden of them, in 1-D hidden times the points. A value
of c has the number outer · inner + rest, and its gate k the number (4 · outer + k) · inner + rest.
The kernels compute in float32. `TRITON_INTERPRET=1` runs them on a CPU, for tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
"""Values of c per program. Not tuned: no accelerator was measured."""


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    square = x * x
    series = x * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0))))
    e = tl.exp(-2.0 * tl.abs(x))
    quotient = (1.0 - e) / (1.0 + e)
    # the quotient loses the digits of small values, and the series has an error of 2e-9 at 0.1
    return tl.where(tl.abs(x) < 0.1, series, tl.where(x < 0.0, -quotient, quotient))


@triton.jit
def _forward(
    z_x,
    recurrent,
    bias,
    peephole,
    c_before,
    c_after,
    h,
    kept,
    size,
    points,
    HIDDEN: tl.constexpr,
    IS_LARGE: tl.constexpr,
    HAS_INPUT: tl.constexpr,
    HAS_RECURRENT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_PEEPHOLE: tl.constexpr,
    KEEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    if IS_LARGE:
        program = program.to(tl.int64)
    n = program * BLOCK + tl.arange(0, BLOCK)
    mask = n < size
    inner = HIDDEN * points
    rest = n % inner
    gate = (n // inner) * (4 * inner) + rest
    channel = rest // points
    i = tl.zeros((BLOCK,), tl.float32)
    f = tl.zeros((BLOCK,), tl.float32)
    g = tl.zeros((BLOCK,), tl.float32)
    o = tl.zeros((BLOCK,), tl.float32)
    if HAS_INPUT:
        i += tl.load(z_x + gate, mask=mask, other=0.0).to(tl.float32)
        f += tl.load(z_x + gate + inner, mask=mask, other=0.0).to(tl.float32)
        g += tl.load(z_x + gate + 2 * inner, mask=mask, other=0.0).to(tl.float32)
        o += tl.load(z_x + gate + 3 * inner, mask=mask, other=0.0).to(tl.float32)
    if HAS_RECURRENT:
        i += tl.load(recurrent + gate, mask=mask, other=0.0).to(tl.float32)
        f += tl.load(recurrent + gate + inner, mask=mask, other=0.0).to(tl.float32)
        g += tl.load(recurrent + gate + 2 * inner, mask=mask, other=0.0).to(tl.float32)
        o += tl.load(recurrent + gate + 3 * inner, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        i += tl.load(bias + channel, mask=mask, other=0.0).to(tl.float32)
        f += tl.load(bias + channel + HIDDEN, mask=mask, other=0.0).to(tl.float32)
        g += tl.load(bias + channel + 2 * HIDDEN, mask=mask, other=0.0).to(tl.float32)
        o += tl.load(bias + channel + 3 * HIDDEN, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(c_before + n, mask=mask, other=0.0)
    if HAS_PEEPHOLE:
        i += tl.load(peephole + channel, mask=mask, other=0.0).to(tl.float32) * c
        f += tl.load(peephole + channel + HIDDEN, mask=mask, other=0.0).to(tl.float32) * c
    i = _sigmoid(i)
    f = _sigmoid(f)
    g = _tanh(g)
    c = f * c + i * g
    if HAS_PEEPHOLE:
        o += tl.load(peephole + channel + 2 * HIDDEN, mask=mask, other=0.0).to(tl.float32) * c
    o = _sigmoid(o)
    tl.store(c_after + n, c, mask=mask)
    tl.store(h + n, (o * _tanh(c)).to(h.dtype.element_ty), mask=mask)
    if KEEPS:
        tl.store(kept + gate, i.to(kept.dtype.element_ty), mask=mask)
        tl.store(kept + gate + inner, f.to(kept.dtype.element_ty), mask=mask)
        tl.store(kept + gate + 2 * inner, g.to(kept.dtype.element_ty), mask=mask)
        tl.store(kept + gate + 3 * inner, o.to(kept.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    gates,
    peephole,
    c_before,
    c_after,
    recurrent,
    d_output,
    dc,
    size,
    points,
    HIDDEN: tl.constexpr,
    IS_LARGE: tl.constexpr,
    HAS_RECURRENT: tl.constexpr,
    HAS_OUTPUT: tl.constexpr,
    HAS_PEEPHOLE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    program = tl.program_id(0)
    if IS_LARGE:
        program = program.to(tl.int64)
    n = program * BLOCK + tl.arange(0, BLOCK)
    mask = n < size
    inner = HIDDEN * points
    rest = n % inner
    gate = (n // inner) * (4 * inner) + rest
    channel = rest // points
    i = tl.load(gates + gate, mask=mask, other=0.0).to(tl.float32)
    f = tl.load(gates + gate + inner, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(gates + gate + 2 * inner, mask=mask, other=0.0).to(tl.float32)
    o = tl.load(gates + gate + 3 * inner, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(c_before + n, mask=mask, other=0.0)
    tanh_c = _tanh(tl.load(c_after + n, mask=mask, other=0.0))
    d_c = tl.load(dc + n, mask=mask, other=0.0)
    dh = tl.zeros((BLOCK,), tl.float32)
    if HAS_RECURRENT:
        dh += tl.load(recurrent + n, mask=mask, other=0.0).to(tl.float32)
    if HAS_OUTPUT:
        dh += tl.load(d_output + n, mask=mask, other=0.0).to(tl.float32)
    dz_o = dh * tanh_c * o * (1.0 - o)
    d_c += dh * o * (1.0 - tanh_c * tanh_c)
    if HAS_PEEPHOLE:
        d_c += tl.load(peephole + channel + 2 * HIDDEN, mask=mask, other=0.0).to(tl.float32) * dz_o
    dz_i = d_c * g * i * (1.0 - i)
    dz_f = d_c * c * f * (1.0 - f)
    dz_g = d_c * i * (1.0 - g * g)
    d_c *= f
    if HAS_PEEPHOLE:
        d_c += tl.load(peephole + channel, mask=mask, other=0.0).to(tl.float32) * dz_i
        d_c += tl.load(peephole + channel + HIDDEN, mask=mask, other=0.0).to(tl.float32) * dz_f
    tl.store(dc + n, d_c, mask=mask)
    tl.store(gates + gate, dz_i.to(gates.dtype.element_ty), mask=mask)
    tl.store(gates + gate + inner, dz_f.to(gates.dtype.element_ty), mask=mask)
    tl.store(gates + gate + 2 * inner, dz_g.to(gates.dtype.element_ty), mask=mask)
    tl.store(gates + gate + 3 * inner, dz_o.to(gates.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class TritonStepGates:
    """The kernels with the arguments of `TorchStepGates`, for c in float32; `shape` is that of h and c."""

    shape: tuple[int, ...]
    memory_format: torch.memory_format
    bias: Tensor | None
    peephole: Tensor | None

    def forward(
        self,
        z_x: Tensor | None,
        recurrent: Tensor | None,
        c_before: Tensor,
        c_after: Tensor,
        h: Tensor,
        kept: Tensor | None,
    ) -> None:
        """Write c, h and, if they are kept, the gates of a step from both terms of z."""
        z_x, recurrent = self._in_layout(z_x), self._in_layout(recurrent)
        _forward[self._programs](
            *(_or(array, h) for array in (z_x, recurrent, self.bias, self.peephole)),
            c_before,
            c_after,
            h,
            _or(kept, h),
            HAS_INPUT=z_x is not None,
            HAS_RECURRENT=recurrent is not None,
            HAS_BIAS=self.bias is not None,
            HAS_PEEPHOLE=self.peephole is not None,
            KEEPS=kept is not None,
            **self._sizes,
        )

    def backward(
        self,
        gates: Tensor,
        c_before: Tensor,
        c_after: Tensor,
        recurrent: Tensor | None,
        d_output: Tensor | None,
        dc: Tensor,
    ) -> None:
        """Turn the gates into dz in place, and dc into the gradient of the previous cell state."""
        recurrent, d_output = self._in_layout(recurrent), self._in_layout(d_output)
        _backward[self._programs](
            gates,
            _or(self.peephole, dc),
            c_before,
            c_after,
            _or(recurrent, dc),
            _or(d_output, dc),
            dc,
            HAS_RECURRENT=recurrent is not None,
            HAS_OUTPUT=d_output is not None,
            HAS_PEEPHOLE=self.peephole is not None,
            **self._sizes,
        )

    @cached_property
    def _programs(self) -> tuple[int]:
        return (triton.cdiv(prod(self.shape), _BLOCK),)

    @cached_property
    def _sizes(self) -> dict[str, int | bool]:
        size = prod(self.shape)
        points = self.shape[2] if len(self.shape) == 3 else 1  # per channel, consecutive in memory
        return {
            "size": size,
            "points": points,
            "HIDDEN": self.shape[1],
            "IS_LARGE": 4 * size + 4 * _BLOCK >= 2**31,
            "BLOCK": _BLOCK,
        }

    def _in_layout(self, array: Tensor | None) -> Tensor | None:
        return None if array is None else array.contiguous(memory_format=self.memory_format)


def _or(array: Tensor | None, other: Tensor) -> Tensor:
    """Return an array for an argument that the kernel does not read if it is absent."""
    return other if array is None else array


def compile_for(device: torch.device) -> None:
    """Start both kernels once on a device; an error shows that Triton cannot compile there. No value is read back."""
    shape = (1, 16, 1, 1)
    gates, h, c = (torch.zeros(1, n, 1, 1, device=device) for n in (64, 16, 16))
    arithmetic = TritonStepGates(shape, torch.channels_last, None, None)
    with torch.cuda.device(device):
        arithmetic.forward(gates, None, c, c, h, gates)
        arithmetic.backward(gates, c, c, h, None, c)
