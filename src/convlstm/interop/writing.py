"""Convert canonical arrays to a foreign layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from convlstm.errors import SpecError
from convlstm.interop.layout import Layout
from convlstm.spec.choices import GATES, PER_LAYER
from convlstm.spec.geometry import effective_kernel
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec, check_weights, layer_prefix

# options that the arrays show, that have no effect on existing weights, or that act only with masks (Keras)
_FREE = (
    *("in_channels", "hidden_channels", "kernel_size", "recurrent_kernel_size", "num_layers", "spatial_dims", "bias"),
    *("forget_bias", "masked_output"),
)


def write(layout: Layout, spec: Spec, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of a layer stack by their names in a foreign file; an option that it lacks is a SpecError."""
    stack = _check_holds(layout, spec)
    check_weights(stack, weights)
    arrays: dict[str, Array] = {}
    for layer in stack.layers:
        for way in stack.directions:
            assert layout.place is not None
            prefix, place = layer_prefix(layer.index, way), layout.place(stack, layer.index, way)
            layer_arrays = {key.removeprefix(prefix): array for key, array in weights.items() if key.startswith(prefix)}
            for part, array in _parts(layout, layer_arrays).items():
                arrays[place + part.replace(".", layout.separator)] = array
    return arrays


def constructor_options(layout: Layout, spec: Spec) -> dict[str, Any]:
    """Return the options of the foreign constructor that its arrays do not show.

    Args:
        layout: The layout.
        spec: The stack that was written.

    Returns:
        Values by the names of `ConvLSTMSpec`.
    """
    assert isinstance(spec, ConvLSTMSpec), "what was written is a stack"
    is_bidirectional = spec.direction == "bidirectional"
    spec = _in_words(spec)
    return {name: getattr(spec, name) for name in layout.choices if name != "merge" or is_bidirectional}


def constructor_arguments(layout: Layout, spec: Spec) -> dict[str, Any]:
    """Return these options as arguments of the foreign constructor, one value if all layers or axes agree."""
    options = constructor_options(layout, spec)
    return layout.constructor_arguments({name: _briefly(name, value) for name, value in options.items()})


def _briefly(name: str, value: Any) -> Any:
    if name not in PER_LAYER:
        return value
    layers = [axes[0] if isinstance(axes, tuple) and len(set(axes)) == 1 else axes for axes in value]
    return layers[0] if all(value == layers[0] for value in layers) else layers


def _parts(layout: Layout, layer_arrays: Mapping[str, Array]) -> dict[str, Array]:
    kernels = [layer_arrays["weight_ih"], layer_arrays["weight_hh"]]
    if len(layout.kernels) == 1:
        kernels = [np.concatenate(kernels, axis=2)]
    parts = {
        name: np.ascontiguousarray(np.moveaxis(_in_their_order(layout, kernel), (0, 1), layout.axes))
        for name, kernel in zip(layout.kernels, kernels, strict=True)
    }
    bias = layer_arrays.get("bias")
    if bias is None and layout.forget_offset:  # it acts there even without a bias, and must be cancelled
        bias = np.zeros(layer_arrays["weight_hh"].shape[:2], layer_arrays["weight_hh"].dtype)
    if bias is None:
        return parts
    *rest, last = [bias, *(np.zeros_like(bias) for _ in layout.biases[1:])]
    # subtracted from zeros if possible, so that nothing is rounded
    last[GATES.index("f")] -= layout.forget_offset
    return parts | {
        name: np.ascontiguousarray(_in_their_order(layout, array))
        for name, array in zip(layout.biases, (*rest, last), strict=True)
    }


def _in_their_order(layout: Layout, gates: Array) -> Array:
    ordered = gates[[GATES.index(gate) for gate in layout.gates]]
    return ordered.reshape(-1, *gates.shape[2:])


def _check_holds(layout: Layout, spec: Spec) -> ConvLSTMSpec:
    """Return the spec if the foreign layer supports all its options."""
    if layout.place is None:
        raise _cannot(layout, "layout", "one that can be written", layout.name)
    if not isinstance(spec, ConvLSTMSpec):
        raise _cannot(layout, "model", "a layer stack", "a forecaster")
    if not spec.in_channels:
        raise _cannot(layout, "in_channels", "at least 1", 0)
    spec, rank = _in_words(spec), spec.spatial_dims
    if rank not in layout.ranks:
        raise _cannot(layout, "spatial_dims", " or ".join(map(str, layout.ranks)), rank)
    plain = ConvLSTMSpec(in_channels=1, hidden_channels=list(spec.hidden_channels), kernel_size=1, spatial_dims=rank)
    for item in fields(spec):
        value, wanted = getattr(spec, item.name), getattr(plain, item.name)
        if item.name not in (*_FREE, *layout.choices) and value != wanted:
            raise _cannot(layout, item.name, _shown(wanted), _shown(value))
    numbers = [padding for padding in spec.padding if not isinstance(padding, str)]
    if numbers:
        raise _cannot(layout, "padding", "a word", _shown(numbers[0]))
    if spec.recurrent_kernel_size != spec.kernel_size:
        raise _cannot(layout, "recurrent_kernel_size", _shown(spec.kernel_size), _shown(spec.recurrent_kernel_size))
    if layout.odd_kernels and any(size % 2 == 0 for sizes in spec.kernel_size for size in sizes):
        raise _cannot(layout, "kernel_size", "odd sizes", _shown(spec.kernel_size))
    return spec


def _in_words(spec: ConvLSTMSpec) -> ConvLSTMSpec:
    """Return the spec with `same` instead of equivalent numbers."""
    padding = [
        "same"
        if not isinstance(layer.padding, str)
        and all(step == 1 for step in layer.stride)
        and all(
            2 * points == effective_kernel(size, dilation) - 1
            for points, size, dilation in zip(layer.padding, layer.kernel_size, layer.dilation, strict=True)
        )
        else layer.padding
        for layer in spec.layers
    ]
    return replace(spec, padding=padding)


def _cannot(layout: Layout, name: str, expected: str, received: object) -> SpecError:
    return SpecError(
        name,
        expected=f"{expected}, because {layout.source} supports nothing else",
        received=received,
        hint="Choose another layout, or use the model file of this package.",
    )


def _shown(value: object) -> str:
    return repr(value)
