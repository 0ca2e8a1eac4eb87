"""The boundaries in JAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from convlstm.spec.geometry import Widths, check_boundary

_NUMPY_MODES = {"replicate": "edge", "reflect": "reflect", "circular": "wrap"}


def pad(x: Array, widths: Widths, boundary: tuple[str, ...]) -> tuple[Array, Widths]:
    """Return x (batch, *space, channels) padded where the boundary is not zeros, and the padding that is left."""
    check_boundary(tuple(x.shape[1:-1]), widths, boundary)
    left = []
    for axis, (width, rule) in enumerate(zip(widths, boundary, strict=True), start=1):
        if rule == "zeros" or width == (0, 0):
            left.append(width)
        else:
            points = np.pad(np.arange(x.shape[axis]), width, mode=_NUMPY_MODES[rule])  # type: ignore[call-overload]
            x = jnp.take(x, points, axis=axis, mode="clip")
            left.append((0, 0))
    return x, tuple(left)
