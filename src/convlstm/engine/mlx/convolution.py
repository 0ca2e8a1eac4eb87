"""Convolution in MLX, channels last, with a plain form of equal value where the primitive is missing.

- Three spatial axes: MLX has no groups there, so groups are convolved one by one.
- float64 (CPU only): MLX's own convolution is right to single precision and refuses groups and dilation, so kernel
  points are taken one by one, as products; right to the last digits, and slow.
- An empty input: MLX's gradient fails, so the zero-size result is made without a convolution.
- The recurrent convolution's data gradient on a CPU in float32: MLX gathers all points under a kernel of four times
  the channels; one product, whose parts are then added where they belong, takes a third to two thirds of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from convlstm.engine.mlx.padding import pad
from convlstm.spec.geometry import Widths, effective_kernel


def convolve(
    x: mx.array,
    weight: mx.array,
    widths: Widths,
    boundary: tuple[str, ...],
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> mx.array:
    """Return the cross-correlation W ∗ x.

    Args:
        x: (batch, *space, in_channels).
        weight: (out_channels, *kernel, in_channels / groups).
        widths: Points added before and after each axis.
        boundary: What those points hold, per axis.
        stride: Step of the kernel per axis; 1 by default.
        dilation: Distance of kernel points per axis; 1 by default.
        groups: Output channel j sees input group ⌊j · groups / out_channels⌋.

    Returns:
        (batch, *output space, out_channels).
    """
    rank = x.ndim - 2
    stride, dilation = tuple(stride or (1,) * rank), tuple(dilation or (1,) * rank)
    x, zeros = pad(x, widths, boundary)
    exact = x.dtype == mx.float64
    if not x.size:
        size = _output_size(x, weight, zeros, stride, dilation)
        return mx.zeros((x.shape[0], *size, weight.shape[0]), dtype=x.dtype)
    if groups > 1 and (exact or rank == 3):
        xs, weights = mx.split(x, groups, axis=-1), mx.split(weight, groups, axis=0)
        one = _by_points if exact else _by_primitive
        parts = [one(a, w, zeros, stride, dilation) for a, w in zip(xs, weights, strict=True)]
        return mx.concatenate(parts, axis=-1)
    return (_by_points if exact else _by_primitive)(x, weight, zeros, stride, dilation, groups)


def convolve_state(h: mx.array, weight: mx.array, widths: Widths, boundary: tuple[str, ...]) -> mx.array:
    """Return W ∗ h with stride 1; see `convolve`, of the same value.

    Args:
        h: (batch, *grid, channels).
        weight: (out_channels, *kernel, channels).
        widths: Points added before and after each axis.
        boundary: What those points hold, per axis.

    Returns:
        (batch, *grid, out_channels).
    """
    if not h.size or h.dtype != mx.float32 or mx.default_device().type != mx.cpu:
        return convolve(h, weight, widths, boundary)
    h, zeros = pad(h, widths, boundary)
    z: mx.array = _with_own_gradient(zeros)(h, weight)
    return z


@cache
def _with_own_gradient(zeros: Widths) -> Any:
    """Return the convolution of a state with so many zeros around it."""
    ones = (1,) * len(zeros)

    def product(h: mx.array, weight: mx.array) -> mx.array:
        return _by_primitive(h, weight, zeros, ones, ones)

    function: Any = mx.custom_function(product)

    @function.vjp  # type: ignore[untyped-decorator]
    def gradient(primals: Sequence[mx.array], of_z: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
        h, weight = primals
        of_weight = mx.vjp(lambda weight: product(h, weight), [weight], [of_z])[1][0]
        return _of_data(of_z, weight, zeros), of_weight

    @function.vmap  # type: ignore[untyped-decorator]
    def mapped(given: Sequence[mx.array], axes: Sequence[int | None]) -> tuple[mx.array, int]:
        pairs = list(zip(given, axes, strict=True))
        count = next(a.shape[axis] for a, axis in pairs if axis is not None)
        if not count:  # nothing to stack: a row of zeros, which is never computed, has the shape
            row = function(*(a if axis is None else mx.sum(a, axis) for a, axis in pairs))
            return mx.zeros((0, *row.shape), dtype=row.dtype), 0
        rows = [[a] * count if axis is None else list(mx.moveaxis(a, axis, 0)) for a, axis in pairs]
        return mx.stack([function(*row) for row in zip(*rows, strict=True)]), 0

    return function


def _of_data(of_z: mx.array, weight: mx.array, zeros: Widths) -> mx.array:
    """Return the gradient of h: each kernel point's part of one product, added at the points it came from."""
    grid, (out, *taps, channels) = of_z.shape[1:-1], weight.shape
    products = (of_z.reshape(-1, out) @ weight.reshape(out, -1)).reshape(*of_z.shape[:-1], *taps, channels)
    total = mx.array(0.0, dtype=of_z.dtype)
    for point in np.ndindex(*taps):
        part = products[(slice(None),) * (1 + len(grid)) + tuple(point)]
        around = [(p, k - 1 - p) for p, k in zip(point, taps, strict=True)]
        total = total + mx.pad(part, [(0, 0), *around, (0, 0)])
    inside = (slice(before, n + k - 1 - after) for n, k, (before, after) in zip(grid, taps, zeros, strict=True))
    return total[(slice(None), *inside)]


def _by_primitive(
    x: mx.array, weight: mx.array, zeros: Widths, stride: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> mx.array:
    before, after = ([width[n] for width in zeros] for n in (0, 1))
    return mx.conv_general(x, weight, stride, (before, after), dilation, groups=groups)


def _by_points(
    x: mx.array, weight: mx.array, zeros: Widths, stride: Sequence[int], dilation: Sequence[int], groups: int = 1
) -> mx.array:
    size = _output_size(x, weight, zeros, stride, dilation)
    x = mx.pad(x, [(0, 0), *zeros, (0, 0)])
    total = mx.zeros((x.shape[0], *size, weight.shape[0]), dtype=x.dtype)
    for point in np.ndindex(*weight.shape[1:-1]):
        window = tuple(
            slice(p * d, p * d + (n - 1) * s + 1, s) for p, d, n, s in zip(point, dilation, size, stride, strict=True)
        )
        total = total + x[(slice(None), *window)] @ weight[(slice(None), *point)].T
    return total


def _output_size(
    x: mx.array, weight: mx.array, zeros: Widths, stride: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    axes = zip(x.shape[1:-1], weight.shape[1:-1], zeros, stride, dilation, strict=True)
    return [(n + sum(width) - effective_kernel(k, d)) // s + 1 for n, k, width, s, d in axes]
