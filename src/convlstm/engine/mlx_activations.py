"""The contract's activations in MLX; in float64 in forms that are exact where MLX's own are not.

On CPU, MLX's float64 `exp` and `sigmoid` are right to single precision only; `power`, `tanh`, `log` and `expm1` are
right to the last digits.
"""

from __future__ import annotations

from collections.abc import Callable
from math import e

import mlx.core as mx


def exp(x: mx.array) -> mx.array:
    """Return eˣ, in float64 as a power, which is exact there."""
    return mx.power(mx.array(e, dtype=x.dtype), x) if x.dtype == mx.float64 else mx.exp(x)


def _sigmoid(x: mx.array) -> mx.array:
    return 0.5 * (1.0 + mx.tanh(0.5 * x)) if x.dtype == mx.float64 else mx.sigmoid(x)


def _hard_sigmoid(slope: float) -> Callable[[mx.array], mx.array]:
    # the gradient of clip is not 0 at the ends; this form's is
    def function(x: mx.array) -> mx.array:
        z = slope * x + 0.5
        return mx.where((z > 0) & (z < 1), z, mx.stop_gradient(mx.clip(z, 0, 1)))

    return function


def _relu(x: mx.array) -> mx.array:
    return mx.where(x > 0, x, mx.zeros_like(x))


def _elu(x: mx.array) -> mx.array:
    return mx.where(x > 0, x, mx.expm1(mx.where(x > 0, mx.zeros_like(x), x)))


def _softplus(x: mx.array) -> mx.array:
    return _relu(x) + mx.log1p(exp(mx.where(x > 0, -x, x)))


ACTIVATION_FUNCTIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "sigmoid": _sigmoid,
    "hard_sigmoid": _hard_sigmoid(1.0 / 6.0),
    "hard_sigmoid_keras2": _hard_sigmoid(0.2),
    "tanh": mx.tanh,
    "relu": _relu,
    "identity": lambda x: x,
    "softsign": lambda x: x / (1.0 + mx.abs(x)),
    "elu": _elu,
    "softplus": _softplus,
}
"""The contract's activations by name; `softplus` serves memory decay and the forecaster's output."""
