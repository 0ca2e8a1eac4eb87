"""Convolution in MLX, channels last, with replacements of equal value where the primitive is missing.

- Three spatial axes: MLX has no groups there, so each group is a separate convolution.
- float64 (CPU only): MLX's own convolution has single precision and refuses groups and dilation, so the result is a sum
  of products, one per kernel point; accurate to the last digits, and slow.
- An empty input: MLX's gradient fails, so the empty result is created without a convolution.
- The data gradient of the recurrent convolution on a CPU in float32: MLX gathers all points under a kernel with four
  times the channels; one product, whose parts are then added at their points, takes a third to two thirds of the time.
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
    """Return W ∗ x (batch, *grid, out) for x (batch, *space, in) and W (out, *kernel, in / groups)."""
    rank = x.ndim - 2
    stride, dilation = tuple(stride or (1,) * rank), tuple(dilation or (1,) * rank)
    x, zeros = pad(x, widths, boundary)
    convolution = _by_points if x.dtype == mx.float64 else _by_primitive
    if not x.size:
        size = _output_size(x, weight, zeros, stride, dilation)
        return mx.zeros((x.shape[0], *size, weight.shape[0]), dtype=x.dtype)
    if groups > 1 and (x.dtype == mx.float64 or rank == 3):
        pairs = zip(mx.split(x, groups, axis=-1), mx.split(weight, groups, axis=0), strict=True)
        return mx.concatenate([convolution(x_g, weight_g, zeros, stride, dilation) for x_g, weight_g in pairs], axis=-1)
    return convolution(x, weight, zeros, stride, dilation, groups)


def convolve_state(
    h: mx.array, weight: mx.array, widths: Widths, boundary: tuple[str, ...], dilation: tuple[int, ...]
) -> mx.array:
    """Return W ∗ h with stride 1: the value of `convolve`, with a faster gradient on a CPU."""
    if not h.size or h.dtype != mx.float32 or mx.default_device().type != mx.cpu:
        return convolve(h, weight, widths, boundary, dilation=dilation)
    h, zeros = pad(h, widths, boundary)
    z: mx.array = _with_gradient_rule(zeros, dilation)(h, weight)
    return z


@cache
def _with_gradient_rule(zeros: Widths, dilation: tuple[int, ...]) -> Any:
    """Return the convolution of a state with this padding of zeros and dilation, with its own gradient rule."""
    ones = (1,) * len(zeros)

    def product(h: mx.array, weight: mx.array) -> mx.array:
        return _by_primitive(h, weight, zeros, ones, dilation)

    function: Any = mx.custom_function(product)

    @function.vjp  # type: ignore[untyped-decorator]
    def gradient(primals: Sequence[mx.array], dz: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
        h, weight = primals
        dw = mx.vjp(lambda weight: product(h, weight), [weight], [dz])[1][0]
        return _data_gradient(dz, weight, zeros, dilation), dw

    @function.vmap  # type: ignore[untyped-decorator]
    def mapped(arrays: Sequence[mx.array], axes: Sequence[int | None]) -> tuple[mx.array, int]:
        pairs = list(zip(arrays, axes, strict=True))
        count = next(a.shape[axis] for a, axis in pairs if axis is not None)
        if not count:  # nothing to stack: a row that is never computed gives the shape
            row = function(*(a if axis is None else mx.sum(a, axis) for a, axis in pairs))
            return mx.zeros((0, *row.shape), dtype=row.dtype), 0
        rows = [[a] * count if axis is None else list(mx.moveaxis(a, axis, 0)) for a, axis in pairs]
        return mx.stack([function(*row) for row in zip(*rows, strict=True)]), 0

    return function


def _data_gradient(dz: mx.array, weight: mx.array, zeros: Widths, dilation: tuple[int, ...]) -> mx.array:
    """Return dh: one product, whose part for each kernel point is added at the points that it read."""
    grid, (out, *taps, channels) = dz.shape[1:-1], weight.shape
    products = (dz.reshape(-1, out) @ weight.reshape(out, -1)).reshape(*dz.shape[:-1], *taps, channels)
    total = mx.array(0.0, dtype=dz.dtype)
    for point in np.ndindex(*taps):
        product_of_point = products[(slice(None),) * (1 + len(grid)) + tuple(point)]
        margins = [(p * d, (k - 1 - p) * d) for p, k, d in zip(point, taps, dilation, strict=True)]
        total = total + mx.pad(product_of_point, [(0, 0), *margins, (0, 0)])
    inside = [slice(None)]
    for n, k, d, (before, after) in zip(grid, taps, dilation, zeros, strict=True):
        inside.append(slice(before, n + effective_kernel(k, d) - 1 - after))
    return total[tuple(inside)]


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
