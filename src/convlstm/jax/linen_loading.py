"""Building a linen module from a model file, or from the parameters of Flax's own cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from convlstm.interop.linen import read_linen
from convlstm.jax.linen import ConvLSTM
from convlstm.jax.loading import load_stack
from convlstm.jax.weights import from_canonical
from convlstm.spec.options import ConvLSTMSpec


def load(path: str | Path, *, dtype: DTypeLike | None = None) -> tuple[ConvLSTM, dict[str, Any]]:
    """Read the model file of a layer, of any framework, into a linen module in evaluation mode.

    Args:
        path: A file that `save` of any framework or `convlstm convert` wrote.
        dtype: Type of the parameters, as in every framework; None takes the file's own, float32 or float64.

    Returns:
        The module, and its variables for `apply`. The values that were saved as `extra` are
        `convlstm.weights.checkpoint.load_model(path).extra`.

    Raises:
        WeightsError: if the file is no intact model file, is one of a forecaster, or holds float64 that JAX would round
            to float32.

    Example:
        >>> import tempfile
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.weights.canonical import initialise
        >>> from convlstm.weights.checkpoint import save_model
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save_model(path, spec, initialise(spec, seed=0))
        >>> layer, variables = load(path, dtype=jnp.float32)
        >>> carry, y = layer.apply(variables, jnp.zeros((2, 5, 16, 16, 1)))
        >>> y.shape
        (2, 5, 16, 16, 8)
    """
    spec, model, chosen = load_stack(path, dtype)
    layer = ConvLSTM(spec=spec, param_dtype=chosen, deterministic=True)
    return layer, {"params": from_canonical(spec, model.weights, chosen)}


def from_flax_cell(
    params: Mapping[str, Any], *, layers: Sequence[str] = (), **options: Any
) -> tuple[ConvLSTM, dict[str, Any]]:
    """Return the linen module and the variables for parameters of `flax.linen.ConvLSTMCell`.

    The two biases of Flax's cell and the 1 that it adds to the forget gate at every call are one bias here:
    b = b_ih + b_hh, plus 1 for f. The gates i, g, f, o of Flax become i, f, g, o.

    Args:
        params: Parameters of the cell, alone or within `nn.RNN`, `nn.Bidirectional` and `nn.Sequential`.
        layers: Parts of paths that name the layers in order; none reads the only stack.
        **options: `direction="reverse"` for `nn.RNN(reverse=True, keep_order=True)`, and the `merge` of
            `nn.Bidirectional`.

    Returns:
        The module, and its variables for `apply`. `variables["params"]` are also those of a
        `convlstm.flax.linen.ConvLSTMCell` of the same size.

    Raises:
        SpecError: for an option the cell does not have.
        WeightsError: if there is no such cell, several that are not a stack, or arrays that do not fit.

    Example:
        >>> import jax
        >>> from flax import linen as nn
        >>> x = jnp.ones((2, 5, 16, 16, 1))
        >>> rnn = nn.RNN(nn.ConvLSTMCell(features=8, kernel_size=(3, 3)))
        >>> expected, theirs = rnn.init_with_output(jax.random.key(0), x)
        >>> layer, variables = from_flax_cell(theirs)
        >>> bool(jnp.allclose(layer.apply(variables, x)[1], expected, atol=1e-5))
        True
    """
    converted = read_linen(params, layers=layers, **options)
    assert isinstance(converted.spec, ConvLSTMSpec), "this layout has layer stacks only"
    tree = from_canonical(converted.spec, converted.weights)
    dtype = jnp.result_type(*{array.dtype for array in converted.weights.values()})
    return ConvLSTM(spec=converted.spec, param_dtype=dtype), {"params": tree}
