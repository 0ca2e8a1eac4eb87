"""The boundaries in JAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from convlstm.spec.geometry import Widths, check_boundary
from convlstm.spec.types import Array as NumPyArray


def pad(x: Array, widths: Widths, boundary: tuple[str, ...]) -> tuple[Array, Widths]:
    """Return x (batch, *space, channels) padded where the boundary is not zeros, and the padding that is left."""
    check_boundary(tuple(x.shape[1:-1]), widths, boundary)
    left = []
    for axis, (width, rule) in enumerate(zip(widths, boundary, strict=True), start=1):
        if rule == "zeros" or width == (0, 0):
            left.append(width)
        else:
            x = jnp.take(x, _sources(x.shape[axis], width, rule), axis=axis, mode="clip")
            left.append((0, 0))
    return x, tuple(left)


def _sources(size: int, width: tuple[int, int], rule: str) -> NumPyArray:
    """Return which point of the axis each point of the padded axis repeats."""
    index = np.arange(-width[0], size + width[1])
    if rule == "replicate":
        return np.clip(index, 0, size - 1)
    if rule == "circular":
        return np.mod(index, size)
    return np.asarray((size - 1) - np.abs((size - 1) - np.abs(index)))
