"""Reshaping in TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


def unstacked(array: Tensor, steps: Any) -> Any:
    """Return an array (time, ...) as a TensorArray of its steps, whose reads have cheap gradients inside loops too."""
    steps_array = tf.TensorArray(array.dtype, size=steps, element_shape=array.shape[1:], clear_after_read=False)
    return steps_array.unstack(array)


def over_grid(values: Tensor, rank: int) -> Tensor:
    """Return (time, batch[, channels]) with `rank` axes of one point, before the channels where there are any."""
    for _ in range(rank):
        values = tf.expand_dims(values, 2)
    return values


def swapped(x: Tensor) -> Tensor:
    """Return x with its third and second last axes swapped."""
    rank = len(x.shape)
    return tf.transpose(x, (*range(rank - 3), rank - 2, rank - 3, rank - 1))
