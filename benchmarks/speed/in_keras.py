"""Implementations in Keras, on the backend of this process: ours, and `keras.layers.ConvLSTM2D`."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from benchmarks.speed.cases import Case


def build(name: str, case: Case, work: str, threads: int) -> Callable[[], None]:
    """Return a function that does the work of an implementation once; the suffix `xla` selects TensorFlow with XLA."""
    backend = os.environ["KERAS_BACKEND"]
    _set_threads(backend, threads)
    import keras

    from convlstm import keras as own

    kind, _, compiler = name.partition(" ")
    library = own if kind == "ours" else keras.layers
    layer = getattr(library, f"ConvLSTM{len(case.size)}D")
    frames = keras.Input(case.shape(channels_last=True)[1:], batch_size=case.batch)
    x = frames
    for hidden in case.hidden:
        x = layer(hidden, case.kernel, padding="same", return_sequences=True)(x)
    model = keras.Model(frames, x)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse", jit_compile=backend == "jax" or compiler == "xla")
    data = np.random.default_rng(0).standard_normal(case.shape(channels_last=True), dtype=np.float32)
    target = np.zeros((case.batch, case.steps, *case.size, case.hidden[-1]), np.float32)
    if work == "train":
        return lambda: model.train_on_batch(data, target)
    return lambda: model.predict_on_batch(data)


def _set_threads(backend: str, threads: int) -> None:
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.config.threading.get_intra_op_parallelism_threads() != threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
    elif backend == "torch":
        import torch

        torch.set_num_threads(threads)
