"""Canonical arrays to and from Keras variables: the one file that knows both layouts.

Keras's own names and layouts are those of `keras.layers.ConvLSTM2D`: `kernel` (*kernel, in/groups, 4·filters),
`recurrent_kernel` (*kernel, filters, 4·filters) and `bias` (4·filters), gates in the order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from convlstm.errors import WeightsError
from convlstm.keras.engines import Tensor, to_array
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec, canonical_shapes, check_weights
from convlstm.weights.checkpoint import save_model

Variable = Any
Shape = tuple[int, ...]

KERNELS = ("weight_ih", "weight_hh")
"""Arrays that convolutions compute with, in the layer's compute type; all others keep the type they are stored in."""

_NAMES = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel"}


class HasVariables(Protocol):
    """A Keras object built from a spec."""

    @property
    def spec(self) -> Spec:
        """The options it was built from."""

    def canonical_variables(self) -> dict[str, Variable]:
        """Return its variables by canonical key."""


def native_name(name: str) -> str:
    """Return Keras's name of an array of a layer: `kernel` for `weight_ih`.

    Example:
        >>> native_name("duration.1.bias")
        'duration_1_bias'
    """
    return _NAMES.get(name, name.replace(".", "_"))


def native_shape(name: str, shape: Shape) -> Shape:
    """Return the shape of the Keras variable for a canonical array of this name and shape.

    Example:
        >>> native_shape("weight_ih", (4, 8, 1, 3, 3))
        (3, 3, 1, 32)
    """
    return tuple(_to_native(name, np.empty(shape, dtype=bool)).shape)


def add_variables(
    owner: Any, shapes: Mapping[str, Shape], how: Mapping[str, Mapping[str, Any]] | None = None, prefix: str = ""
) -> dict[str, Variable]:
    """Give a Keras layer a variable for every array of one layer and direction.

    Args:
        owner: The Keras layer.
        shapes: Canonical shapes by name.
        how: By an array's name, further arguments of `add_weight` (initializer, regularizer, constraint).
        prefix: Before every name.

    Returns:
        Variables by canonical name, in Keras's order: kernel, recurrent_kernel, bias, and the rest by name.
    """
    first = [name for name in (*KERNELS, "bias") if name in shapes]
    return {
        name: owner.add_weight(
            shape=native_shape(name, shapes[name]),
            name=prefix + native_name(name),
            autocast=False,
            **{"initializer": "zeros"} | dict((how or {}).get(name, {})),
        )
        for name in (*first, *(name for name in sorted(shapes) if name not in first))
    }


def values(variables: Mapping[str, Variable], dtype: str) -> dict[str, Tensor]:
    """Return what the engine computes with: kernels in the compute type, the rest as it is stored."""
    # always cast: outside a graph TensorFlow's `convert_to_tensor` gives the variable itself back
    return {name: keras.ops.cast(v, dtype if name in KERNELS else v.dtype) for name, v in variables.items()}


def initializer(array: Array, name: str) -> Callable[..., Any]:
    """Return a Keras initializer that gives a canonical array in Keras's layout."""

    def start(shape: Shape, dtype: Any = None) -> Any:
        return keras.ops.convert_to_tensor(_to_native(name, array).reshape(shape), dtype=dtype)

    return start


def _check_built(module: HasVariables) -> None:
    if not getattr(module, "built", True):
        raise WeightsError(
            "module",
            expected="a built layer",
            received="one that has seen no input",
            hint="call it once, or module.build(shape).",
        )


def seed_of(generator: keras.random.SeedGenerator) -> int:
    """Return the seed a generator stands at: the one it was made with, or the one Keras drew for it."""
    return int(to_array(keras.ops.convert_to_tensor(generator.state))[0])


def to_canonical(module: HasVariables) -> dict[str, Array]:
    """Return a layer's weights as canonical NumPy arrays (copies).

    Args:
        module: A built layer, stack or forecaster of `convlstm.keras`.

    Returns:
        Arrays by canonical key; low precision is widened to float32.

    Example:
        >>> from convlstm.keras import ConvLSTM2D
        >>> layer = ConvLSTM2D(8, 3)
        >>> layer.build((None, None, 16, 16, 1))
        >>> to_canonical(layer)["layers.0.forward.weight_ih"].shape
        (4, 8, 1, 3, 3)
    """
    _check_built(module)
    variables, shapes = module.canonical_variables(), canonical_shapes(module.spec)
    return {key: _from_native(_name(key), _array(variables[key]), shape) for key, shape in shapes.items()}


def load_canonical(module: HasVariables, arrays: Mapping[str, Array]) -> None:
    """Copy canonical arrays into a layer's variables.

    Args:
        module: A built layer, stack or forecaster of `convlstm.keras`.
        arrays: Arrays by canonical key; checked against the module's spec first.

    Raises:
        WeightsError: if any array is missing, unknown or misshapen; nothing is copied then.

    Example:
        >>> from convlstm.weights.canonical import initialise
        >>> from convlstm.keras import ConvLSTM2D
        >>> layer = ConvLSTM2D(8, 3)
        >>> layer.build((None, None, 16, 16, 1))
        >>> load_canonical(layer, initialise(layer.spec, seed=0))
    """
    _check_built(module)
    check_weights(module.spec, arrays)
    variables = module.canonical_variables()
    for key, array in arrays.items():
        variables[key].assign(_to_native(_name(key), array).reshape(variables[key].shape))


def save(path: str | Path, module: HasVariables, extra: dict[str, Any] | None = None) -> str:
    """Write a layer's spec and weights to a file that every framework reads.

    Args:
        path: Where to, by custom `*.safetensors`.
        module: A built layer, stack or forecaster of `convlstm.keras`.
        extra: JSON values to store with them.

    Returns:
        The digest of the weights.

    Raises:
        OutputError: if the file cannot be written; an existing file is unchanged.

    Example:
        >>> import tempfile
        >>> from convlstm.keras import ConvLSTM2D, load
        >>> layer = ConvLSTM2D(8, 3)
        >>> layer.build((None, None, 16, 16, 1))
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, layer, {"units": "mm/h"})
        >>> load(path).spec == layer.spec
        True
    """
    return save_model(path, module.spec, to_canonical(module), extra)


def to_native_array(key: str, array: Array) -> Array:
    """Return a canonical array in the layout of its Keras variable."""
    return _to_native(_name(key), array)


def from_native_array(key: str, array: Array, shape: Shape) -> Array:
    """Return an array in the layout of a Keras variable as the canonical array of this shape."""
    return _from_native(_name(key), array, shape)


def _name(key: str) -> str:
    """Return an array's name within its layer; the head's 1×1 kernel keeps its full name."""
    return key.rpartition("layers.")[2].split(".", 2)[2] if "layers." in key else key


def _to_native(name: str, array: Array) -> Array:
    if name in KERNELS:  # (4, out, in, *k) to (*k, in, 4·out)
        fused = array.reshape(-1, *array.shape[2:])
        return np.moveaxis(fused, (1, 0), (-2, -1))
    if name in ("bias", "norm_scale"):
        return array.reshape(-1)
    if name == "peephole":
        return np.moveaxis(array, 1, -1)
    if name == "head.weight":  # (out, in, 1, 1) to (1, 1, in, out)
        return array.transpose(2, 3, 1, 0)
    return array.T if name.startswith("duration.") else array


def _from_native(name: str, array: Array, shape: Shape) -> Array:
    if name in KERNELS:
        array = np.moveaxis(array, (-1, -2), (0, 1))
    elif name == "peephole":
        array = np.moveaxis(array, -1, 1)
    elif name == "head.weight":
        array = array.transpose(3, 2, 0, 1)
    elif name.startswith("duration."):
        array = array.T
    return np.array(array).reshape(shape)


def _array(variable: Variable) -> Array:
    tensor = keras.ops.convert_to_tensor(variable)
    if keras.backend.standardize_dtype(tensor.dtype) in ("bfloat16", "float16"):
        tensor = keras.ops.cast(tensor, "float32")
    return to_array(tensor)
