"""Implementations in Keras on TensorFlow with XLA on an accelerator: ours and `keras.layers.ConvLSTM2D`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.speed.cases import Case


def missing(device: str) -> str | None:
    """Return why nothing can be measured on a device."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if device == "cpu" or (device == "cuda" and gpus):
        return None
    return f"TensorFlow {tf.__version__} finds no device {device}"


def wait_for(device: str) -> Callable[[], None]:
    """Return a function that waits for nothing: each call of `build` reads one number of its result."""
    return lambda: None


def build(name: str, case: Case, work: str, precision: str, device: str) -> Callable[[], None]:
    """Return a function that does the work of an implementation once; TensorFlow computes in TF32 on a GPU."""
    from convlstm import keras as ours

    keras.utils.set_random_seed(0)
    library = ours if name.startswith("ours") else keras.layers
    layer = getattr(library, f"ConvLSTM{len(case.size)}D")
    frames = keras.Input(case.shape(channels_last=True)[1:], batch_size=case.batch)
    x = frames
    for hidden in case.hidden:
        x = layer(hidden, case.kernel, padding="same", return_sequences=True)(x)
    model = keras.Model(frames, x)
    data = tf.constant(np.random.default_rng(0).standard_normal(case.shape(channels_last=True), dtype=np.float32))

    def forward() -> Any:
        return tf.reduce_mean(model(data, training=False))

    def train() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(data, training=True)))
        # a number that depends on every gradient, so that XLA removes none of them
        return loss + 0.0 * tf.add_n([tf.reduce_sum(g) for g in tape.gradient(loss, model.trainable_variables)])

    compiled = tf.function(train if work == "train" else forward, jit_compile=True)
    return lambda: float(compiled()) and None
