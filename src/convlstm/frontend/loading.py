"""Building a framework's module from a model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from convlstm.errors import WeightsError
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.checkpoint import load_model

Dtype = TypeVar("Dtype")
Layer = TypeVar("Layer")
Forecaster = TypeVar("Forecaster")


def load_module(
    path: str | Path,
    read_dtype: Callable[[str], Dtype],
    build_layer: Callable[[ConvLSTMSpec, Dtype], Layer],
    build_forecaster: Callable[[ForecasterSpec, Dtype], Forecaster],
    load_canonical: Callable[[Layer | Forecaster, Mapping[str, Array]], None],
) -> Layer | Forecaster:
    """Read a model file of any framework, build the module it describes, and load its weights.

    `read_dtype` returns the type of the parameters from the type in the file, `float32` or `float64`. A weight that is
    too large for it raises a `WeightsError`.
    """
    model = load_model(path)
    dtype = read_dtype(model.dtype)
    model.check_range(dtype)
    module: Layer | Forecaster
    if isinstance(model.spec, ForecasterSpec):
        module = build_forecaster(model.spec, dtype)
    else:
        module = build_layer(model.spec, dtype)
    load_canonical(module, model.weights)
    return module


def no_float64(path: str | Path, argument: str) -> WeightsError:
    """Return the error for float64 weights that JAX would round to float32; `argument` of `load` rounds them."""
    return WeightsError(
        str(path),
        expected="float32 weights while JAX has no float64",
        received="float64",
        hint=f"Call jax.config.update('jax_enable_x64', True), or pass {argument} to round them.",
    )
