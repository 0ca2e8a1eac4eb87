"""Canonical weights: names, shapes, seeded initialisation, and the check of arrays against a spec.

Arrays are C-ordered and channels first. A separate gate axis has the order i, f, g, o in every file.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from zlib import crc32

import numpy as np

from convlstm.errors import WeightsError
from convlstm.spec.choices import GATES, PEEPHOLE_GATES
from convlstm.spec.durations import network_sizes
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.layer import LayerSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.parsing import integer
from convlstm.spec.types import Array

Spec = ConvLSTMSpec | ForecasterSpec
Shape = tuple[int, ...]

MEMORY_DECAY_START = -3.0
"""Initial w of memory decay: softplus(−3) = 0.049, so that a gap of 2 · Δ0 keeps 95 % of c."""


def layer_shapes(layer: LayerSpec) -> dict[str, Shape]:
    """Return the shape of each array of one layer and direction by name, sorted (names: `docs/contract.md`)."""
    spec, hidden, gates = layer.stack, layer.hidden_channels, len(GATES)
    shapes: dict[str, Shape] = {"weight_hh": (gates, hidden, hidden, *layer.recurrent_kernel_size)}
    if layer.in_channels:
        shapes["weight_ih"] = (gates, hidden, layer.in_channels // layer.groups, *layer.kernel_size)
    if spec.bias:
        shapes["bias"] = (gates, hidden)
    if spec.norm != "none":
        shapes["norm_scale"] = (gates, hidden)
    if spec.peephole != "none":
        grid = spec.grids(spec.input_size)[layer.index] if spec.peephole == "pixel" else ()
        shapes["peephole"] = (len(PEEPHOLE_GATES), hidden, *grid)
    if spec.memory_decay:
        shapes["memory_decay"] = (hidden,)
    if spec.duration_strategy == "scalar":
        shapes["duration.weight"] = ()
    if spec.duration_strategy in ("exp", "mlp"):
        for n, (inputs, outputs) in enumerate(network_sizes(layer)):
            shapes[f"duration.{n}.weight"] = (outputs, inputs)
            shapes[f"duration.{n}.bias"] = (outputs,)
    return dict(sorted(shapes.items()))


def layer_prefix(index: int, direction: str) -> str:
    """Return the prefix of a layer's arrays in a file: `layers.0.forward.`."""
    return f"layers.{index}.{direction}."


def stacks(spec: Spec) -> dict[str, ConvLSTMSpec]:
    """Return the stacks of a model by the prefix of their keys."""
    if isinstance(spec, ConvLSTMSpec):
        return {"": spec}
    if spec.rollout == "feedback":
        return {"encoder.": spec.encoder}
    return {"encoder.": spec.encoder, "forecaster.": spec.forecaster}


def canonical_shapes(spec: Spec) -> dict[str, Shape]:
    """Return the shape of every array of a model by canonical key, sorted."""
    shapes: dict[str, Shape] = {}
    for stack_prefix, stack in stacks(spec).items():
        for layer in stack.layers:
            for direction in stack.directions:
                prefix = stack_prefix + layer_prefix(layer.index, direction)
                shapes |= {prefix + name: shape for name, shape in layer_shapes(layer).items()}
    if isinstance(spec, ForecasterSpec):
        shapes |= _output_shapes(spec)
    return dict(sorted(shapes.items()))


def _output_shapes(spec: ForecasterSpec) -> dict[str, Shape]:
    """Return the shapes of the convolutions that make a forecaster's output."""
    convolutions = {"head": (spec.head_outputs, spec.head_channels, 1)}
    features, kernel = spec.detail_channels, spec.detail_kernel
    if features:
        convolutions["detail.0"] = (features, spec.detail_frames * spec.frame_channels, kernel)
        convolutions["detail.1"] = (features, features, kernel)
        convolutions["output"] = (spec.output_channels, spec.detail_features, 1)
    shapes: dict[str, Shape] = {}
    for name, (outputs, inputs, side) in convolutions.items():
        shapes[f"{name}.weight"] = (outputs, inputs, side, side)
        if name != "head" or spec.head_bias:
            shapes[f"{name}.bias"] = (outputs,)
    return shapes


def parameter_count(spec: Spec) -> int:
    """Return the number of trainable values of a model.

    Example:
        >>> parameter_count(ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3))
        2624
    """
    return sum(prod(shape) for shape in canonical_shapes(spec).values())


def initialise(spec: Spec, seed: int) -> dict[str, Array]:
    """Return initial weights in float64, the same in every framework.

    Each array has its own random stream PCG64([seed, crc32(key)]), so that an added option changes no other array.
    W_ih and the duration network are Glorot uniform, and W_hh has orthonormal rows per gate. Biases and peepholes are
    zero, except the bias of the forget gate.

    Args:
        spec: A layer stack or a forecaster.
        seed: Any integer of at least 0.

    Returns:
        Arrays by canonical key, float64.

    Example:
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1)
        >>> initialise(spec, seed=0)["layers.0.forward.bias"][1]
        array([1., 1.])
    """
    seed, arrays = integer("seed", seed, 0), {}
    owners = stacks(spec)
    for key, shape in canonical_shapes(spec).items():
        random = np.random.Generator(np.random.PCG64([seed, crc32(key.encode())]))
        prefix = next((p for p in owners if key.startswith(p + "layers.")), None)
        if prefix is None:
            points = prod(shape[2:])
            is_kernel = key.endswith(".weight")
            arrays[key] = _glorot(random, shape, shape[1] * points, shape[0] * points) if is_kernel else np.zeros(shape)
        else:
            index, _, name = key[len(prefix) + len("layers.") :].split(".", 2)
            arrays[key] = _initialise_one(random, owners[prefix].layers[int(index)], name, shape)
    return arrays


def check_weights(spec: Spec, arrays: Mapping[str, Array]) -> None:
    """Raise WeightsError unless the arrays are exactly those of the spec, of finite floating numbers."""
    check_shapes(spec, {key: tuple(array.shape) for key, array in arrays.items()})
    check_values(arrays)


def check_values(arrays: Mapping[str, Array]) -> None:
    """Raise WeightsError for the first array of integers or bools, or with NaN or infinity."""
    for key, array in arrays.items():
        if not (np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"):
            raise WeightsError(
                key,
                expected="floating-point weights",
                received=array.dtype.name,
                hint="Convert the array to float32 if it holds weights.",
            )
        wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
        if wrong:
            raise WeightsError(
                key,
                expected="finite weights",
                received=f"{wrong} of {array.size} NaN or infinite",
                hint="Load an earlier checkpoint of the training.",
            )


def check_shapes(spec: Spec, shapes: Mapping[str, Shape]) -> None:
    """Raise WeightsError for the first missing, unknown or misshapen array; no array is read."""
    expected = canonical_shapes(spec)
    for key in sorted(set(expected) ^ set(shapes)):
        known = key in expected
        raise WeightsError(
            key,
            expected="an array of this name" if known else "no array of this name",
            received="none" if known else "one",
            hint="Use the weights and the spec of the same model.",
        )
    for key, shape in expected.items():
        if shape != tuple(shapes[key]):
            raise WeightsError(
                key,
                expected=f"shape {shape}",
                received=f"{tuple(shapes[key])}",
                hint="Use the weights and the spec of the same model.",
            )


def _initialise_one(random: np.random.Generator, layer: LayerSpec, name: str, shape: Shape) -> Array:
    if name == "weight_ih":
        kernel = prod(layer.kernel_size)
        fan_in = layer.in_channels // layer.groups * kernel
        return _glorot(random, shape, fan_in, layer.hidden_channels * kernel / layer.groups)
    if name == "weight_hh":
        return np.stack([_orthonormal_rows(random, shape[1:]) for _ in GATES])
    if name == "memory_decay":
        return np.full(shape, MEMORY_DECAY_START)
    if name == "norm_scale":
        return np.ones(shape)
    array = np.zeros(shape)
    if name == "bias":
        array[GATES.index("f")] = layer.stack.forget_bias
    last = f"duration.{len(layer.stack.duration_hidden)}.weight"
    if name.startswith("duration.") and name.endswith(".weight") and shape and name != last:
        return _glorot(random, shape, shape[1], shape[0])
    return array


def _glorot(random: np.random.Generator, shape: Shape, fan_in: float, fan_out: float) -> Array:
    bound = sqrt(6.0 / (fan_in + fan_out))
    return random.uniform(-bound, bound, shape)


def _orthonormal_rows(random: np.random.Generator, shape: Shape) -> Array:
    gaussian = random.standard_normal((shape[0], prod(shape[1:])))
    q, r = np.linalg.qr(gaussian.T)
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    return (q * signs).T.reshape(shape)
