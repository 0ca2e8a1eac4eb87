"""The boundaries in MLX, whose own padding has no circular one."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from convlstm.spec.geometry import Widths, check_boundary

_NUMPY_MODES = {"replicate": "edge", "reflect": "reflect", "circular": "wrap"}


def pad(x: mx.array, widths: Widths, boundary: tuple[str, ...]) -> tuple[mx.array, Widths]:
    """Return x (batch, *space, channels) padded by every rule but zeros, and the zeros left to a convolution.

    Zeros may be added last, in the convolution itself: other axes copy nothing but zeros from beyond such an edge.
    """
    check_boundary(tuple(x.shape[1:-1]), widths, boundary)
    left = []
    for axis, (width, rule) in enumerate(zip(widths, boundary, strict=True), start=1):
        if rule == "zeros" or width == (0, 0):
            left.append(width)
            continue
        points = np.pad(np.arange(x.shape[axis]), width, mode=_NUMPY_MODES[rule])  # type: ignore[call-overload]
        x = mx.take(x, mx.array(points), axis=axis)
        left.append((0, 0))
    return x, tuple(left)
