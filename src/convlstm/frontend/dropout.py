"""The dropout masks of a call in training: which ones it samples, and with which shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from convlstm.errors import ShapeError
from convlstm.spec.masks import LayerMasks
from convlstm.spec.options import ConvLSTMSpec

KINDS = LayerMasks._fields
"""The masks inside a layer, in the order of `LayerMasks`."""


@dataclass(frozen=True)
class DropoutMasks:
    """The dropout masks of one call in training.

    Args:
        masks: Masks inside each layer, by layer and direction.
        dropout: Factor on each layer's merged output but the last's, time first, or None.
    """

    masks: Mapping[Any, Any] = field(default_factory=dict)
    dropout: tuple[Any, ...] = ()


@dataclass(frozen=True)
class MaskSpec:
    """One mask to sample.

    Args:
        kind: One of `KINDS`, or `dropout` between layers.
        layer: Index of the layer.
        direction: Direction of the layer; None between layers.
        rate: Probability of dropping a value, or of keeping the old one in zoneout.
        shape: (batch, channels, *space) for one mask a call, (time, batch, channels, *space) for one a step; channels
            come last where the frontend has them so.
    """

    kind: str
    layer: int
    direction: str | None
    rate: float
    shape: tuple[Any, ...]

    @property
    def is_factor(self) -> bool:
        """Whether the mask is a factor, 0 or 1 / (1 − rate), rather than 1 where a state keeps its old value."""
        return not self.kind.startswith("zoneout")

    @property
    def is_per_step(self) -> bool:
        """Whether there is a new mask each step, along the first axis."""
        return self.kind not in ("input", "recurrent")


def by_layer_and_direction(index: int, direction: str) -> Any:
    """Return the key of a layer's masks: its index and direction."""
    return index, direction


def sample_masks(
    spec: ConvLSTMSpec,
    batch: Any,
    input_size: tuple[Any, ...],
    steps: Any,
    sample: Callable[[MaskSpec], Any],
    *,
    channels_last: bool = False,
    key: Callable[[int, str], Any] = by_layer_and_direction,
    grids: tuple[tuple[Any, ...], ...] | None = None,
) -> DropoutMasks | None:
    """Sample every mask that a call in training needs, in a fixed order; None in a stack without a random part.

    `sample` returns None for a rate of 0. `grids` are the grids of the layers' states, for sizes that only a graph
    knows; None takes them from the spec.
    """
    if not spec.is_random:
        return None
    sizes = (input_size, *(spec.grids(input_size) if grids is None else grids))

    def frame(channels: int, size: tuple[Any, ...]) -> tuple[Any, ...]:
        return (batch, *size, channels) if channels_last else (batch, channels, *size)

    masks = {}
    for layer in spec.layers:
        entering = frame(layer.in_channels, sizes[layer.index])
        state = frame(layer.hidden_channels, sizes[layer.index + 1])
        for direction in spec.directions:
            four = (
                MaskSpec("input", layer.index, direction, spec.input_dropout if layer.in_channels else 0.0, entering),
                MaskSpec("recurrent", layer.index, direction, spec.recurrent_dropout, state),
                MaskSpec("zoneout_h", layer.index, direction, spec.zoneout_h, (steps, *state)),
                MaskSpec("zoneout_c", layer.index, direction, spec.zoneout_c, (steps, *state)),
            )
            masks[key(layer.index, direction)] = LayerMasks(*[sample(mask) for mask in four])
    between = []
    for index in range(spec.depth - 1):
        shape = (steps, *frame(spec.out_channels(index), sizes[index + 1]))
        between.append(sample(MaskSpec("dropout", index, None, spec.dropout, shape)))
    return DropoutMasks(masks, tuple(between))


def check_masks(given: object, expected: DropoutMasks | None, sampled_by: str) -> None:
    """Raise an error for masks of other shapes than `expected`, which `sampled_by` samples for the call."""
    shapes = _shapes(expected)
    if isinstance(given, DropoutMasks) and _shapes(given) == shapes:
        return
    raise ShapeError(
        "dropout_masks",
        expected=f"the {len(shapes)} masks that {sampled_by} samples for this call",
        received=f"{len(_shapes(given))} of other shapes" if isinstance(given, DropoutMasks) else type(given).__name__,
        hint="Sample them for frames of this batch, length and size.",
    )


def _shapes(masks: DropoutMasks | None) -> dict[Any, tuple[Any, ...]]:
    if masks is None:
        return {}
    parts: dict[Any, Any] = {("between", index): factor for index, factor in enumerate(masks.dropout)}
    for key, inside in masks.masks.items():
        parts |= {(key, kind): getattr(inside, kind) for kind in KINDS}
    return {place: tuple(part.shape) for place, part in parts.items() if part is not None}
