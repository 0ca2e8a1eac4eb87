"""The activations in MLX, in float64 in forms that are exact where MLX's own are not.

On CPU, MLX's float64 `exp` and `sigmoid` have single precision only; `power`, `tanh`, `log` and `expm1` are accurate to
the last digits. Except on Apple's machines its CPU computes tanh one value at a time, which takes as long as some
seventy products: in float32 a quotient of two polynomials replaces it there, with an error of at most 4e-7.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from math import e
from typing import Any

import mlx.core as mx


def exp(x: mx.array) -> mx.array:
    """Return eˣ, in float64 as a power, which is exact there."""
    return mx.power(mx.array(e, dtype=x.dtype), x) if x.dtype == mx.float64 else mx.exp(x)


# tanh x = x · P(x²) / Q(x²) up to ±7.9, where tanh is 1 in float32: least relative error for these degrees, 6e-9
_BOUND = 7.9
_P = (0.999999994, 0.134506265, 0.00357899912, 2.20233634e-05, 1.54281412e-08)
_Q = (1.0, 0.467839545, 0.0261922649, 0.000342366221, 8.598848e-07)


def _quotient(x: mx.array) -> mx.array:
    x = mx.clip(x, -_BOUND, _BOUND)
    u = x * x
    return x * _polynomial(_P, u) / _polynomial(_Q, u)


_fast_tanh: Any = mx.custom_function(_quotient)


@_fast_tanh.vjp  # type: ignore[untyped-decorator]
def _fast_tanh_vjp(x: mx.array, dy: mx.array, y: mx.array) -> mx.array:
    return dy * (1.0 - y * y)


@_fast_tanh.jvp  # type: ignore[untyped-decorator]
def _fast_tanh_jvp(x: mx.array, tangent: mx.array) -> mx.array:
    y: mx.array = _fast_tanh(x)
    return tangent * (1.0 - y * y)


@_fast_tanh.vmap  # type: ignore[untyped-decorator]
def _fast_tanh_vmap(x: mx.array, axis: int) -> tuple[mx.array, int]:
    return _fast_tanh(x), axis


def _polynomial(coefficients: Sequence[float], u: mx.array) -> mx.array:
    total = coefficients[-1] * u + coefficients[-2]
    for coefficient in reversed(coefficients[:-2]):
        total = total * u + coefficient
    return total


def _is_slow(x: mx.array) -> bool:
    """Return whether MLX computes the tanh of this array one value at a time."""
    return x.dtype == mx.float32 and sys.platform != "darwin" and mx.default_device().type == mx.cpu


def _tanh(x: mx.array) -> mx.array:
    y: mx.array = _fast_tanh(x) if _is_slow(x) else mx.tanh(x)
    return y


def _sigmoid(x: mx.array) -> mx.array:
    if x.dtype == mx.float64 or _is_slow(x):
        return 0.5 + 0.5 * _tanh(0.5 * x)
    return mx.sigmoid(x)


def _hard_sigmoid(slope: float) -> Callable[[mx.array], mx.array]:
    # the gradient of clip is not 0 at the ends; that of this form is
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
    "tanh": _tanh,
    "relu": _relu,
    "identity": lambda x: x,
    "softsign": lambda x: x / (1.0 + mx.abs(x)),
    "elu": _elu,
    "softplus": _softplus,
}
"""The activations by name; memory decay and the forecaster's output use `softplus`."""
