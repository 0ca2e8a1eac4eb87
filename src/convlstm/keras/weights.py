"""Canonical arrays to and from Keras variables: the one file that knows both layouts.

Keras's names and layouts are those of `keras.layers.ConvLSTM2D`: `kernel` (*kernel, in/groups, 4·filters),
`recurrent_kernel` (*kernel, filters, 4·filters) and `bias` (4·filters), gates in the order i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras

from convlstm.errors import WeightsError
from convlstm.frontend import saving
from convlstm.frontend.layouts import channels_last_shape, from_channels_last, to_channels_last
from convlstm.frontend.loading import extra_of
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
    """Return Keras's name of an array of a layer: `kernel` for `weight_ih`, `duration_1_bias` for `duration.1.bias`."""
    return _NAMES.get(name, name.replace(".", "_"))


def add_variables(
    owner: Any, shapes: Mapping[str, Shape], how: Mapping[str, Mapping[str, Any]] | None = None, prefix: str = ""
) -> dict[str, Variable]:
    """Add a variable to a Keras layer for every array of a layer and direction, and return them by canonical name.

    `how` holds further arguments of `add_weight` by an array's name. The order is Keras's: kernel, recurrent_kernel,
    bias, and the rest by name.
    """
    first = [name for name in (*KERNELS, "bias") if name in shapes]
    return {
        name: owner.add_weight(
            shape=channels_last_shape(name, shapes[name]),
            name=prefix + native_name(name),
            autocast=False,
            **{"initializer": "zeros"} | dict((how or {}).get(name, {})),
        )
        for name in (*first, *(name for name in sorted(shapes) if name not in first))
    }


def engine_weights(variables: Mapping[str, Variable], dtype: str) -> dict[str, Tensor]:
    """Return the arrays for the engine: kernels in the compute type, the rest in the type they are stored in."""
    # always cast: outside a graph TensorFlow's `convert_to_tensor` gives the variable itself back
    return {name: keras.ops.cast(v, dtype if name in KERNELS else v.dtype) for name, v in variables.items()}


def initializer(array: Array, name: str) -> Callable[..., Any]:
    """Return a Keras initializer that gives a canonical array in Keras's layout."""

    def start(shape: Shape, dtype: Any = None) -> Any:
        return keras.ops.convert_to_tensor(to_channels_last(name, array).reshape(shape), dtype=dtype)

    return start


def _check_built(module: HasVariables) -> None:
    saving.check_module(module, _parts(module), package="convlstm.keras", save_all="module.save('model.keras')")
    if not getattr(module, "built", True):
        raise WeightsError(
            "module",
            expected="a built layer",
            received="one that has seen no input",
            hint="Call the layer once, or call `build` with the shape of its input.",
        )


def _parts(module: object, expression: str = "module") -> Iterator[tuple[str, Any]]:
    """Yield the layers of a model or of a wrapper such as `Bidirectional`, outer ones first."""
    layers = [(f".get_layer({layer.name!r})", layer) for layer in getattr(module, "layers", ())]
    names = ("forward_layer", "backward_layer", "layer", "cell")
    wrapped = [(f".{name}", getattr(module, name)) for name in names if hasattr(module, name)]
    for access, part in (*layers, *wrapped):
        yield expression + access, part
        yield from _parts(part, expression + access)


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
    return {key: from_channels_last(key, _array(variables[key]), shape) for key, shape in shapes.items()}


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
        variables[key].assign(to_channels_last(key, array).reshape(variables[key].shape))


def save(path: str | Path, module: HasVariables, extra: dict[str, Any] | None = None) -> str:
    """Write a layer's spec and weights to a file that every framework reads.

    Args:
        path: Where to, by custom `*.safetensors`.
        module: A built layer, stack or forecaster of `convlstm.keras`.
        extra: JSON values to store with them; None takes those of the file that the module was loaded from.

    Returns:
        The digest of the weights.

    Raises:
        WeightsError: for swapped arguments, and for another module; the hint names a layer inside it.
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
    saving.check_path(path, module)
    arrays = to_canonical(module)
    return save_model(path, module.spec, arrays, extra_of(module, extra))


def _array(variable: Variable) -> Array:
    tensor = keras.ops.convert_to_tensor(variable)
    if keras.backend.standardize_dtype(tensor.dtype) in ("bfloat16", "float16"):
        tensor = keras.ops.cast(tensor, "float32")
    return to_array(tensor)
