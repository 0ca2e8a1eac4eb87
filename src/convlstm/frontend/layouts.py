"""The layout of arrays in Keras and Flax: channels last, with the gates i, f, g, o joined along the last axis."""

from __future__ import annotations

import numpy as np

from convlstm.spec.types import Array

_KERNELS = ("weight_ih", "weight_hh")
_OUTPUT_KERNELS = ("head.weight", "detail.0.weight", "detail.1.weight", "output.weight")


def array_name(key: str) -> str:
    """Return the name of a canonical array within its layer; a key outside a layer is its own name."""
    _, layer, rest = key.partition("layers.")
    return rest.split(".", 2)[2] if layer else key


def to_channels_last(key: str, array: Array) -> Array:
    """Return a canonical array with channels last and gates joined: kernels are (*kernel, in, 4 · out)."""
    name = array_name(key)
    if name in _KERNELS:  # from (4, out, in, *kernel)
        return np.moveaxis(array.reshape(-1, *array.shape[2:]), (1, 0), (-2, -1))
    if name in ("bias", "norm_scale"):
        return array.reshape(-1)
    if name == "peephole":
        return np.moveaxis(array, 1, -1)
    if name in _OUTPUT_KERNELS:  # from (out, in, *kernel) to (*kernel, in, out)
        return array.transpose(2, 3, 1, 0)
    return array.T if name.startswith("duration.") else array


def from_channels_last(key: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Return a copy of an array in that layout as the canonical array of this shape (see `to_channels_last`)."""
    name = array_name(key)
    if name in _KERNELS:
        array = np.moveaxis(array, (-1, -2), (0, 1))
    elif name == "peephole":
        array = np.moveaxis(array, -1, 1)
    elif name in _OUTPUT_KERNELS:
        array = array.transpose(3, 2, 0, 1)
    elif name.startswith("duration."):
        array = array.T
    return np.array(array, order="C").reshape(shape)


def channels_last_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in that layout of a canonical array of this shape."""
    return tuple(to_channels_last(key, np.empty(shape, dtype=bool)).shape)
