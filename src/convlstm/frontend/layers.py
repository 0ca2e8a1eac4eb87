"""The loop over the layers and directions of a stack, on arrays of any framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from convlstm.frontend.dropout import DropoutMasks
from convlstm.spec.layer import LayerSpec
from convlstm.spec.stack import ConvLSTMSpec

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

    Args:
        spec: The stack.
        x: Input of the first layer, or None for a stack without input.
        states: Initial states, indexed layer · D + direction.
        run_layer: Run one layer in one direction over its input, from its initial state.
        concatenate: Join a list of arrays along their channels.
        masks: Dropout masks in training, of which those between layers are applied here.
        every_layer: Whether the outputs of all layers are kept, not only the last one's.

    Returns:
        Per layer kept, the outputs of its directions, forward first; and the final states.
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
            x = merge_directions(parts, "concat" if spec.merge == "apart" else spec.merge, concatenate)
            factor = None if masks is None else masks.dropout[layer.index]
            x = x if factor is None else x * factor
    return outputs, final


def merge_directions(parts: Sequence[Any], merge: str, concatenate: Callable[[list[Any]], Any]) -> Any:
    """Return the output of a layer from those of its directions.

    Args:
        parts: Outputs of the directions, forward first.
        merge: concat, sum, mul, ave or apart, as in `ConvLSTMSpec`.
        concatenate: Join a list of arrays along their channels.

    Returns:
        One array, or with `apart` and two directions a tuple of two.

    Example:
        >>> merge_directions([2.0, 4.0], "ave", sum), merge_directions([2.0], "ave", sum)
        (3.0, 2.0)
    """
    if len(parts) == 1:
        return parts[0]
    if merge == "apart":
        return tuple(parts)
    if merge == "concat":
        return concatenate(list(parts))
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    total = forward + backward
    return total * 0.5 if merge == "ave" else total
