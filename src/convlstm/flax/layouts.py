"""One canonical array to and from Flax's layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from convlstm.spec.types import Array

_GATED = ("weight_ih", "weight_hh", "bias", "norm_scale")


def to_native(key: str, array: Array) -> Array:
    """Return a canonical array in Flax's layout: channels last, the gates side by side on the last axis."""
    name = key.rsplit(".", 1)[-1]
    if ".duration." in key:
        return array.T
    if key.startswith("head."):
        return np.moveaxis(array, (1, 0), (-2, -1)) if name == "weight" else array
    if name == "peephole":
        return np.moveaxis(array, 1, -1)
    if name in _GATED:
        wide = np.moveaxis(array, (0, 1), (-2, -1))
        wide = np.moveaxis(wide, 0, -3) if name.startswith("weight") else wide
        return wide.reshape(*wide.shape[:-2], -1)
    return array


def to_contract(key: str, array: jax.Array, shape: tuple[int, ...]) -> Array:
    """Undo `to_native`, as a NumPy array of the canonical shape, in at least float32."""
    wide = np.array(array.astype(jnp.promote_types(array.dtype, jnp.float32)))
    name = key.rsplit(".", 1)[-1]
    if ".duration." in key:
        result = wide.T
    elif key.startswith("head."):
        result = np.moveaxis(wide, (-2, -1), (1, 0)) if name == "weight" else wide
    elif name == "peephole":
        result = np.moveaxis(wide, -1, 1)
    elif name in _GATED:
        split = wide.reshape(*wide.shape[:-1], *shape[:2])
        split = np.moveaxis(split, -3, 0) if name.startswith("weight") else split
        result = np.moveaxis(split, (-2, -1), (0, 1))
    else:
        result = wide
    return np.ascontiguousarray(result).reshape(shape)


def native_shape(key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in Flax's layout of a canonical array."""
    return tuple(to_native(key, np.broadcast_to(np.zeros(()), shape)).shape)
