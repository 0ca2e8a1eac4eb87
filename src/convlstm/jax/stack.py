"""A stack of layers over a time-first sequence, in JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax.numpy as jnp
from jax import Array

from convlstm.engine.jax import recurrence as engine
from convlstm.engine.jax.recurrence import State
from convlstm.frontend.layers import run_layers
from convlstm.jax.weights import Params, layer_weights
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

concatenate = partial(jnp.concatenate, axis=-1)
"""Join outputs along their channels."""


def run_stack(
    spec: ConvLSTMSpec,
    params: Params,
    x: Array | None,
    states: Sequence[State | None],
    *,
    steps: int,
    mask: Array | None = None,
    durations: Array | None = None,
    gaps: Mapping[str, Array] | None = None,
    dropout_masks: DropoutMasks | None = None,
    generic: bool = False,
    output_mask: Array | None = None,
) -> tuple[list[tuple[Array, ...]], list[State]]:
    """Run every layer and direction over x (time, batch, *space, in_channels).

    A stack without input takes frames of no channels, or None.
    States are indexed layer · D + direction; None means zeros, for a stack with input. The outputs are time first, per
    layer those of its directions, forward first. `output_mask` says where the output is not zero (batch, time), in a
    segment of a longer sequence.
    """

    def run_layer(layer: LayerSpec, direction: str, x: Array | None, state: State | None) -> tuple[Array, State]:
        result: tuple[Array, State] = engine.sequence(
            layer,
            layer_weights(params, layer, direction),
            x if layer.in_channels else None,
            state,
            steps=steps,
            reverse=direction == "reverse",
            mask=mask,
            durations=durations,
            gaps=gaps[direction] if gaps else None,
            masks=None if dropout_masks is None else dropout_masks.masks.get((layer.index, direction)),
            generic=generic,
            output_mask=output_mask,
        )
        return result

    return run_layers(spec, x, states, run_layer, concatenate, masks=dropout_masks)
