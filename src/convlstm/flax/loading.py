"""Building an nnx module from a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from convlstm.contract.checkpoint import load_model
from convlstm.contract.forecaster import ForecasterSpec
from convlstm.flax.forecaster import Forecaster
from convlstm.flax.layer import ConvLSTM
from convlstm.flax.weights import load_canonical


def load(path: str | Path, *, dtype: Any = None, param_dtype: Any = jnp.float32) -> ConvLSTM | Forecaster:
    """Read a model file of any framework into an nnx module, in evaluation mode.

    Args:
        path: A file that `save` of any face wrote.
        dtype: Type of the convolutions; None takes that of input and parameters together.
        param_dtype: Type of the parameters.

    Returns:
        A layer or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is no intact model file.

    Example:
        >>> import tempfile
        >>> from convlstm.flax import save
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3, rngs=nnx.Rngs(0)))
        >>> type(load(path)).__name__
        'ConvLSTM'
    """
    model = load_model(path)
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": nnx.Rngs(0)}
    if isinstance(model.spec, ForecasterSpec):
        module: ConvLSTM | Forecaster = Forecaster(model.spec, **options)
    else:
        module = ConvLSTM.from_spec(model.spec, **options)
    load_canonical(module, model.weights)
    module.eval()  # type: ignore[no-untyped-call]
    return module
