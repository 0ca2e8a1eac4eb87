"""The engine of the active Keras backend behind one call: channels last, time first, on that backend's tensors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import keras
import numpy as np

from convlstm.errors import DependencyError
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import LayerMasks
from convlstm.spec.types import Array

Tensor = Any
State = tuple[Tensor, Tensor]

BACKENDS = ("tensorflow", "jax", "torch")
"""The Keras backends that have an engine here."""

BACKEND = keras.backend.backend()
if BACKEND not in BACKENDS:
    raise DependencyError(
        "KERAS_BACKEND", expected=f"one of {', '.join(BACKENDS)}", received=BACKEND, hint="Set it before the import."
    )
ENGINE = import_module(f"convlstm.engine.{BACKEND}.recurrence")


def sequence(
    layer: LayerSpec,
    weights: dict[str, Tensor],
    x: Tensor | None,
    state: State | None,
    *,
    masks: LayerMasks | None = None,
    training: bool = False,
    **given: Any,
) -> tuple[Tensor, State]:
    """Run one layer in one direction over x (time, batch, *space, in_channels), or None for a layer without input.

    Weights are in Keras's layout, the convolution kernels in the type to compute in. A `state` of None means zeros, for
    a layer with input. `training` says whether a gradient follows. The further arguments are steps, reverse, mask,
    durations and gaps, as in every engine's `sequence`.
    """
    if BACKEND == "torch":
        return _channels_first(layer, weights, x, state, masks, given)
    if BACKEND == "jax" and state is not None:
        state = ENGINE.State(keras.ops.cast(state[0], weights["weight_hh"].dtype), state[1])
    if BACKEND == "tensorflow":
        given |= {"training": training}
    outputs, (h, c) = ENGINE.sequence(layer, weights, x, state, masks=masks, **given)
    return outputs, (h, c)


def has_float64() -> bool:
    """Return whether the backend keeps float64: JAX rounds it to float32 unless told otherwise."""
    if BACKEND != "jax":
        return True
    return bool(import_module("jax").dtypes.canonicalize_dtype(np.float64) == np.float64)


def at_hand(values: Tensor) -> bool:
    """Return whether values can be looked at without waiting for an accelerator, and are not being traced."""
    if BACKEND == "tensorflow":
        return hasattr(values, "numpy") and "CPU" in values.device
    if BACKEND == "torch":
        compiling: bool = import_module("torch").compiler.is_compiling()
        return values.device.type == "cpu" and not compiling
    jax = import_module("jax")
    return not isinstance(values, jax.core.Tracer) and all(d.platform == "cpu" for d in values.devices())


def to_array(tensor: Tensor) -> Array:
    """Return a tensor's values as a new array; `keras.ops.convert_to_numpy` warns under NumPy 2."""
    if BACKEND == "jax":
        return np.array(tensor)
    if BACKEND == "torch":
        tensor = tensor.detach().cpu()
        tensor = tensor.float() if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16" else tensor
    return np.array(tensor.numpy())


def _channels_first(
    layer: LayerSpec,
    weights: dict[str, Tensor],
    x: Tensor | None,
    state: State | None,
    masks: LayerMasks | None,
    given: dict[str, Any],
) -> tuple[Tensor, State]:
    """Run PyTorch's engine on channels-first views."""
    rank = layer.stack.spatial_dims

    # Keras's exporter to ONNX writes negative axes of a transposition as they are, which ONNX does not accept
    def first(a: Tensor | None) -> Tensor | None:
        return None if a is None else a.movedim(a.ndim - 1, a.ndim - 1 - rank)

    def last(a: Tensor) -> Tensor:
        return a.movedim(a.ndim - 1 - rank, a.ndim - 1)

    if masks is not None:
        masks = LayerMasks(*(first(mask) for mask in masks))
    turned = {name: _torch_layout(name, array) for name, array in weights.items()}
    start = None if state is None else (first(state[0]), first(state[1]))
    outputs, (h, c) = ENGINE.sequence(layer, turned, first(x), start, masks=masks, **given)
    return last(outputs), (last(h), last(c))


def _torch_layout(name: str, array: Tensor) -> Tensor:
    if name in ("weight_ih", "weight_hh"):
        return array.movedim((array.ndim - 1, array.ndim - 2), (0, 1))
    if name == "peephole" and array.ndim > 2:
        return array.movedim(array.ndim - 1, 1)
    return array.T if name.startswith("duration.") and array.ndim == 2 else array
