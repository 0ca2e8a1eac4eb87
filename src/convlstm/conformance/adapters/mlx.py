"""How MLX computes the random cases (`convlstm.conformance.compare`)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from convlstm.conformance.compare import TIMES, AnyCase, Arrays, weights_of
from convlstm.conformance.layer_arrays import initial_state, layer_input, layer_times
from convlstm.conformance.random_forecasters import ForecastCase, forecast_results, forecast_state
from convlstm.conformance.random_layers import Case, convert_masks, layer_results
from convlstm.mlx.forecaster import Forecaster
from convlstm.mlx.inputs import LOW
from convlstm.mlx.layer import ConvLSTM
from convlstm.mlx.weights import from_native, to_native, to_numpy
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.types import Array

Leaves = dict[str, mx.array]

_CHANNEL_AXES = {"x": 2, "frames": 2, "output": 2, "forecast": 2, "h": 1, "c": 1}
"""Axis of the channels in a case's arrays; here they are last."""


def run(case: AnyCase, dtype: str, factors: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the results of a case and the gradients of its loss (`convlstm.conformance.compare.Run`)."""
    kind = getattr(mx, dtype)
    module = build(case, kind)
    scale = {name: mx.array(_channels_last(name, array), dtype=_wide(kind)) for name, array in factors.items()}

    def loss(leaves: Leaves) -> tuple[mx.array, Leaves]:
        results = run_arrays(case, module, leaves)
        total = sum((scale[name] * value).sum() for name, value in results.items())
        return mx.array(total), results

    (_, results), found = mx.value_and_grad(loss)(leaves_of(case, kind))
    return (
        {name: _channels_first(name, to_numpy(value), factors[name].shape) for name, value in results.items()},
        {name: _channels_first(name, to_numpy(found[name]), array.shape) for name, array in case.arrays.items()},
    )


def run_arrays(case: AnyCase, module: ConvLSTM | Forecaster, leaves: Leaves) -> Leaves:
    """Return the results of a case by name, channels last, from arrays as `leaves_of` makes them."""
    module.update(tree_unflatten([(name, leaves[name]) for name in weights_of(case)]))
    mask = None if case.mask is None else mx.array(case.mask)
    if isinstance(case, ForecastCase):
        assert isinstance(module, Forecaster)
        optional = {name: leaves.get(name) for name in TIMES}
        forecast, (h, c) = module(
            leaves["frames"],
            case.horizon,
            state=forecast_state(case, leaves),
            mask=mask,
            return_state=True,
            **optional,
        )
        return forecast_results(forecast, h, c)
    assert isinstance(module, ConvLSTM)
    x, steps = layer_input(case, leaves)
    output, (h, c) = module(
        x,
        initial_state(case, leaves),
        steps=steps,
        mask=mask,
        **layer_times(case, leaves),
        dropout_masks=_masks(case, leaves["x"].dtype),
    )
    return layer_results(output, h, c)


def leaves_of(case: AnyCase, dtype: mx.Dtype) -> Leaves:
    """Return every array of a case that gradients are taken of, channels last."""
    wide = (*TIMES, "c.")
    return {
        name: mx.array(_channels_last(name, array), dtype=_wide(dtype) if name.startswith(wide) else dtype)
        for name, array in case.arrays.items()
    }


def build(case: AnyCase, dtype: mx.Dtype) -> ConvLSTM | Forecaster:
    """Return the module of a case, in training mode if it has dropout masks."""
    if isinstance(case, ForecastCase):
        module: ConvLSTM | Forecaster = Forecaster(case.spec, dtype=dtype)
        module.eval()
    else:
        module = ConvLSTM.from_spec(case.spec, dtype=dtype)
        module.train(case.masks is not None)
    return module


def _wide(dtype: mx.Dtype) -> mx.Dtype:
    return mx.float32 if dtype in LOW else dtype


def _channels_last(name: str, array: Array) -> Array:
    axis = _channel_axis(name)
    return to_native(name, array) if axis is None else np.moveaxis(array, axis, -1)


def _channels_first(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    axis = _channel_axis(name)
    return from_native(name, array, shape) if axis is None else np.moveaxis(array, -1, axis)


def _channel_axis(name: str) -> int | None:
    is_weight = name in ("output.weight", "output.bias")  # of a forecaster; `output.0` is a result of a layer
    return None if is_weight else _CHANNEL_AXES.get(name.partition(".")[0])


def _masks(case: Case, dtype: mx.Dtype) -> DropoutMasks | None:
    axis = -1 - case.spec.spatial_dims
    return convert_masks(case, lambda mask: mx.array(np.moveaxis(mask, axis, -1), dtype=dtype))
