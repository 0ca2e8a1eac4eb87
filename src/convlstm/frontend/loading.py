"""Building a framework's module from a model file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from convlstm.errors import WeightsError
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.checkpoint import load_model

Dtype = TypeVar("Dtype")
Layer = TypeVar("Layer", bound="HoldsExtra")
Forecaster = TypeVar("Forecaster", bound="HoldsExtra")


class HoldsExtra:
    """A module that keeps the JSON values of the model file that it was loaded from, so that `save` writes them again.

    They are stored as text, which no framework takes for a parameter, and which can be hashed.
    """

    _extra_text: str = "{}"

    @property
    def extra(self) -> dict[str, Any]:
        """JSON values of the model file that the module was loaded from, such as units; empty without such a file."""
        return extra_of(self, None)


def extra_of(module: object, extra: dict[str, Any] | None) -> dict[str, Any]:
    """Return the JSON values to save with a module: `extra`, or for None those that it was loaded with."""
    if extra is not None:
        return extra
    kept: dict[str, Any] = json.loads(getattr(module, "_extra_text", "{}"))
    return kept


def load_module(
    path: str | Path,
    read_dtype: Callable[[str], Dtype],
    build_layer: Callable[[ConvLSTMSpec, Dtype], Layer],
    build_forecaster: Callable[[ForecasterSpec, Dtype], Forecaster],
    load_canonical: Callable[[Layer | Forecaster, Mapping[str, Array]], None],
) -> Layer | Forecaster:
    """Read a model file of any framework, build the module it describes, and load its weights and its extra values.

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
    if model.extra:
        module._extra_text = json.dumps(model.extra)
    return module


def no_float64(path: str | Path, argument: str) -> WeightsError:
    """Return the error for float64 weights that JAX would round to float32; `argument` of `load` rounds them."""
    return WeightsError(
        str(path),
        expected="float32 weights while JAX has no float64",
        received="float64",
        hint=f"Call jax.config.update('jax_enable_x64', True), or pass {argument} to round them.",
    )
