"""How Keras computes the random cases (`convlstm.conformance.compare`)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import keras
import numpy as np

from convlstm.conformance.compare import TIMES, AnyCase, Arrays, weights_of
from convlstm.conformance.layer_arrays import initial_state, layer_input, layer_times
from convlstm.conformance.random_forecasters import ForecastCase, forecast_results, forecast_state
from convlstm.conformance.random_layers import Case, convert_masks, layer_results
from convlstm.frontend.layouts import from_channels_last, to_channels_last
from convlstm.keras.differentiation import Tensors, compiled, replaced, value_and_gradients
from convlstm.keras.engines import BACKEND, Tensor, to_array
from convlstm.keras.forecaster import Forecaster
from convlstm.keras.stack_layer import ConvLSTMStack
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.types import Array


def run(case: AnyCase, dtype: str, factors: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the results of a case and the gradients of its loss (`convlstm.conformance.compare.Run`)."""
    with _double_precision(dtype):
        return _run(case, dtype, factors)


def _run(case: AnyCase, dtype: str, factors: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    weights = weights_of(case)
    spec = case.spec.encoder if isinstance(case, ForecastCase) else case.spec
    rank, module = spec.spatial_dims, _module(case, dtype)
    compute: Any = _forecast if isinstance(case, ForecastCase) else _layer

    def results(tensors: Tensors, training: bool = False) -> Tensors:
        with replaced(module.canonical_variables(), {name: tensors[name] for name in weights}):
            found = compute(module, case, tensors, training and not spec.is_random)
        return {name: _channels_first(value, rank) for name, value in found.items()}

    def loss(tensors: Tensors) -> Tensor:
        found = results(tensors, training=True)  # an engine may have a custom gradient there
        products = [_tensor(f, "float64") * keras.ops.cast(found[name], "float64") for name, f in factors.items()]
        return sum(keras.ops.sum(product) for product in products)

    tensors = {name: _tensor(to_channels_last(name, array), dtype) for name, array in weights.items()}
    wide = "float64" if dtype == "float64" else "float32"
    for name in case.arrays.keys() - weights.keys():
        kind = wide if name.startswith((*TIMES, "c.")) else dtype
        tensors[name] = _tensor(_channels_last(case.arrays[name], rank), kind)
    # operation by operation, JAX would compile each of them for each shape
    once = compiled if BACKEND == "jax" else lambda function: function
    _, found = once(partial(value_and_gradients, loss))(tensors)
    gradients = {
        name: from_channels_last(name, _array(g), case.arrays[name].shape)
        if name in weights
        else _array(_channels_first(g, rank))
        for name, g in found.items()
    }
    return {name: _array(value) for name, value in once(results)(tensors).items()}, gradients


def _module(case: AnyCase, dtype: str) -> Any:
    return (Forecaster if isinstance(case, ForecastCase) else ConvLSTMStack)(case.spec, dtype=dtype)  # type: ignore[arg-type]


def _layer(module: ConvLSTMStack, case: Case, tensors: Tensors, training: bool) -> Tensors:
    x, steps = layer_input(case, tensors)
    output, (h, c) = module(
        x,
        initial_state(case, tensors),
        steps=steps,
        mask=case.mask,
        training=training or case.masks is not None,
        **layer_times(case, tensors),
        dropout_masks=_masks(case, module.compute_dtype),
    )
    return layer_results(output, h, c)


def _forecast(module: Forecaster, case: ForecastCase, tensors: Tensors, training: bool) -> Tensors:
    optional = {name: tensors.get(name) for name in TIMES}
    forecast, (h, c) = module(
        tensors["frames"],
        horizon=case.horizon,
        mask=case.mask,
        training=training,
        state=forecast_state(case, tensors),
        return_state=True,
        **optional,
    )
    return forecast_results(forecast, h, c)


def _masks(case: Case, dtype: str) -> DropoutMasks | None:
    rank = case.spec.spatial_dims
    return convert_masks(case, lambda mask: _tensor(_channels_last(mask, rank), dtype))


def _channels_last(array: Array, rank: int) -> Array:
    """Return frames and states with their channels last, and (batch, time) as it is."""
    return np.moveaxis(array, -1 - rank, -1) if array.ndim >= rank + 2 else array


def _channels_first(tensor: Tensor, rank: int) -> Tensor:
    return keras.ops.moveaxis(tensor, -1, -1 - rank) if len(tensor.shape) >= rank + 2 else tensor


def _tensor(array: Array, dtype: str) -> Tensor:
    return keras.ops.convert_to_tensor(np.array(array, order="C"), dtype=dtype)


def _array(tensor: Tensor) -> Array:
    return to_array(tensor).astype(np.float64)


def _double_precision(dtype: str) -> AbstractContextManager[Any]:
    """Return a scope in which JAX computes in float64; the other backends always can."""
    if BACKEND != "jax":
        return nullcontext()
    scope: AbstractContextManager[Any] = import_module("jax").enable_x64(True)
    return scope
