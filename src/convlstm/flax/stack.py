"""A stack of layers over a time-first sequence, in JAX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import Array

from convlstm.engine.jax import recurrence as engine
from convlstm.engine.jax.recurrence import State
from convlstm.flax.weights import Params, layer_name, layer_weights
from convlstm.frontend.dropout import DropoutMasks
from convlstm.spec.stack import ConvLSTMSpec


def run_stack(
    spec: ConvLSTMSpec,
    params: Params,
    x: Array | None,
    states: Sequence[State],
    *,
    steps: int,
    mask: Array | None = None,
    durations: Array | None = None,
    gaps: Mapping[str, Array] | None = None,
    draws: DropoutMasks | None = None,
    plain: bool = False,
    from_rest: bool = False,
) -> tuple[list[tuple[Array, ...]], list[State]]:
    """Run every layer and direction over a time-first sequence.

    Args:
        spec: The stack.
        params: Its tree of parameters.
        x: (time, batch, *space, in_channels), or None for a stack without input.
        states: States indexed layer · D + direction.
        steps: Number of steps.
        mask: True where a step is valid (batch, time).
        durations: Δ (batch, time).
        gaps: Per direction (batch, time).
        draws: Dropout masks in training, None in evaluation.
        plain: Leave every derivative to JAX.
        from_rest: Whether the states are known to be zero.

    Returns:
        Per layer, the outputs of its directions, forward first, time first; and the final states.
    """
    final: list[State] = []
    outputs: list[tuple[Array, ...]] = []
    for layer in spec.layers:
        parts = []
        for direction in spec.directions:
            output, after = engine.sequence(
                layer,
                layer_weights(params, layer, direction),
                x,
                states[len(final)],
                steps=steps,
                reverse=direction == "reverse",
                mask=mask,
                durations=durations,
                gaps=gaps[direction] if gaps else None,
                masks=None if draws is None else draws.masks[layer_name(layer.index, direction)],
                plain=plain,
                from_rest=from_rest,
            )
            parts.append(output)
            final.append(after)
        outputs.append(tuple(parts))
        if layer.index < spec.depth - 1:
            x = merged(parts, "concat" if spec.merge == "apart" else spec.merge)
            factor = draws.dropout[layer.index] if draws is not None else None
            x = x if factor is None else x * factor
    return outputs, final


def merged(parts: Sequence[Array], merge: str) -> Array:
    """Return the outputs of a layer's directions, channels last, as one array."""
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return jnp.concatenate(parts, axis=-1)
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "ave" else 1.0)
