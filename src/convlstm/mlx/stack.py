"""A stack of layers over a time-first sequence, in MLX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from convlstm.engine.mlx import recurrence as engine
from convlstm.engine.mlx.recurrence import State
from convlstm.frontend.dropout import DropoutMasks
from convlstm.spec.stack import ConvLSTMSpec


def run_stack(
    spec: ConvLSTMSpec,
    weights_of: Callable[[int, str], dict[str, mx.array]],
    x: mx.array | None,
    states: Sequence[State],
    *,
    steps: int,
    mask: mx.array | None = None,
    durations: mx.array | None = None,
    gaps: dict[str, mx.array] | None = None,
    draws: DropoutMasks | None = None,
    from_rest: bool = False,
) -> tuple[list[tuple[mx.array, ...]], list[State]]:
    """Run every layer and direction over a time-first sequence.

    Args:
        spec: The stack.
        weights_of: Gives the arrays of a layer and direction.
        x: (time, batch, *space, in_channels), or None for a stack without input.
        states: (h, c) indexed layer · D + direction.
        steps: Number of steps.
        mask: True where a step is valid (batch, time).
        durations: Δ (batch, time).
        gaps: Per direction (batch, time).
        draws: Dropout masks in training, None in evaluation.
        from_rest: Whether the states are known to be zero.

    Returns:
        Per layer, the outputs of its directions, forward first, time first; and the final states.
    """
    final: list[State] = []
    outputs: list[tuple[mx.array, ...]] = []
    for layer in spec.layers:
        parts = []
        for direction in spec.directions:
            output, after = engine.sequence(
                layer,
                weights_of(layer.index, direction),
                x,
                states[len(final)],
                steps=steps,
                reverse=direction == "reverse",
                mask=mask,
                durations=durations,
                gaps=None if gaps is None else gaps[direction],
                masks=None if draws is None else draws.masks.get((layer.index, direction)),
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


def merged(parts: Sequence[mx.array], merge: str) -> mx.array:
    """Return the outputs of a layer's directions as one array, channels last."""
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return mx.concatenate(list(parts), axis=-1)
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "ave" else 1.0)
