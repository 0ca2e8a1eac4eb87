"""Measure the rounding error of Winograd convolution and of direct convolution, in Keras on TensorFlow on a CPU.

    KERAS_BACKEND=tensorflow python -m benchmarks.winograd_rounding_keras

For two stacks, the script prints the largest and the root mean square difference of the float32 outputs and gradients
of the kernels from float64, divided by the root mean square of the float64 values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.speed.cases import CASES, Case
from convlstm.engine.tensorflow import fused, winograd
from convlstm.keras import ConvLSTM2D


def main() -> None:
    """Print a line for each stack and kind."""
    for name, batch, steps in (("openstl", 4, 8), ("paper", 8, 8)):
        case = CASES[name]
        x = np.random.default_rng(0).standard_normal((batch, steps, *case.size, case.channels))
        exact = run(case, x, "float64")
        for kind, choose in (("Winograd", winograd.is_faster), ("direct", lambda *_: False)):
            fused.is_faster = choose
            parts = list(zip(run(case, x, "float32"), exact, strict=True))
            print_errors(f"{name:8s} {kind:9s} outputs  ", parts[:1])
            print_errors(f"{name:8s} {kind:9s} gradients", parts[1:])


def run(case: Case, x: Any, dtype: str) -> list[Any]:
    """Return the outputs of the layers, and the gradients of their kernels for half the sum of the squared outputs."""
    layers = [ConvLSTM2D(h, case.kernel, padding="same", return_sequences=True, dtype=dtype) for h in case.hidden]

    def forward(y: Any) -> Any:
        for layer in layers:
            y = layer(y, training=True)
        return y

    frames = tf.constant(x, dtype)
    forward(frames[:1, :1])
    for layer in layers:
        layer.set_weights(weights(layer))
    kernels = [variable.value for layer in layers for variable in layer.trainable_variables if variable.ndim == 4]

    @tf.function
    def derivatives(frames: Any) -> Any:
        with tf.GradientTape() as tape:
            y = forward(frames)
            loss = tf.reduce_sum(y**2) / 2
        return y, *tape.gradient(loss, kernels)

    return [np.asarray(part, np.float64) for part in derivatives(frames)]


def weights(layer: Any) -> list[Any]:
    """Return weights of the initial size, the same for every type."""
    random, fan_in = np.random.default_rng(0), np.prod(layer.get_weights()[0].shape[:3])
    return [np.float32(random.uniform(-1, 1, w.shape) / np.sqrt(fan_in)) for w in layer.get_weights()]


def print_errors(label: str, parts: list[tuple[Any, Any]]) -> None:
    """Print the largest errors of pairs of an array and the exact one."""
    scales = [np.sqrt(np.mean(exact**2)) for _, exact in parts]
    differences = [(found - exact) / scale for (found, exact), scale in zip(parts, scales, strict=True)]
    largest = max(np.abs(difference).max() for difference in differences)
    root_mean_square = max(np.sqrt(np.mean(difference**2)) for difference in differences)
    print(f"{label} largest {largest:.1e}  rms {root_mean_square:.1e}", flush=True)


if __name__ == "__main__":
    main()
