"""The dropout masks of a call in training: which ones it samples, and with which shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.spec import parsing
from convlstm.spec.calls import check_input, fits
from convlstm.spec.masks import DropoutMasks, LayerMasks
from convlstm.spec.options import ConvLSTMSpec

KINDS = LayerMasks._fields
"""The masks inside a layer, in the order of `LayerMasks`."""


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


def sample_masks(
    spec: ConvLSTMSpec,
    batch: Any,
    input_size: tuple[Any, ...],
    steps: Any,
    sample: Callable[[MaskSpec], Any],
    *,
    channels_last: bool = False,
    grids: tuple[tuple[Any, ...], ...] | None = None,
) -> DropoutMasks | None:
    """Sample every mask that a call in training needs, in a fixed order; None in a stack without a random part.

    Masks per step are time first, as the engines take them; `batch_first` makes the public form. `sample` returns None
    for a rate of 0. `grids` are the grids of the layers' states, for sizes that only a graph knows; None takes
    them from the spec.
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
            masks[layer.index, direction] = LayerMasks(*[sample(mask) for mask in four])
    between = []
    for index in range(spec.depth - 1):
        shape = (steps, *frame(spec.out_channels(index), sizes[index + 1]))
        between.append(sample(MaskSpec("dropout", index, None, spec.dropout, shape)))
    return DropoutMasks(masks, tuple(between))


def batch_first(spec: ConvLSTMSpec, sampled: DropoutMasks | None, swap: Callable[[Any], Any]) -> DropoutMasks:
    """Return sampled masks in the public form; `swap` exchanges the first two axes of an array."""
    return DropoutMasks({}, (None,) * (spec.depth - 1)) if sampled is None else sampled.map_steps(swap)


def read_masks(
    spec: ConvLSTMSpec,
    masks: object,
    batch: Any,
    input_size: tuple[Any, ...],
    steps: Any,
    read: Callable[[str, Any], Any],
    swap: Callable[[Any], Any],
    *,
    channels_last: bool = False,
    grids: tuple[tuple[Any, ...], ...] | None = None,
) -> DropoutMasks:
    """Return masks of a caller time first, after checking their form and shapes; a size of None is not known.

    `read` returns a mask as the framework's array in the type to compute in, or raises an error with the name of the
    argument. Masks between layers that are missing at the end of `dropout` are None.
    """

    def shape_of(mask: MaskSpec) -> MaskSpec | None:
        return mask if mask.rate else None

    sampled = sample_masks(spec, batch, input_size, steps, shape_of, channels_last=channels_last, grids=grids)
    arrays = _read_arrays(masks, read)
    expected, received = _shapes(sampled), _shapes(arrays)
    for place in expected | received:
        shape = expected.get(place)
        if shape is not None and place[-1] not in ("input", "recurrent"):
            shape = (shape[1], shape[0], *shape[2:])
        if shape is None or place not in received or not fits(received[place], shape):
            raise _other_masks(place, shape, received.get(place))
    missing = spec.depth - 1 - len(arrays.dropout)
    return DropoutMasks(arrays.masks, arrays.dropout + (None,) * missing).map_steps(swap)


def _read_arrays(masks: object, read: Callable[[str, Any], Any]) -> DropoutMasks:
    """Return masks with each array read, after checking the classes that hold them."""
    if not isinstance(masks, DropoutMasks):
        raise _other_form("dropout_masks", "a DropoutMasks", masks)
    if not isinstance(masks.masks, Mapping):
        raise _other_form("dropout_masks.masks", "a dict of LayerMasks by (layer index, direction)", masks.masks)
    if not isinstance(masks.dropout, (tuple, list)):
        raise _other_form("dropout_masks.dropout", "a tuple with a mask or None per layer but the last", masks.dropout)
    inside = {}
    for place, of_layer in masks.masks.items():
        name = f"dropout_masks.masks[{place!r}]"
        if not isinstance(of_layer, LayerMasks):
            raise _other_form(name, "a LayerMasks", of_layer)
        arrays = [None if m is None else read(f"{name}.{kind}", m) for kind, m in of_layer._asdict().items()]
        inside[place] = LayerMasks(*arrays)
    between = [None if m is None else read(f"dropout_masks.dropout[{n}]", m) for n, m in enumerate(masks.dropout)]
    return DropoutMasks(inside, tuple(between))


def check_use(masks: object, training: bool, has_source: bool, source: str, train: str) -> None:
    """Raise an error for masks in evaluation, or together with a source of random numbers, the argument `source`.

    `train` is the hint how to switch to training.
    """
    if masks is None or (training and not has_source):
        return
    raise SpecError(
        "dropout_masks",
        expected=f"None together with `{source}`" if training else "None in evaluation",
        received=type(masks).__name__,
        hint=f"Pass `dropout_masks` or `{source}`, not both." if training else train,
    )


def count_steps(
    spec: ConvLSTMSpec,
    x: object,
    state: object,
    steps: object,
    name: str = "x",
    state_name: str = "state",
    channels: str = "in_channels",
) -> int | None:
    """Return the number of steps of the sequence to sample masks for; None means that of the frames.

    A layer with input takes frames x and no state, one without takes a state and `steps`. The names are those of the
    arguments in the framework.
    """
    if check_input(spec, x, None if spec.in_channels else steps, name, channels) and state is not None:
        raise StateError(
            state_name,
            expected="None in a layer with input, whose frames give batch and grid",
            received=type(state).__name__,
            hint=f"Leave `{state_name}` out.",
        )
    return None if steps is None else parsing.integer("steps", steps, 0)


def _other_form(name: str, expected: str, received: object) -> ShapeError:
    return ShapeError(
        name,
        expected=expected,
        received=type(received).__name__,
        hint="Sample the masks with `layer.sample_masks(x)`, or build them as `convlstm.DropoutMasks` shows.",
    )


def _other_masks(place: Any, expected: Any, received: Any) -> ShapeError:
    *where, kind = place
    name = f"dropout[{kind}]" if where == ["between"] else f"masks[{where[0]}].{kind}"
    return ShapeError(
        "dropout_masks",
        expected=f"no {name}" if expected is None else f"{name} of shape {expected}",
        received="none" if received is None else f"shape {received}",
        hint="Sample them with `layer.sample_masks(x)`, and cut them to the steps of the call, as in `masks[:3]`.",
    )


def _shapes(masks: DropoutMasks | None) -> dict[Any, tuple[Any, ...]]:
    if masks is None:
        return {}
    parts: dict[Any, Any] = {
        (place, kind): getattr(inside, kind) for place, inside in masks.masks.items() for kind in KINDS
    }
    parts |= {("between", index): factor for index, factor in enumerate(masks.dropout)}
    return {place: tuple(part.shape) for place, part in parts.items() if part is not None}
