"""Kernels in a narrower type, for smaller files: float16, or int8 with one scale per output channel."""

from __future__ import annotations

from typing import Literal

import numpy as np

from convlstm.spec.types import Array

WeightType = Literal["float32", "float16", "int8"]
WEIGHT_TYPES: tuple[WeightType, ...] = ("float32", "float16", "int8")
_LARGEST_INT8 = 127


def is_kernel(name: str, array: Array) -> bool:
    """Return whether an array of a model is the kernel of a convolution, by its canonical name."""
    return "weight" in name and array.ndim > 2


def quantise(kernel: Array) -> tuple[Array, Array]:
    """Return a kernel (out, in, *space) as int8, and the scale of each output channel (out,)."""
    flat = np.abs(kernel).reshape(len(kernel), -1).max(axis=1, initial=0.0)
    scale = np.where(flat > 0, flat / _LARGEST_INT8, 1.0).astype(np.float32)
    over_kernel = scale.reshape(-1, *(1,) * (kernel.ndim - 1))
    rounded = np.rint(np.asarray(kernel, np.float32) / over_kernel)
    return np.clip(rounded, -_LARGEST_INT8, _LARGEST_INT8).astype(np.int8), scale


def rounded(name: str, array: Array, weight_type: WeightType) -> Array:
    """Return a canonical array as a file of this type has it, float32; only kernels are stored in another type."""
    plain = np.asarray(array, np.float32)
    if weight_type == "float32" or not is_kernel(name, plain):
        return plain
    if weight_type == "float16":
        return plain.astype(np.float16).astype(np.float32)
    output_axes = 2 if name.endswith(("weight_ih", "weight_hh")) else 1  # the kernels of a layer have an axis of gates
    joined = plain.reshape(-1, *plain.shape[output_axes:])
    values, scale = quantise(joined)
    wide = values.astype(np.float32) * scale.reshape(-1, *(1,) * (joined.ndim - 1))
    return wide.reshape(plain.shape)
