"""A stack of layers over a time-first sequence, and the random draws of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from convlstm.contract.spec import ConvLSTMSpec
from convlstm.engine import torch as engine
from convlstm.engine.torch import Masks, State


@dataclass(frozen=True)
class Draws:
    """The random draws of one call in training.

    Args:
        masks: Draws inside each layer, by layer and direction.
        dropout: Factor on each layer's merged output but the last's (time, batch, channels, *grid), or None.
    """

    masks: dict[tuple[int, str], Masks] = field(default_factory=dict)
    dropout: tuple[Tensor | None, ...] = ()


def draw(
    spec: ConvLSTMSpec, like: Tensor, input_size: tuple[int, ...], steps: int, generator: torch.Generator | None
) -> Draws | None:
    """Draw every mask that a call in training needs, in a fixed order.

    Args:
        spec: The stack.
        like: A tensor (time, batch, ...) of the type and device to draw for.
        input_size: Spatial size of the stack's input.
        steps: Number of steps.
        generator: Source of randomness; None means PyTorch's global one.

    Returns:
        The draws, or None where the stack has no random part.
    """
    rates = (spec.dropout, spec.input_dropout, spec.recurrent_dropout, spec.zoneout_h, spec.zoneout_c)
    if not any(rates):
        return None

    def uniform(rate: float, *shape: int) -> Tensor | None:
        return torch.rand(shape, generator=generator, device=like.device) if rate else None

    def kept(rate: float, *shape: int) -> Tensor | None:
        random = uniform(rate, *shape)
        return None if random is None else (random >= rate).to(like.dtype) / (1.0 - rate)

    def held(rate: float, *shape: int) -> Tensor | None:
        random = uniform(rate, *shape)
        return None if random is None else (random < rate).to(like.dtype)

    batch = like.shape[1]
    grids = spec.grids(input_size)
    masks = {
        (layer.index, direction): Masks(
            kept(
                spec.input_dropout, batch, layer.in_channels, *(grids[layer.index - 1] if layer.index else input_size)
            ),
            kept(spec.recurrent_dropout, batch, layer.hidden_channels, *grids[layer.index]),
            held(spec.zoneout_h, steps, batch, layer.hidden_channels, *grids[layer.index]),
            held(spec.zoneout_c, steps, batch, layer.hidden_channels, *grids[layer.index]),
        )
        for layer in spec.layers
        for direction in spec.directions
    }
    between = [kept(spec.dropout, steps, batch, spec.out_channels(n), *grids[n]) for n in range(spec.depth - 1)]
    return Draws(masks, tuple(between))


def run_stack(
    spec: ConvLSTMSpec,
    weights_of: Callable[[int, str], dict[str, Tensor]],
    x: Tensor | None,
    states: Sequence[State],
    *,
    steps: int,
    mask: Tensor | None = None,
    durations: Tensor | None = None,
    gaps: dict[str, Tensor] | None = None,
    draws: Draws | None = None,
) -> tuple[list[tuple[Tensor, ...]], list[State]]:
    """Run every layer and direction over a time-first sequence.

    Args:
        spec: The stack.
        weights_of: Gives the arrays of a layer and direction.
        x: (time, batch, in_channels, *space), or None for a stack without input.
        states: (h, c) indexed layer · D + direction.
        steps: Number of steps.
        mask: True where a step is valid (batch, time).
        durations: Δ (batch, time).
        gaps: Per direction (batch, time).
        draws: Random draws in training, None in evaluation.

    Returns:
        Per layer, the outputs of its directions, forward first, time first; and the final states.
    """
    final: list[State] = []
    outputs: list[tuple[Tensor, ...]] = []
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
            )
            parts.append(output)
            final.append(after)
        outputs.append(tuple(parts))
        if layer.index < spec.depth - 1:
            x = merged(parts, "concat" if spec.merge == "apart" else spec.merge)
            factor = draws.dropout[layer.index] if draws is not None else None
            x = x if factor is None else x * factor
    return outputs, final


def merged(parts: Sequence[Tensor], merge: str, dim: int = 2) -> Tensor:
    """Return the outputs of a layer's directions as one tensor; `dim` is the axis of channels."""
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return torch.cat(list(parts), dim=dim)
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "ave" else 1.0)
