"""A stack of layers over a time-first sequence, and the random draws of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from convlstm.engine.mlx import recurrence as engine
from convlstm.engine.mlx.recurrence import DropoutMasks, State
from convlstm.errors import ShapeError
from convlstm.spec.stack import ConvLSTMSpec


@dataclass(frozen=True)
class Draws:
    """The random draws of one call in training.

    Args:
        masks: Draws inside each layer, by layer and direction.
        dropout: Factor on each layer's merged output but the last's (time, batch, *grid, channels), or None.
    """

    masks: dict[tuple[int, str], DropoutMasks] = field(default_factory=dict)
    dropout: tuple[mx.array | None, ...] = ()


def draw(
    spec: ConvLSTMSpec, like: mx.array, input_size: tuple[int, ...], steps: int, key: mx.array | None
) -> Draws | None:
    """Draw every mask that a call in training needs; each has a key of its own, whatever else is drawn.

    Args:
        spec: The stack.
        like: An array (time, batch, ...) of the type to draw for.
        input_size: Spatial size of the stack's input.
        steps: Number of steps.
        key: Source of randomness, as `mx.random.key` makes it; None means MLX's global one.

    Returns:
        The draws, or None where the stack has no random part.
    """
    if not spec.is_random:
        return None
    count = spec.depth * (4 * len(spec.directions) + 1)
    keys = iter([None] * count if key is None else list(mx.random.split(key, count)))

    def kept(rate: float, *shape: int) -> mx.array | None:
        own = next(keys)
        return (mx.random.uniform(shape=shape, key=own) >= rate).astype(like.dtype) / (1.0 - rate) if rate else None

    def held(rate: float, *shape: int) -> mx.array | None:
        own = next(keys)
        return (mx.random.uniform(shape=shape, key=own) < rate).astype(like.dtype) if rate else None

    batch = like.shape[1]
    grids = spec.grids(input_size)
    masks = {
        (layer.index, direction): DropoutMasks(
            kept(
                spec.input_dropout, batch, *(grids[layer.index - 1] if layer.index else input_size), layer.in_channels
            ),
            kept(spec.recurrent_dropout, batch, *grids[layer.index], layer.hidden_channels),
            held(spec.zoneout_h, steps, batch, *grids[layer.index], layer.hidden_channels),
            held(spec.zoneout_c, steps, batch, *grids[layer.index], layer.hidden_channels),
        )
        for layer in spec.layers
        for direction in spec.directions
    }
    between = [kept(spec.dropout, steps, batch, *grids[n], spec.out_channels(n)) for n in range(spec.depth - 1)]
    return Draws(masks, tuple(between))


def check_draws(spec: ConvLSTMSpec, given: object, frames: mx.array) -> None:
    """Refuse draws that were not made for frames like these (time, batch, *space, channel)."""
    made = draw(spec, frames, tuple(frames.shape[2:-1]), len(frames), mx.random.key(0))
    if not isinstance(given, Draws) or _shapes(given) != _shapes(made):
        raise ShapeError(
            "draws",
            expected="those that convlstm.mlx.stack.draw makes for this batch, size and length",
            received="others" if isinstance(given, Draws) else type(given).__name__,
            hint="draw them so, or give a key.",
        )


def _shapes(draws: Draws | None) -> dict[Any, tuple[int, ...]]:
    if draws is None:
        return {}
    parts: dict[Any, Any] = {
        (key, name): part for key, masks in draws.masks.items() for name, part in vars(masks).items()
    }
    parts |= {("between", n): part for n, part in enumerate(draws.dropout)}
    return {place: part.shape for place, part in parts.items() if part is not None}


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
    draws: Draws | None = None,
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
        draws: Random draws in training, None in evaluation.
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
                None if from_rest and x is not None else states[len(final)],
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
