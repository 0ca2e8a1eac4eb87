"""The random draws of a call in training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from convlstm.engine.torch.recurrence import DropoutMasks
from convlstm.errors import ShapeError
from convlstm.spec.stack import ConvLSTMSpec


@dataclass(frozen=True)
class Draws:
    """The random draws of one call in training.

    Args:
        masks: Draws inside each layer, by layer and direction.
        dropout: Factor on each layer's merged output but the last's (time, batch, channels, *grid), or None.
    """

    masks: dict[tuple[int, str], DropoutMasks] = field(default_factory=dict)
    dropout: tuple[Tensor | None, ...] = ()

    def part(self, span: slice) -> Draws:
        """Return the draws of a span of steps; those of a whole call stay."""

        def cut(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[span]

        masks = {
            key: replace(own, zoneout_h=cut(own.zoneout_h), zoneout_c=cut(own.zoneout_c))
            for key, own in self.masks.items()
        }
        return Draws(masks, tuple(cut(factor) for factor in self.dropout))


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
    if not spec.is_random:
        return None

    def drawn(rate: float, *shape: int, scaled: bool) -> Tensor | None:
        if not rate:
            return None
        random = torch.rand(shape, generator=generator, device=like.device)
        return (random >= rate).to(like.dtype) / (1.0 - rate) if scaled else (random < rate).to(like.dtype)

    batch, grids = like.shape[1], spec.grids(input_size)
    masks = {}
    for layer in spec.layers:
        state = (batch, layer.hidden_channels, *grids[layer.index])
        space = grids[layer.index - 1] if layer.index else input_size
        for direction in spec.directions:
            masks[layer.index, direction] = DropoutMasks(
                drawn(spec.input_dropout, batch, layer.in_channels, *space, scaled=True),
                drawn(spec.recurrent_dropout, *state, scaled=True),
                drawn(spec.zoneout_h, steps, *state, scaled=False),
                drawn(spec.zoneout_c, steps, *state, scaled=False),
            )
    between = [
        drawn(spec.dropout, steps, batch, spec.out_channels(n), *grids[n], scaled=True) for n in range(spec.depth - 1)
    ]
    return Draws(masks, tuple(between))


def check_draws(spec: ConvLSTMSpec, given: object, frames: Tensor) -> None:
    """Refuse draws that were not made for frames like these (time, batch, channel, *space)."""
    made = draw(spec, frames.new_empty(frames.shape, device="meta"), tuple(frames.shape[3:]), len(frames), None)
    wanted, received = _shapes(made), _shapes(given)
    if wanted != received:
        raise ShapeError(
            "draws",
            expected=f"those of layer.draw(x) for this x, {len(wanted)} masks",
            received=f"{len(received)} of other shapes" if isinstance(given, Draws) else type(given).__name__,
            hint="draw them for frames of this batch, length and size.",
        )


def _shapes(draws: object) -> list[tuple[Any, ...]]:
    if not isinstance(draws, Draws):
        return []
    parts: list[tuple[Any, int, Any]]
    parts = [(key, n, part) for key, masks in draws.masks.items() for n, part in enumerate(vars(masks).values())]
    parts += [("between", n, factor) for n, factor in enumerate(draws.dropout)]
    return [(key, n, tuple(part.shape)) for key, n, part in parts if part is not None]
