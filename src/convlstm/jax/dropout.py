"""Sampling the dropout masks of a call in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from convlstm.frontend import dropout
from convlstm.frontend.dropout import KINDS, MaskSpec
from convlstm.jax import inputs
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

jax.tree_util.register_dataclass(DropoutMasks)  # so that a transformed function takes masks as they are

_PART: ContextVar[tuple[Any, int] | None] = ContextVar("_PART", default=None)


@contextmanager
def batch_part(first: Any, batch_size: int) -> Iterator[None]:
    """Give the rows of a part of a batch, from the row `first`, the masks that they have in the whole batch."""
    token = _PART.set((first, batch_size))
    try:
        yield
    finally:
        _PART.reset(token)


def sample_masks(
    spec: ConvLSTMSpec, key: Array | None, batch: int, input_size: tuple[int, ...], steps: int, dtype: Any = jnp.float32
) -> DropoutMasks | None:
    """Sample every mask of a call, time first and channels last; None in evaluation and without a random part.

    Each mask follows from the key, its layer, direction and kind alone, and those per step from the step.
    """
    if key is None:
        return None

    def sample(mask: MaskSpec) -> Array | None:
        if not mask.rate:
            return None
        if mask.direction is None:
            place: tuple[int, ...] = (mask.layer, 2)  # there is no third direction
        else:
            place = (mask.layer, spec.directions.index(mask.direction), KINDS.index(mask.kind))
        chosen = _bernoulli(reduce(jax.random.fold_in, place, key), mask)
        return jnp.where(chosen, 0.0, 1.0 / (1.0 - mask.rate)).astype(dtype) if mask.is_factor else chosen

    return dropout.sample_masks(spec, batch, input_size, steps, sample, channels_last=True)


def read_masks(
    spec: ConvLSTMSpec, masks: object, batch: int, input_size: tuple[int, ...], steps: int, dtype: Any
) -> DropoutMasks:
    """Return masks of a caller time first, after checking that they fit the call."""

    def read(name: str, mask: object) -> Array:
        # bools, as of zoneout, need less memory and are converted step by step
        array = inputs.as_array(name, mask)
        return array if array.dtype == bool else inputs.as_floats(name, array, dtype)

    return dropout.read_masks(spec, masks, batch, input_size, steps, read, swap_time_and_batch, channels_last=True)


def swap_time_and_batch(mask: Array) -> Array:
    """Return a mask with its first two axes exchanged."""
    return jnp.swapaxes(mask, 0, 1)


def _bernoulli(key: Array, mask: MaskSpec) -> Array:
    """Return True with the probability of the mask."""
    if not mask.is_per_step:
        return _rows_of_bernoulli(key, mask.rate, mask.shape)
    # a key per step, so that the masks of a step do not change with the length of the sequence
    steps, *shape = mask.shape
    return jax.vmap(lambda t: _rows_of_bernoulli(jax.random.fold_in(key, t), mask.rate, tuple(shape)))(
        jnp.arange(steps)
    )


def _rows_of_bernoulli(key: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Return True with a probability (batch, ...); for a part of a batch, its rows of the whole batch."""
    part = _PART.get()
    if part is None:
        return jax.random.bernoulli(key, rate, shape)
    first, batch_size = part
    return lax.dynamic_slice_in_dim(jax.random.bernoulli(key, rate, (batch_size, *shape[1:])), first, shape[0])
