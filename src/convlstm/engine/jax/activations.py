"""The activations in JAX."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax


def _hard_sigmoid(slope: float) -> Callable[[Array], Array]:
    # jax.nn.hard_sigmoid splits the gradient at the ends; this form has gradient 0 there.
    def function(x: Array) -> Array:
        z = slope * x + 0.5
        return jnp.where((z > 0) & (z < 1), z, lax.stop_gradient(jnp.clip(z, 0, 1)))

    return function


ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": jax.nn.sigmoid,
    "hard_sigmoid": _hard_sigmoid(1.0 / 6.0),
    "hard_sigmoid_keras2": _hard_sigmoid(0.2),
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
    "softsign": jax.nn.soft_sign,
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
}
"""The activations by name; memory decay and the forecaster's output use `softplus`."""
