"""Sampling the dropout masks of a call in training."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from convlstm.frontend import dropout
from convlstm.frontend.dropout import KINDS, DropoutMasks, MaskSpec
from convlstm.jax.weights import layer_name
from convlstm.spec.options import ConvLSTMSpec

jax.tree_util.register_dataclass(DropoutMasks)  # so that a transformed function takes masks as they are


def sample_masks(
    spec: ConvLSTMSpec, key: Array | None, batch: int, input_size: tuple[int, ...], steps: int, dtype: Any = jnp.float32
) -> DropoutMasks | None:
    """Sample every mask that a call in training needs.

    Args:
        spec: The stack.
        key: Random key; each mask follows from it, its layer, direction and kind alone. None means evaluation.
        batch: Rows of the batch.
        input_size: Spatial size of the stack's input.
        steps: Number of steps.
        dtype: Type of the factors.

    Returns:
        The masks, channels last and by the names in the tree of parameters, as `layers_0_forward`; or None in
        evaluation and where the stack has no random part.

    Example:
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3, recurrent_dropout=0.5)
        >>> dropout_masks = sample_masks(spec, jax.random.key(0), batch=2, input_size=(16, 16), steps=5)
        >>> dropout_masks.masks["layers_0_forward"].recurrent.shape
        (2, 16, 16, 8)
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

    return dropout.sample_masks(spec, batch, input_size, steps, sample, channels_last=True, key=layer_name)


def check_masks(spec: ConvLSTMSpec, given: object, batch: int, input_size: tuple[int, ...], steps: int) -> None:
    """Raise an error for masks of other shapes than `sample_masks` returns for the call."""
    expected = jax.eval_shape(
        partial(sample_masks, spec, batch=batch, input_size=input_size, steps=steps), jax.random.key(0)
    )
    dropout.check_masks(given, expected, "convlstm.jax.dropout.sample_masks")


def _bernoulli(key: Array, mask: MaskSpec) -> Array:
    """Return True with the probability of the mask."""
    if not mask.is_per_step:
        return jax.random.bernoulli(key, mask.rate, mask.shape)
    # a key per step, so that the masks of a step do not change with the length of the sequence
    steps, *shape = mask.shape
    return jax.vmap(lambda t: jax.random.bernoulli(jax.random.fold_in(key, t), mask.rate, shape))(jnp.arange(steps))
