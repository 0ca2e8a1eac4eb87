"""The activation functions, for real arrays and for complex-step differentiation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convlstm.spec.types import Array


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(−x)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _between(x: Array, low: float, high: float) -> Array:
    inside = (x.real > low) & (x.real < high)
    return np.where(inside, x, np.clip(x.real, low, high))


def _elu(x: Array) -> Array:
    return np.where(x.real > 0, x, np.expm1(np.where(x.real > 0, 0.0, x)))


ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: _between(x / 6.0 + 0.5, 0.0, 1.0),
    "hard_sigmoid_keras2": lambda x: _between(0.2 * x + 0.5, 0.0, 1.0),
    "tanh": np.tanh,
    "relu": lambda x: np.where(x.real > 0, x, 0.0),
    "identity": lambda x: x,
    "softsign": lambda x: x / (1.0 + np.where(x.real < 0, -x, x)),
    "elu": _elu,
    "softplus": lambda x: np.where(x.real > 0, x, 0.0) + np.log1p(np.exp(np.where(x.real > 0, -x, x))),
}
"""Functions by name; memory decay and the output of the forecaster use `softplus`."""
