"""Convolution in MLX, channels last, with a plain form of equal value where the primitive is missing.

- Three spatial axes: MLX has no groups there, so groups are convolved one by one.
- float64 (CPU only): MLX's own convolution is right to single precision and refuses groups and dilation, so kernel
  points are taken one by one, as products; right to the last digits, and slow.
- An empty input: MLX's gradient fails, so the zero-size result is made without a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from convlstm.contract.geometry import Widths, effective_kernel
from convlstm.engine.mlx_padding import pad


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
