"""The activations in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any


def _hard_sigmoid(slope: float) -> Callable[[Tensor], Tensor]:
    # tf.clip_by_value passes the gradient on at both ends; here it is 0
    def function(x: Tensor) -> Tensor:
        z = slope * x + 0.5
        return tf.where((z > 0) & (z < 1), z, tf.stop_gradient(tf.clip_by_value(z, 0, 1)))

    return function


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": tf.sigmoid,
    "hard_sigmoid": _hard_sigmoid(1.0 / 6.0),
    "hard_sigmoid_keras2": _hard_sigmoid(0.2),
    "tanh": tf.tanh,
    "relu": tf.nn.relu,
    "identity": lambda x: x,
    "softsign": tf.nn.softsign,
    "elu": tf.nn.elu,
    "softplus": tf.nn.softplus,
}
"""The activations by name; memory decay and the forecaster's output use `softplus`."""
