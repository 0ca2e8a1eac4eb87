"""The reference convolution: cross-correlation, as in every framework, one kernel element at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlstm.spec.geometry import Widths, check_boundary, effective_kernel
from convlstm.spec.types import Array

_NUMPY_MODES = {"zeros": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}


def pad(x: Array, widths: Widths, boundary: Sequence[str]) -> Array:
    """Return x (batch, channels, *space) with points added around its spatial axes, one axis after another."""
    check_boundary(x.shape[2:], widths, boundary)
    for axis, (width, rule) in enumerate(zip(widths, boundary, strict=True)):
        pad_width = [(0, 0)] * x.ndim
        pad_width[2 + axis] = width
        x = np.pad(x, pad_width, mode=_NUMPY_MODES[rule])  # type: ignore[call-overload]
    return x


def convolve(
    x: Array,
    weight: Array,
    *,
    widths: Widths,
    boundary: Sequence[str],
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
) -> Array:
    """Return W ∗ x (batch, out, *grid) for x (batch, in, *space) and W (out, in / groups, *kernel).

    Output channel j uses input group ⌊j · groups / out⌋.
    """
    rank = x.ndim - 2
    stride, dilation = stride or (1,) * rank, dilation or (1,) * rank
    padded = pad(x, widths, boundary)
    kernel = weight.shape[2:]
    size = [
        (n - effective_kernel(k, d)) // s + 1
        for n, k, s, d in zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    ]
    batch, out_channels = len(x), len(weight)
    split = weight.reshape(groups, out_channels // groups, *weight.shape[1:])
    total = np.zeros((batch, groups, out_channels // groups, *size), dtype=np.result_type(x, weight))
    for point in np.ndindex(*kernel):
        window = tuple(
            slice(p * d, p * d + (n - 1) * s + 1, s) for p, d, n, s in zip(point, dilation, size, stride, strict=True)
        )
        inputs = padded[(slice(None), slice(None), *window)].reshape(batch, groups, weight.shape[1], *size)
        total += np.einsum("ngc...,goc->ngo...", inputs, split[(..., *point)])
    return total.reshape(batch, out_channels, *size)
