"""Building a Haiku module from a model file, and the names of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.typing import DTypeLike

from convlstm.jax.haiku import ConvLSTM
from convlstm.jax.loading import load_stack
from convlstm.jax.weights import from_canonical


def load(
    path: str | Path,
    *,
    name: str = "conv_lstm",
    dtype: DTypeLike | None = None,
) -> tuple[Callable[[], ConvLSTM], dict[str, Any]]:
    """Read the model file of a layer, of any framework, for use inside `hk.transform`.

    Args:
        path: A file that `save` of any framework or `convlstm convert` wrote.
        name: Name of the module in Haiku.
        dtype: Type of the parameters, as in every framework; None takes the file's own, float32 or float64.

    Returns:
        A function that builds the module inside `hk.transform`, and its parameters. Pass `deterministic=True` to the
        module in evaluation. The values that were saved as `extra` are
        `convlstm.weights.checkpoint.load_model(path).extra`.

    Raises:
        WeightsError: if the file is no intact model file, is one of a forecaster, or holds float64 that JAX would round
            to float32.

    Example:
        >>> import tempfile
        >>> import haiku as hk
        >>> import jax.numpy as jnp
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.weights.canonical import initialise
        >>> from convlstm.weights.checkpoint import save_model
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save_model(path, spec, initialise(spec, seed=0))
        >>> build, params = load(path, dtype=jnp.float32)
        >>> layer = hk.without_apply_rng(hk.transform(lambda x: build()(x)))
        >>> carry, y = layer.apply(params, jnp.zeros((2, 5, 16, 16, 1)))
        >>> y.shape
        (2, 5, 16, 16, 8)
    """
    spec, model, chosen = load_stack(path, dtype)
    options = spec.to_dict()
    sizes = [options.pop(key) for key in ("in_channels", "hidden_channels", "kernel_size", "num_layers")]

    def build() -> ConvLSTM:
        return ConvLSTM(*sizes, param_dtype=chosen, name=name, **options)

    return build, to_params(from_canonical(spec, model.weights, chosen), name)


def to_params(tree: dict[str, Any], module: str = "conv_lstm") -> dict[str, Any]:
    """Return a tree of parameters (`convlstm.jax.from_canonical`) under the names of a Haiku module.

    Args:
        tree: Of `from_canonical`, `fresh` or linen's `variables["params"]`.
        module: The module's name in Haiku: `conv_lstm`, or `conv_lstm_cell` and so on.

    Returns:
        Haiku's parameters.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.jax import from_canonical
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> sorted(to_params(from_canonical(spec, initialise(spec, seed=0))))
        ['conv_lstm/layers_0_forward']
    """
    return {f"{module}/{group}": arrays for group, arrays in tree.items()}


def from_params(params: Any, module: str = "conv_lstm") -> dict[str, Any]:
    """Undo `to_params`, for `convlstm.jax.params_to_canonical`.

    Args:
        params: Haiku's parameters.
        module: The module's name in Haiku.

    Returns:
        The tree of parameters.
    """
    return {
        name.removeprefix(f"{module}/"): dict(arrays)
        for name, arrays in params.items()
        if name.startswith(f"{module}/")
    }
