"""Canonical arrays to and from MLX parameters: the one file that knows both layouts.

MLX's parameter tree has the canonical names: `layer.layers[0].forward.weight_ih`. Arrays are channels last, with the
gates i, f, g, o stacked along the first axis, as in `mlx.nn.LSTM` and `mlx.nn.Conv2d`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from convlstm.frontend import saving
from convlstm.frontend.layouts import array_name
from convlstm.frontend.loading import extra_of
from convlstm.spec.types import Array
from convlstm.weights.canonical import Shape, Spec, canonical_shapes, check_weights, initialise
from convlstm.weights.checkpoint import save_model

_KERNELS = ("weight_ih", "weight_hh")
_POINTWISE = ("head.weight", "output.weight")
_CHANNELS_SECOND = ("peephole", "detail.0.weight", "detail.1.weight")
_GATED = ("bias", "norm_scale")


class HasSpec(Protocol):
    """A module built from a spec."""

    @property
    def spec(self) -> Spec:
        """The options it was built from."""

    def parameters(self) -> Any:
        """Return the tree of parameters."""

    def update(self, parameters: Any) -> Any:
        """Replace parameters."""


def to_native(key: str, array: Array) -> Array:
    """Return a canonical array in MLX's layout: channels last, gates stacked along the first axis."""
    name = array_name(key)
    if name in _KERNELS:
        return np.moveaxis(array.reshape(-1, *array.shape[2:]), 1, -1)
    if name in _GATED:
        return array.reshape(-1)
    if name in _CHANNELS_SECOND:
        return np.moveaxis(array, 1, -1)
    return array[:, :, 0, 0] if name in _POINTWISE else array


def from_native(key: str, array: Array, shape: Shape) -> Array:
    """Return an array in MLX's layout as the canonical one of this shape (see `to_native`)."""
    if array_name(key) in _KERNELS + _CHANNELS_SECOND:
        array = np.moveaxis(array, -1, 1)
    return np.ascontiguousarray(array).reshape(shape)


def to_canonical(module: HasSpec) -> dict[str, Array]:
    """Return a module's weights as canonical NumPy arrays (copies).

    Args:
        module: A layer, cell or forecaster of `convlstm.mlx`.

    Returns:
        Arrays by canonical key; low precision is widened to float32.

    Raises:
        WeightsError: for another module; the hint names a layer inside it.

    Example:
        >>> from convlstm.mlx import ConvLSTM
        >>> to_canonical(ConvLSTM(1, 8, kernel_size=3))["layers.0.forward.weight_ih"].shape
        (4, 8, 1, 3, 3)
    """
    _check_module(module)
    parameters = named_parameters(module)
    return {
        key: from_native(key, to_numpy(parameters[key]), shape) for key, shape in canonical_shapes(module.spec).items()
    }


def load_canonical(module: HasSpec, arrays: Mapping[str, Array]) -> None:
    """Load canonical arrays as a module's parameters, in the type those have.

    Args:
        module: A layer, cell or forecaster of `convlstm.mlx`.
        arrays: Arrays by canonical key; checked against the module's spec first.

    Raises:
        WeightsError: if any array is missing, unknown or misshapen, and for another module; nothing is changed then.

    Example:
        >>> from convlstm.mlx import ConvLSTM
        >>> layer, twin = ConvLSTM(1, 8, kernel_size=3), ConvLSTM(1, 8, kernel_size=3)
        >>> load_canonical(twin, to_canonical(layer))
        >>> bool(mx.array_equal(twin.layers[0].forward.bias, layer.layers[0].forward.bias))
        True
    """
    _check_module(module)
    check_weights(module.spec, arrays)
    types = {key: parameter.dtype for key, parameter in named_parameters(module).items()}
    module.update(native_tree(arrays, types))


def named_parameters(module: HasSpec) -> dict[str, mx.array]:
    """Return a module's parameters by canonical key, in MLX's layout."""
    return dict(tree_flatten(module.parameters()))


def reset(module: HasSpec, seed: int | None) -> None:
    """Load the contract's initialisation into a module; None draws a seed from MLX's global generator."""
    seed = int(np.array(mx.random.randint(0, 2**31 - 1))) if seed is None else seed
    load_canonical(module, initialise(module.spec, seed))


def native_tree(arrays: Mapping[str, Array], types: Mapping[str, mx.Dtype]) -> Any:
    """Return canonical arrays as a tree of MLX arrays, each in the type given for its key."""
    native = {key: np.array(to_native(key, a), order="C") for key, a in arrays.items()}  # MLX reads no reversed axis
    return tree_unflatten([(key, mx.array(a, dtype=types[key])) for key, a in native.items()])


class Group(nn.Module):
    """Parameters by name in nested groups, since MLX can freeze the arrays of a module and not those of a dict."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        super().__init__()
        for name, value in tree.items():
            self[name] = _grouped(value)


def empty_layers(spec: Spec, dtype: mx.Dtype) -> list[Group]:
    """Return groups of zeros for the canonical arrays of a stack, one per layer."""
    shapes = canonical_shapes(spec)
    tree = native_tree({key: np.zeros(shape) for key, shape in shapes.items()}, dict.fromkeys(shapes, dtype))
    return [Group(layer) for layer in tree["layers"]]


def save(path: str | Path, module: HasSpec, extra: dict[str, Any] | None = None) -> str:
    """Write a module's spec and weights to a file that every framework reads.

    Args:
        path: Where to, by custom `*.safetensors`.
        module: A layer, cell or forecaster of `convlstm.mlx`.
        extra: JSON values to store with them; None takes those of the file that the module was loaded from.

    Returns:
        The digest of the weights.

    Raises:
        WeightsError: for swapped arguments, and for another module; the hint names a layer inside it.
        OutputError: if the file cannot be written; an existing file is unchanged.

    Example:
        >>> import tempfile
        >>> from convlstm.mlx import ConvLSTM, load
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3), {"units": "mm/h"})
        >>> load(path)
        ConvLSTM(1, 8, kernel_size=3)
    """
    saving.check_path(path, module)
    arrays = to_canonical(module)
    return save_model(path, module.spec, arrays, extra_of(module, extra))


def to_numpy(array: mx.array) -> Array:
    """Return a copy as a NumPy array; low precision is widened to float32."""
    return np.array(array.astype(mx.float32) if array.dtype in (mx.bfloat16, mx.float16) else array)


def _check_module(module: object) -> None:
    saving.check_module(module, _parts(module), package="convlstm.mlx", save_all="module.save_weights(path)")


def _parts(module: object) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, nn.Module):
        outer_first = sorted(module.named_modules(), key=lambda item: item[0].count("."))
        for name, part in outer_first:
            yield saving.expression_of(name.split(".")), part


def _grouped(value: Any) -> Any:
    if isinstance(value, list):
        return [_grouped(item) for item in value]
    return Group(value) if isinstance(value, dict) else value
