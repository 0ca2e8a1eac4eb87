"""Canonical arrays to and from Flax's parameters: the names of both, and trees of them.

Parameters are a tree of two levels, `{"layers_0_forward": {"kernel": ..., "recurrent_kernel": ...}}`, the same in
nnx, linen, Haiku and the pure functions. A forecaster has one such tree as `encoder`, one as `forecaster`, and `head`;
with `detail_channels` it also has `detail_0`, `detail_1` and `output`.
Kernels are (*space, in, out) as in `flax.linen.Conv`, gates i, f, g, o joined along the last axis.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from convlstm.errors import WeightsError
from convlstm.frontend import saving
from convlstm.frontend.layouts import channels_last_shape, from_channels_last, to_channels_last
from convlstm.frontend.loading import extra_of
from convlstm.jax.inputs import check_key, floating
from convlstm.spec.layer import LayerSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec, canonical_shapes, check_weights, initialise, layer_shapes
from convlstm.weights.checkpoint import save_model

Params = Mapping[str, Any]

_NAMES = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel"}


_TREES = {
    "convlstm.jax.linen": 'variables["params"]',
    "convlstm.jax.haiku": "convlstm.haiku.from_params(params, module.name)",
}
"""The expression of a module's tree of parameters, by the file of a class that holds none."""


class HasWeights(Protocol):
    """A module that holds the parameters of a spec."""

    @property
    def spec(self) -> Spec:
        """The options it was built from."""

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters as a tree of arrays."""

    def set_params(self, params: Params) -> None:
        """Replace the arrays by others of the same tree."""


def native_path(key: str) -> tuple[str, ...]:
    """Return the place of a canonical array in the tree of parameters: ("layers_0_forward", "kernel")."""
    stack, layer, rest = key.partition("layers.")
    if not layer:
        convolution, name = key.rsplit(".", 1)
        return convolution.replace(".", "_"), name.replace("weight", "kernel")
    index, direction, name = rest.split(".", 2)
    path = (layer_name(int(index), direction), native_name(name))
    return (stack.removesuffix("."), *path) if stack else path


def layer_name(index: int, direction: str) -> str:
    """Return the name of the parameters of one layer and direction: `layers_0_forward`."""
    return f"layers_{index}_{direction}"


def native_name(name: str) -> str:
    """Return the name of one array of a layer: `kernel` for `weight_ih`."""
    return _NAMES.get(name, name.replace("weight", "kernel").replace(".", "_"))


def layer_weights(params: Params, layer: LayerSpec, direction: str) -> dict[str, jax.Array]:
    """Return the arrays of one layer and direction by the names of the contract."""
    arrays = params[layer_name(layer.index, direction)]
    return {name: arrays[native_name(name)] for name in layer_shapes(layer)}


def from_canonical(spec: Spec, arrays: Mapping[str, Array], dtype: Any = None) -> dict[str, Any]:
    """Return canonical arrays as a tree of parameters, for linen, Haiku and the pure functions.

    Args:
        spec: A layer stack or a forecaster.
        arrays: Arrays by canonical key; checked against the spec first.
        dtype: Type of the parameters; None keeps the arrays' own, as far as JAX has it.

    Returns:
        The tree.

    Raises:
        WeightsError: if any array is missing, unknown or misshapen.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> from_canonical(spec, initialise(spec, seed=0))["layers_0_forward"]["kernel"].shape
        (3, 3, 1, 32)
    """
    check_weights(spec, arrays)
    return _as_tree(
        {key: jnp.asarray(to_channels_last(key, np.asarray(array)), dtype) for key, array in arrays.items()}
    )


def params_to_canonical(spec: Spec, params: Params) -> dict[str, Array]:
    """Return a tree of parameters as canonical NumPy arrays (copies).

    Args:
        spec: The options the tree belongs to.
        params: Of linen (`variables["params"]`) or the pure functions, nested as `from_canonical` returns them.

    Returns:
        Arrays by canonical key; low precision is widened to float32.

    Raises:
        WeightsError: if an array is missing, unknown or misshapen.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> params = fresh(spec, jax.random.key(0))
        >>> params_to_canonical(spec, params)["layers.0.forward.weight_ih"].shape
        (4, 8, 1, 3, 3)
    """
    check_params(spec, params)
    leaves = _by_path(params)
    arrays = {}
    for key, shape in canonical_shapes(spec).items():
        leaf = leaves["/".join(native_path(key))]
        wide = np.array(leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)))
        arrays[key] = from_channels_last(key, wide, shape)
    return arrays


def to_canonical(module: HasWeights) -> dict[str, Array]:
    """Return a module's weights as canonical NumPy arrays (copies).

    Args:
        module: An nnx layer, cell or forecaster.

    Returns:
        Arrays by canonical key; low precision is widened to float32.

    Raises:
        WeightsError: for another module; the hint names a layer inside it.

    Example:
        >>> from flax import nnx
        >>> from convlstm.flax import ConvLSTM
        >>> layer = ConvLSTM(1, 8, kernel_size=3, rngs=nnx.Rngs(0))
        >>> to_canonical(layer)["layers.0.forward.weight_ih"].shape
        (4, 8, 1, 3, 3)
    """
    _check_module(module)
    return params_to_canonical(module.spec, module.params)


def load_canonical(module: HasWeights, arrays: Mapping[str, Array]) -> None:
    """Copy canonical arrays into a module's parameters, in place.

    Args:
        module: An nnx layer, cell or forecaster.
        arrays: Arrays by canonical key; checked against the module's spec first.

    Raises:
        WeightsError: if any array is missing, unknown or misshapen, and for another module; nothing is copied then.

    Example:
        >>> from flax import nnx
        >>> from convlstm.flax import ConvLSTM
        >>> layer, twin = (ConvLSTM(1, 8, kernel_size=3, rngs=nnx.Rngs(seed)) for seed in (0, 1))
        >>> load_canonical(twin, to_canonical(layer))
        >>> bool((twin.params["layers_0_forward"]["kernel"] == layer.params["layers_0_forward"]["kernel"]).all())
        True
    """
    _check_module(module)
    given = from_canonical(module.spec, arrays)
    module.set_params(jax.tree.map(lambda old, new: new.astype(old.dtype), module.params, given))


def save(path: str | Path, module: HasWeights, extra: dict[str, Any] | None = None) -> str:
    """Write a module's spec and weights to a file that every framework reads.

    Args:
        path: Where to, by custom `*.safetensors`.
        module: An nnx layer, cell or forecaster.
        extra: JSON values to store with them; None takes those of the file that the module was loaded from.

    Returns:
        The digest of the weights.

    Raises:
        WeightsError: for swapped arguments, and for another module; the hint names a layer inside it.
        OutputError: if the file cannot be written; an existing file is unchanged.

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from convlstm.flax import ConvLSTM, load
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3, rngs=nnx.Rngs(0)), {"units": "mm/h"})
        >>> load(path).spec.hidden_channels
        (8,)
    """
    saving.check_path(path, module)
    arrays = to_canonical(module)
    return save_model(path, module.spec, arrays, extra_of(module, extra))


def _check_module(module: object) -> None:
    tree = _TREES.get(type(module).__module__)
    if tree is not None:
        raise WeightsError(
            "module",
            expected="an nnx layer, cell or forecaster",
            received=f"{type(module).__name__} of {type(module).__module__.removeprefix('convlstm.jax.')}",
            hint=f"Call `convlstm.weights.checkpoint.save_model(path, spec, params_to_canonical(spec, {tree}))`.",
        )
    save_all = "orbax.checkpoint.StandardCheckpointer().save(path, nnx.state(module))"
    saving.check_module(module, _parts(module), package="convlstm.flax", save_all=save_all)


def _parts(module: object) -> Iterator[tuple[str, Any]]:
    nnx = sys.modules.get("flax.nnx")  # loaded if there is an nnx module
    if nnx is not None and isinstance(module, nnx.Module):
        for path, part in sorted(nnx.iter_modules(module), key=lambda item: len(item[0])):
            yield saving.expression_of(path), part


def fresh(spec: Spec, key: jax.Array, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Return the contract's initialisation as a tree of parameters, also under `jit`, `vmap` and `eval_shape`.

    Args:
        spec: A layer stack or a forecaster.
        key: A random key, from which the seed of the initialisation is drawn.
        dtype: Type of the parameters.

    Returns:
        The tree.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> fresh(spec, jax.random.key(0))["layers_0_forward"]["bias"].shape
        (32,)
    """
    check_key("key", key)
    seed, dtype = jax.random.bits(key, (), jnp.uint32), floating("dtype", dtype)

    def draw(seed: Any) -> Any:
        start = initialise(spec, int(seed))
        return {key: to_channels_last(key, array).astype(dtype) for key, array in start.items()}

    if isinstance(seed, jax.core.Tracer):  # NumPy draws the weights, so a traced seed has to come to the host
        shapes = {key: channels_last_shape(key, shape) for key, shape in canonical_shapes(spec).items()}
        leaves = {k: jax.ShapeDtypeStruct(s, dtype) for k, s in shapes.items()}  # type: ignore[no-untyped-call]
        return _as_tree(jax.pure_callback(draw, leaves, seed, vmap_method="sequential"))
    return _as_tree({key: jnp.asarray(array) for key, array in draw(seed).items()})


@cache
def parameter_shapes(spec: Spec) -> dict[str, Any]:
    """Return the shape of every parameter, as a tree."""
    return _as_tree({key: channels_last_shape(key, shape) for key, shape in canonical_shapes(spec).items()})


def check_params(like: Spec | Params, params: Any) -> None:
    """Raise an error for a tree of parameters other than that of a spec, or than a tree of the right shapes.

    The `WeightsError` names the first missing, unknown or misshapen array by its path.
    """
    shapes = jax.tree.map(jnp.shape, like) if isinstance(like, Mapping) else parameter_shapes(like)
    required, given = _by_path(shapes), _by_path(params)
    for path in sorted(required.keys() | given.keys()):
        array: Any = given.get(path)
        shape, dtype = (array.shape, array.dtype) if hasattr(array, "dtype") else (None, None)
        if path not in required or shape != required[path] or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            received = type(array).__name__ if dtype is None else f"shape {shape} of {dtype}"
            raise WeightsError(
                path,
                expected=f"a floating array of shape {required[path]}" if path in required else "no array of this name",
                received=received if path in given else "none",
                hint="Pass the parameters and the spec of one model.",
            )


def _as_tree(arrays: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, array in arrays.items():
        *branches, leaf = native_path(key)
        place = tree
        for branch in branches:
            place = place.setdefault(branch, {})
        place[leaf] = array
    return tree


def _by_path(tree: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {"/".join(path) or "params": tree}
    return {key: leaf for name in tree for key, leaf in _by_path(tree[name], (*path, str(name))).items()}
