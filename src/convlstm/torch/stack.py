"""A stack of layers over a time-first sequence, and the random draws of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from convlstm.contract.spec import ConvLSTMSpec
from convlstm.engine import torch as engine
from convlstm.engine.torch import Masks, State


class Draws:
    """The random draws of one call in training, taken from one generator in a fixed order.

    Args:
        generator: Source of randomness; None means PyTorch's global one.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    def kept(self, rate: float, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """Return a factor of 0 or 1 / (1 − rate) per point, or None without a rate."""
        if not rate:
            return None
        return (self._uniform(shape, like) >= rate).to(like.dtype) / (1.0 - rate)

    def held(self, rate: float, shape: Sequence[int], like: Tensor) -> Tensor | None:
        """Return 1 where zoneout keeps the old value, 0 elsewhere, or None without a rate."""
        return (self._uniform(shape, like) < rate).to(like.dtype) if rate else None

    def _uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator, device=like.device)


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
    each: Callable[[Tensor], None] | None = None,
) -> tuple[Any, list[State]]:
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
        each: Called with the merged output of every layer.

    Returns:
        The merged output of the last layer, time first (a tuple with merge `apart`), and the final states.
    """
    final: list[State] = []
    parts: list[Tensor] = []
    for layer in spec.layers:
        parts = []
        for direction in spec.directions:
            state = states[len(final)]
            output, after = engine.sequence(
                layer,
                weights_of(layer.index, direction),
                x,
                state,
                steps=steps,
                reverse=direction == "reverse",
                mask=mask,
                durations=durations,
                gaps=None if gaps is None else gaps[direction],
                masks=None if draws is None else _masks(spec, draws, x, state, steps),
            )
            parts.append(output)
            final.append(after)
        last = layer.index == spec.depth - 1
        if last and spec.merge == "apart" and len(parts) > 1:
            return tuple(parts), final
        x = _merged(parts, "concat" if spec.merge == "apart" else spec.merge)
        if each is not None:
            each(x)
        if draws is not None and not last:
            factor = draws.kept(spec.dropout, x.shape, x)
            x = x if factor is None else x * factor
    return x, final


def _masks(spec: ConvLSTMSpec, draws: Draws, x: Tensor | None, state: State, steps: int) -> Masks | None:
    rates = (spec.input_dropout, spec.recurrent_dropout, spec.zoneout_h, spec.zoneout_c)
    if not any(rates):
        return None
    h, c = state
    over_time = (steps, *h.shape)
    return Masks(
        None if x is None else draws.kept(spec.input_dropout, x.shape[1:], x),
        draws.kept(spec.recurrent_dropout, h.shape, h),
        draws.held(spec.zoneout_h, over_time, h),
        draws.held(spec.zoneout_c, over_time, c),
    )


def _merged(parts: Sequence[Tensor], merge: str) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return torch.cat(list(parts), dim=2)
    forward, backward = parts
    if merge == "mul":
        return forward * backward
    return (forward + backward) * (0.5 if merge == "ave" else 1.0)
