"""The type of the parameters that a model file is loaded into, for every module of JAX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from convlstm.errors import WeightsError
from convlstm.frontend.loading import no_float64
from convlstm.jax.inputs import floating
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.checkpoint import Model, load_model


def parameter_dtype(path: str | Path, stored: str, dtype: DTypeLike | None) -> Any:
    """Return the type of the parameters: `dtype`, or that of the file unless JAX would round it."""
    chosen = stored if dtype is None else floating("dtype", dtype)
    if np.dtype(chosen) == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise no_float64(path, "dtype=jnp.float32")
    return chosen


def load_stack(path: str | Path, dtype: DTypeLike | None) -> tuple[ConvLSTMSpec, Model, Any]:
    """Read the model file of a layer stack; return its spec, the model and the type of the parameters."""
    model = load_model(path)
    if not isinstance(model.spec, ConvLSTMSpec):
        raise WeightsError(
            str(path),
            expected="the model file of a layer",
            received="that of a forecaster",
            hint="Use `convlstm.flax.load` for a forecaster.",
        )
    chosen = parameter_dtype(path, model.dtype, dtype)
    model.check_range(chosen)
    return model.spec, model, chosen
