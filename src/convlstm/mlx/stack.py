"""A stack of layers over a time-first sequence, in MLX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import mlx.core as mx

from convlstm.engine.mlx import recurrence as engine
from convlstm.engine.mlx.recurrence import State
from convlstm.frontend.layers import run_layers
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

concatenate = partial(mx.concatenate, axis=-1)
"""Join outputs along their channels."""


def run_stack(
    spec: ConvLSTMSpec,
    weights_of: Callable[[int, str], dict[str, mx.array]],
    x: mx.array | None,
    states: Sequence[State | None],
    *,
    steps: int,
    mask: mx.array | None = None,
    durations: mx.array | None = None,
    gaps: dict[str, mx.array] | None = None,
    dropout_masks: DropoutMasks | None = None,
) -> tuple[list[tuple[mx.array, ...]], list[State]]:
    """Run every layer and direction over x (time, batch, *space, in_channels).

    A stack without input takes frames of no channels, or None.

    States are (h, c) indexed layer · D + direction; None means zeros, for a stack with input. The outputs are time
    first, per layer those of its directions, forward first.
    """

    def run_layer(layer: LayerSpec, direction: str, x: mx.array | None, state: State | None) -> tuple[mx.array, State]:
        return engine.sequence(
            layer,
            weights_of(layer.index, direction),
            x if layer.in_channels else None,
            state,
            steps=steps,
            reverse=direction == "reverse",
            mask=mask,
            durations=durations,
            gaps=None if gaps is None else gaps[direction],
            masks=None if dropout_masks is None else dropout_masks.masks.get((layer.index, direction)),
        )

    return run_layers(spec, x, states, run_layer, concatenate, masks=dropout_masks)
