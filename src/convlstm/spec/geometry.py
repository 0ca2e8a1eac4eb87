"""Padding, boundaries and output sizes, computed before any memory is allocated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convlstm.errors import ShapeError
from convlstm.spec.types import Array

AXIS_NAMES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""Names of the spatial axes for 1, 2 and 3 of them."""

BOUNDARIES = ("zeros", "replicate", "reflect", "circular")
"""Values beyond an edge: zeros, the edge value, the mirror image without the edge, or the opposite side."""

Widths = tuple[tuple[int, int], ...]
Padding = str | tuple[int, ...]


def effective_kernel(kernel: int, dilation: int) -> int:
    """Return how many points a dilated kernel spans: (kernel − 1) · dilation + 1."""
    return (kernel - 1) * dilation + 1


def pad_widths(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Padding,
) -> Widths:
    """Return the points (before, after) that are added along each spatial axis.

    `same` follows TensorFlow and JAX: total = max((⌈n/s⌉ − 1)·s + k_eff − n, 0), the odd extra at the end. Numbers in
    `padding` are added on both sides.
    """
    if padding == "valid":
        return ((0, 0),) * len(size)
    if not isinstance(padding, str):
        return tuple((p, p) for p in padding)
    widths = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + effective_kernel(k, d) - n, 0)
        widths.append((total // 2, total - total // 2))
    return tuple(widths)


def recurrent_pad_widths(kernel: Sequence[int], dilation: Sequence[int]) -> Widths:
    """Return the points (before, after) that keep the size of h; an odd point in all is at the end."""
    spans = [effective_kernel(k, d) - 1 for k, d in zip(kernel, dilation, strict=True)]
    return tuple((span // 2, span - span // 2) for span in spans)


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Padding,
) -> tuple[int, ...]:
    """Return the size of a convolution's output, which is the grid of the state; an empty axis is a ShapeError."""
    widths = pad_widths(size, kernel, stride, dilation, padding)
    result = []
    for axis, (n, k, s, d, (before, after)) in enumerate(zip(size, kernel, stride, dilation, widths, strict=True)):
        span = effective_kernel(k, d)
        points = (n + before + after - span) // s + 1
        if n < 1 or points < 1:
            raise ShapeError(
                AXIS_NAMES[len(size)][axis],
                expected=f"an input of at least {max(span - before - after, 1)} points under a kernel of {span}",
                received=f"{n}, which leaves an empty output",
                hint="Use a larger input, a smaller kernel or `padding='same'`.",
            )
        result.append(points)
    return tuple(result)


def enlargement(size: int, factor: int) -> Array:
    """Return the matrix (size · factor, size) of the linear interpolation along one axis.

    It interpolates between the centres of the cells; points beyond the outer centres have the value of the edge cell.

    Example:
        >>> enlargement(2, 2)
        array([[1.  , 0.  ],
               [0.75, 0.25],
               [0.25, 0.75],
               [0.  , 1.  ]])
    """
    position = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    distance = np.abs(position[:, None] - np.arange(size))
    return np.clip(1.0 - distance, 0.0, None)


def check_boundary(size: Sequence[int], widths: Widths, boundary: Sequence[str]) -> None:
    """Raise ShapeError if `reflect` has a pad that is not smaller than the axis, or `circular` one that is larger."""
    limits = {"reflect": -1, "circular": 0}
    for axis, (n, width, rule) in enumerate(zip(size, widths, boundary, strict=True)):
        if rule in limits and max(width) > n + limits[rule]:
            raise ShapeError(
                AXIS_NAMES[len(size)][axis],
                expected=f"at least {max(width) - limits[rule]} points for boundary '{rule}'",
                received=f"{n} points and a pad of {max(width)}",
                hint="Use a larger grid, a smaller kernel or another boundary on this axis.",
            )
