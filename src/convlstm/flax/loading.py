"""Building an nnx module from a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from convlstm.errors import WeightsError
from convlstm.flax.forecaster import Forecaster
from convlstm.flax.layer import ConvLSTM
from convlstm.flax.weights import load_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.checkpoint import load_model


def load(path: str | Path, *, dtype: Any = None, param_dtype: Any = None) -> ConvLSTM | Forecaster:
    """Read a model file of any framework into an nnx module, in evaluation mode.

    Args:
        path: A file that `save` of any face wrote.
        dtype: Type of the convolutions; None takes that of input and parameters together.
        param_dtype: Type of the parameters; None takes the file's own, float32 or float64.

    Returns:
        A layer or a forecaster with the file's weights.

    Raises:
        WeightsError: if the file is no intact model file, or holds float64 that JAX would round to float32.

    Example:
        >>> import tempfile
        >>> from convlstm.flax import save
        >>> path = Path(tempfile.mkdtemp()) / "layer.safetensors"
        >>> digest = save(path, ConvLSTM(1, 8, kernel_size=3, rngs=nnx.Rngs(0)))
        >>> type(load(path)).__name__
        'ConvLSTM'
    """
    model = load_model(path)
    param_dtype = model.dtype if param_dtype is None else param_dtype
    model.check_range(np.dtype(param_dtype))
    if np.dtype(param_dtype) == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise WeightsError(
            str(path),
            expected="float32 weights while JAX has no float64",
            received="float64",
            hint="call jax.config.update('jax_enable_x64', True), or pass param_dtype=jnp.float32 to round them.",
        )
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": nnx.Rngs(0)}
    if isinstance(model.spec, ForecasterSpec):
        module: ConvLSTM | Forecaster = Forecaster(model.spec, **options)
    else:
        module = ConvLSTM.from_spec(model.spec, **options)
    load_canonical(module, model.weights)
    module.eval()  # type: ignore[no-untyped-call]
    return module
