"""How JAX computes the random cases (`convlstm.conformance.compare`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convlstm.conformance.compare import INPUTS, TIMES, AnyCase, Arrays, weights_of
from convlstm.conformance.layer_arrays import initial_state, layer_input, layer_times
from convlstm.conformance.random_forecasters import ForecastCase, forecast_results, forecast_state
from convlstm.conformance.random_layers import Case, convert_masks, layer_results
from convlstm.engine.jax.recurrence import State
from convlstm.jax import functional
from convlstm.jax.forecasting import forecast
from convlstm.jax.weights import from_canonical, params_to_canonical
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.types import Array

Leaves = dict[str, jax.Array]


def run(case: AnyCase, dtype: str, factors: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the results of a case and the gradients of its loss (`convlstm.conformance.compare.Run`)."""
    with jax.enable_x64(True):
        return _run(case, dtype, factors)


def _run(case: AnyCase, dtype: str, factors: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    params = from_canonical(case.spec, weights_of(case), dtype)
    kinds = {name: "float32" if name.startswith(TIMES) and dtype != "float64" else dtype for name in case.arrays}
    inputs = [name for name in case.arrays if name.startswith(INPUTS)]
    leaves = {name: jnp.asarray(_channels_last(name, case.arrays[name]), kinds[name]) for name in inputs}

    def loss(params: Any, leaves: Leaves) -> tuple[jax.Array, Leaves]:
        results = _forecaster(case, params, leaves) if isinstance(case, ForecastCase) else _layer(case, params, leaves)
        total = [(jnp.asarray(_channels_last(name, factors[name])) * value).sum() for name, value in results.items()]
        return jnp.stack(total).sum(), results

    # compiled as one, since op by op it takes minutes
    derived = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, results), (of_params, of_leaves) = derived(params, leaves)
    found = {name: _channels_first(name, array) for name, array in of_leaves.items()}
    return (
        {name: _channels_first(name, array) for name, array in results.items()},
        found | {name: array.astype(np.float64) for name, array in params_to_canonical(case.spec, of_params).items()},
    )


def _layer(case: Case, params: Any, leaves: Leaves) -> Leaves:
    x, steps = layer_input(case, leaves)
    (h, c), output = functional.layer(
        case.spec,
        params,
        x,
        State(*initial_state(case, leaves)),
        steps=steps,
        mask=case.mask,
        **layer_times(case, leaves),
        dropout_masks=_masks(case),
    )
    return layer_results(output, h, c)


def _forecaster(case: ForecastCase, params: Any, leaves: Leaves) -> Leaves:
    times: dict[str, Any] = {name: leaves.get(name) for name in TIMES}
    state = forecast_state(case, leaves)
    carry, future = forecast(
        case.spec,
        params,
        leaves["frames"],
        case.horizon,
        carry=None if state is None else State(*state),
        mask=case.mask,
        return_carry=True,
        **times,
    )
    return forecast_results(future, *carry)


def _masks(case: Case) -> DropoutMasks | None:
    axis = -1 - case.spec.spatial_dims
    return convert_masks(case, lambda mask: jnp.asarray(np.moveaxis(mask, axis, -1)))


def _channel_axis(name: str) -> int | None:
    """Return where the channels of an input or result are in the contract; None for times."""
    if name.startswith(TIMES):
        return None
    return 2 if name.startswith(("x", "frames", "output", "forecast")) else 1


def _channels_last(name: str, array: Array) -> Array:
    axis = _channel_axis(name)
    return array if axis is None else np.moveaxis(array, axis, -1)


def _channels_first(name: str, array: jax.Array) -> Array:
    axis, wide = _channel_axis(name), np.asarray(array.astype(jnp.promote_types(array.dtype, jnp.float32)), np.float64)
    return wide if axis is None else np.moveaxis(wide, -1, axis)
