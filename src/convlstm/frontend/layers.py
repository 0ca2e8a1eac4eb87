"""The loop over the layers and directions of a stack, on arrays of any framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from convlstm.frontend.merge import merge_directions
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

Tensor = TypeVar("Tensor")
State = TypeVar("State")
InitialState = TypeVar("InitialState")


def run_layers(
    spec: ConvLSTMSpec,
    x: Tensor | None,
    states: Sequence[InitialState],
    run_layer: Callable[[LayerSpec, str, Tensor | None, InitialState], tuple[Tensor, State]],
    concatenate: Callable[[list[Tensor]], Tensor],
    *,
    masks: DropoutMasks | None = None,
    every_layer: bool = True,
) -> tuple[list[tuple[Tensor, ...]], list[State]]:
    """Run every layer and direction, each layer on the merged output of the layer before.

    States are indexed layer · D + direction. The outputs are those of every layer, or of the last one, each with the
    outputs of its directions, forward first. The masks between layers are applied here.
    """
    final: list[State] = []
    outputs: list[tuple[Tensor, ...]] = []
    for layer in spec.layers:
        parts = []
        for direction in spec.directions:
            output, state = run_layer(layer, direction, x, states[len(final)])
            parts.append(output)
            final.append(state)
        outputs = [*outputs, tuple(parts)] if every_layer else [tuple(parts)]
        if layer.index < spec.depth - 1:
            # the next layer reads two separate outputs as channels of one
            x = merge_directions(parts, "concat" if spec.merge == "separate" else spec.merge, concatenate)
            factor = None if masks is None else masks.dropout[layer.index]
            x = x if factor is None else x * factor
    return outputs, final
