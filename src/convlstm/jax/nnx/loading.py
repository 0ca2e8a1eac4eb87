"""Building an nnx module from a model file."""

from __future__ import annotations

from pathlib import Path

from flax import nnx
from jax.typing import DTypeLike

from convlstm.frontend.loading import load_module
from convlstm.jax.loading import parameter_dtype
from convlstm.jax.nnx.forecaster import Forecaster
from convlstm.jax.nnx.layer import ConvLSTM
from convlstm.jax.weights import load_canonical


def load(path: str | Path, *, dtype: DTypeLike | None = None) -> ConvLSTM | Forecaster:
    """Read a model file of any framework into an nnx module, in evaluation mode.

    Args:
        path: A file that `save` of any framework wrote.
        dtype: Type of the parameters, as in every framework; None takes the file's own, float32 or float64. The
            convolutions run in the type of frames and parameters together.

    Returns:
        A layer or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is not an intact model file, or holds float64 that JAX would round to float32.

    Example:
        >>> import tempfile
        >>> from convlstm.flax import save
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3, rngs=nnx.Rngs(0)))
        >>> type(load(path)).__name__
        'ConvLSTM'
    """
    module: ConvLSTM | Forecaster = load_module(
        path,
        lambda stored: parameter_dtype(path, stored, dtype),
        lambda spec, chosen: ConvLSTM.from_spec(spec, param_dtype=chosen, rngs=nnx.Rngs(0)),
        lambda spec, chosen: Forecaster(spec, param_dtype=chosen, rngs=nnx.Rngs(0)),
        load_canonical,
    )
    module.eval()  # type: ignore[no-untyped-call]
    return module
