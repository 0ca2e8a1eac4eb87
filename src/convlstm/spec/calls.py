"""Check the arguments of a call by their shapes before any work, for every framework and memory layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from convlstm.errors import ShapeError, StateError
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import AXIS_NAMES
from convlstm.spec.options import ConvLSTMSpec

Shape = tuple[int | None, ...]


def fits(shape: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    """Return whether a shape is the expected one; a size that is not known yet (None) is not checked."""
    known = (n == m or n is None or m is None for n, m in zip(shape, expected, strict=False))
    return len(shape) == len(expected) and all(known)


def frame_axes(spec: ConvLSTMSpec, *leading: str, channels_last: bool = False) -> tuple[str, ...]:
    """Return the names of the axes of frames, preceded by the leading axes."""
    space = AXIS_NAMES[spec.spatial_dims]
    return (*leading, *space, "channel") if channels_last else (*leading, "channel", *space)


def check_frames(spec: ConvLSTMSpec, shape: Sequence[int | None], axes: Sequence[str], name: str = "x") -> bool:
    """Check the shape of a layer's or cell's input; return whether it has a batch axis.

    `axes` are those of `frame_axes`, of which the batch axis may be missing. A size of None is not known yet and not
    checked.
    """
    batched = len(shape) == len(axes)
    present = [axis for axis in axes if batched or axis != "batch"]
    sizes = dict(zip(present, shape, strict=False))
    if len(shape) != len(present) or sizes["channel"] not in (spec.in_channels, None):
        labels = [f"channel={spec.in_channels}" if axis == "channel" else axis for axis in axes]
        raise ShapeError(
            name,
            expected=f"({', '.join(labels)})",
            received=f"shape {tuple(shape)}",
            hint=_frames_hint(spec.in_channels, shape, axes, present),
        )
    space = tuple(sizes[axis] for axis in AXIS_NAMES[spec.spatial_dims])
    if spec.peephole == "pixel" and not fits(space, spec.input_size):
        raise ShapeError(
            name,
            expected=f"frames of {spec.input_size}, the input_size of the pixel peepholes",
            received=f"{space}",
            hint="Crop or pad the frames, or build the layer with `peephole='channel'`.",
        )
    return batched


def check_input(spec: ConvLSTMSpec, x: object, steps: object, name: str = "x", channels: str = "in_channels") -> bool:
    """Return whether a call has frames, after checking x and `steps` against the input channels of the layer.

    A layer with input takes frames and no `steps`. One without takes None as frames, and the number of steps.
    """
    if spec.in_channels:
        if x is None:
            raise ShapeError(
                name,
                expected="frames",
                received="None",
                hint=f"Pass frames, or build the layer with `{channels}=0` to run it without input.",
            )
        if steps is not None:
            raise ShapeError(
                "steps",
                expected="None in a layer with input, which takes one step per frame",
                received=repr(steps),
                hint="Leave `steps` out.",
            )
        return True
    if x is not None:
        shape = getattr(x, "shape", None)
        raise ShapeError(
            name,
            expected=f"None in a layer without input ({channels}=0)",
            received=type(x).__name__ if shape is None else f"shape {tuple(shape)}",
            hint=f"Pass `None` and the number of steps, or build the layer with `{channels}` of your data.",
        )
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 0:
        raise ShapeError(
            "steps",
            expected="an integer of at least 0 in a layer without input",
            received=repr(steps),
            hint="Pass the number of steps, such as `steps=12`.",
        )
    return False


def empty_frames(
    spec: ConvLSTMSpec,
    state: Any,
    steps: Any,
    name: str = "state",
    *,
    channels_last: bool = False,
    is_stackable: bool = False,
) -> tuple[tuple[Any, ...], bool]:
    """Return the shape of frames without channels (time, batch, 0, *grid), and whether the state has a batch axis.

    The state of the first layer gives batch and grid of a call without frames; its other parts are checked later.
    `is_stackable` says whether h_0 may be one array for all layers, as in `torch.nn.LSTM`.
    """
    if state is None:
        raise StateError(
            name,
            expected="an initial state, which gives batch and grid of a layer without input",
            received="None",
            hint="Pass a state, such as the final state of an encoder.",
        )
    h, _ = state_pair(state, name)
    first = h[0] if isinstance(h, (tuple, list)) and h else h
    shape, axes = getattr(first, "shape", None), spec.spatial_dims + 2
    if is_stackable and first is h and shape is not None and len(shape) == axes + 1:
        shape = shape[1:]
    if shape is None or len(shape) not in (axes, axes - 1):
        raise StateError(
            "h_0[0]",
            expected=f"an array of {axes} axes, or {axes - 1} without the batch axis",
            received=type(first).__name__ if shape is None else f"shape {tuple(shape)}",
            hint="Pass (h_0, c_0), each a tuple with one array per layer and direction.",
        )
    batched = len(shape) == axes
    batch, *frame = tuple(shape) if batched else (1, *shape)
    grid = frame[:-1] if channels_last else frame[1:]
    steps = steps if isinstance(steps, int) else int(steps)  # of NumPy, which not every framework takes in a shape
    frames = (steps, batch, *grid, 0) if channels_last else (steps, batch, 0, *grid)
    check_frames(spec, frames, frame_axes(spec, "time", "batch", channels_last=channels_last), name)
    return frames, batched


def _frames_hint(channels: int, shape: Sequence[int | None], axes: Sequence[str], present: Sequence[str]) -> str:
    """Return the hint for frames of a wrong shape; it names the permutation if the channels are on another axis."""
    if len(shape) != len(present):
        return f"Pass {len(axes)} axes, or {len(axes) - 1} without the batch axis."
    expected_axis, last = list(present).index("channel"), len(present) - 1
    first_space = next(index for index, axis in enumerate(present) if axis in AXIS_NAMES[3])
    other = last if expected_axis != last else first_space
    if shape[other] != channels:
        return "Permute the axes, or build the layer for the channels of your data."
    order = [index for index in range(len(present)) if index != other]
    order.insert(expected_axis, other)
    label = "The last axis" if other == last else f"Axis {other}"
    return f"{label} has size {channels}: if it holds the channels, permute the axes to {tuple(order)}."


def check_forecast(spec: ForecasterSpec, shape: Sequence[int | None], *, channels_last: bool = False) -> None:
    """Check the shape of a forecaster's frames; a size that is not known yet (None) is not checked."""
    patch, encoder = spec.patch_size, spec.encoder
    axes = frame_axes(encoder, "batch", "time", channels_last=channels_last)
    sizes = dict(zip(axes, shape, strict=False))
    space = tuple(sizes.get(axis) for axis in AXIS_NAMES[encoder.spatial_dims])
    sizes_text = f"multiples of {patch}"
    right = len(shape) == len(axes) and sizes["channel"] == spec.frame_channels and sizes["time"] != 0
    right = right and not any(n % patch or not n for n in space if n is not None)
    if encoder.peephole == "pixel":
        exact = tuple(n * patch for n in encoder.input_size)
        right, sizes_text = right and fits(space, exact), f"{exact}, for the pixel peepholes"
    if not right:
        names = ", ".join(f"channel={spec.frame_channels}" if axis == "channel" else axis for axis in axes)
        raise ShapeError(
            "frames",
            expected=f"({names}), time at least 1, {' and '.join(AXIS_NAMES[encoder.spatial_dims])} {sizes_text}",
            received=f"shape {tuple(shape)}",
            hint="Permute, pad or crop the frames to this shape.",
        )


def check_last_frames(spec: ForecasterSpec, valid: Any, name: str = "state") -> None:
    """Raise an error for rows that continue from a state without a frame, if the forecast needs their last frame.

    `valid` is True where a frame is valid (batch, time), in NumPy; None means everywhere. A state does not hold the
    last frame, which `residual` adds and `detail_channels` reads. `rollout="feedback"` alone reads the state only.
    """
    option = "residual" if spec.residual else "detail_channels"
    if valid is None or not getattr(spec, option):
        return
    without = [row for row, has_frame in enumerate(valid.any(axis=1).tolist()) if not has_frame]
    if without:
        raise StateError(
            name,
            expected=f"a valid frame in every row that continues from it, which `{option}` needs",
            received=f"no valid frame in row(s) {', '.join(map(str, without))}",
            hint="Leave these rows out of frames and state, or pass all their frames without a state.",
        )


def check_horizon(horizon: Any, *kinds: Any) -> None:
    """Raise an error unless the horizon is a number of frames; `kinds` are the allowed types other than int."""
    is_count = isinstance(horizon, (int, *kinds))
    if not is_count or horizon < 1:
        raise ShapeError(
            "horizon",
            expected="an integer of at least 1 that is known when the call is made",
            received=repr(horizon),
            hint="Pass the number of frames to forecast, such as `horizon=12`.",
        )


def check_given(name: str, wanted: bool, value: object, option: str = "duration_strategy") -> None:
    """Raise an error for durations or gaps that the layer does not use, or that it needs and did not receive."""
    if wanted != (value is not None):
        raise ShapeError(
            name,
            expected="one value per step (batch, time)" if wanted else f"None in a layer without {option}",
            received="None" if value is None else type(value).__name__,
            hint=f"Pass `{name}`, one value per step."
            if wanted
            else f"Leave `{name}` out, or build the layer with `{option}`.",
        )


def lead_durations_or_reference(spec: ForecasterSpec, lead_durations: Any) -> Any:
    """Return the durations of the forecast steps: the reference duration if they are missing and the model uses them.

    Durations for a model that does not use them raise an error.
    """
    if spec.uses_durations:
        return spec.encoder.reference_duration if lead_durations is None else lead_durations
    check_given("lead_durations", False, lead_durations)
    return None


def read_gaps(spec: ConvLSTMSpec, gaps: Any) -> Mapping[str, Any]:
    """Return the gaps of a call by direction, empty for a layer without memory decay."""
    count = len(spec.directions) if spec.memory_decay else 0
    if gaps is None:
        parts: tuple[Any, ...] = ()
    else:
        parts = tuple(gaps) if isinstance(gaps, (tuple, list)) else (gaps,)
    if len(parts) != count:
        compute = "Compute them with `convlstm.spec.durations.durations_from_times`, one array per direction."
        raise ShapeError(
            "gaps",
            expected=f"{count} array(s) (batch, time), one per direction" if count else "None without memory_decay",
            received=f"{len(parts)} array(s)",
            hint=compute if count else "Leave `gaps` out, or build the layer with `memory_decay=True`.",
        )
    return dict(zip(spec.directions, parts, strict=False))


def check_per_step(name: str, shape: Sequence[int | None], full: Shape, steps: int | None) -> None:
    """Check the shape of durations or gaps; `full` is (batch, time), in the order of the frames' axes."""
    if not any(fits(shape, allowed) for allowed in ((), (steps,), full, (*full, 1))):
        raise ShapeError(
            name,
            expected=f"a number, ({steps},), {full} or {(*full, 1)}",
            received=f"shape {tuple(shape)}",
            hint="Pass one value per step, or one number for all steps.",
        )


def check_one_step(name: str, shape: Sequence[int | None], batch: int | None) -> None:
    """Check the shape of a cell's duration or gap."""
    if not any(fits(shape, allowed) for allowed in ((), (batch,), (batch, 1))):
        raise ShapeError(
            name,
            expected=f"a number, ({batch},) or ({batch}, 1)",
            received=f"shape {tuple(shape)}",
            hint="Pass one value per sample, or one number for all samples.",
        )


def check_one_of(lengths: object, mask: object) -> None:
    """Raise an error if both lengths and mask are given."""
    if lengths is not None and mask is not None:
        raise ShapeError(
            "mask", expected="None when lengths is given", received="both", hint="Pass `lengths` or `mask`, not both."
        )


def check_mask(shape: Sequence[int | None], dtype: object, expected: Shape, *, whole: bool) -> None:
    """Check the shape and kind of a mask; `whole` says whether its type is bool or an integer."""
    if not fits(shape, expected) or not whole:
        raise ShapeError(
            "mask",
            expected=f"bools (batch, time) = {expected}",
            received=f"shape {tuple(shape)} of {dtype}",
            hint="Pass one bool per frame, True where the frame is valid.",
        )


def check_lengths(lengths: Any, batch: int, steps: int, *, whole: bool, inside: bool) -> None:
    """Check lengths: one integer per row (`whole`), each from 0 to the number of steps (`inside`)."""
    if not (whole and inside):
        raise ShapeError(
            "lengths",
            expected=f"{batch} integers from 0 to {steps}",
            received=lengths,
            hint="Pass the number of valid steps of each sample.",
        )


def state_shapes(
    spec: ConvLSTMSpec, batch: int, input_size: Sequence[int], *, channels_last: bool = False
) -> list[tuple[int, ...]]:
    """Return the shape of h and c of every layer and direction, indexed layer · D + direction."""
    shapes: list[tuple[int, ...]] = []
    for layer, grid in zip(spec.layers, spec.grids(tuple(input_size)), strict=True):
        frame = (*grid, layer.hidden_channels) if channels_last else (layer.hidden_channels, *grid)
        shapes.extend([(batch, *frame)] * len(spec.directions))
    return shapes


def state_pair(state: Any, name: str = "state", parts: str = "(h_0, c_0)") -> tuple[Any, Any]:
    """Return h_0 and c_0 of a state, or raise an error if it is not a pair."""
    if isinstance(state, (tuple, list)) and len(state) == 2:
        return state[0], state[1]
    is_stack = parts == "(h_0, c_0)"
    received = f"{len(state)} items" if isinstance(state, (tuple, list)) else type(state).__name__
    hint = f"Pass {parts}, each {'a tuple with one tensor per layer and direction' if is_stack else 'one tensor'}."
    is_list = isinstance(state, (tuple, list)) and len(state) > 0
    if is_stack and is_list and all(isinstance(item, (tuple, list)) and len(item) == 2 for item in state):
        received = f"{len(state)} pair(s) (h, c), one per layer"
        hint = f"Pass `tuple(zip(*{name}))`, which is (h_0, c_0), each a tuple with one tensor per layer."
    raise StateError(name, expected=f"a pair {parts}", received=received, hint=hint)


def check_state_count(name: str, count: int, expected: int, received: str | None, *, kind: str, form: str) -> None:
    """Check the number of arrays in one part of a state; an array of a wrong kind is not counted.

    `received` is None for a part that is None. `form` says what a whole state is, for the hint.
    """
    if count == expected:
        return
    hint = f"Pass None, or {form}."
    if received is None:
        hint = f"Pass None for the whole state, which means zeros, or {form}."
    raise StateError(
        name,
        expected=f"{kind}, one per layer and direction ({expected} in total)",
        received=received,
        hint=hint,
    )


def check_state_shape(name: str, shape: Sequence[int | None], expected: Shape, *, channels_last: bool = False) -> None:
    """Check one array of a state against (batch, hidden_channels, *grid), or (batch, *grid, hidden_channels)."""
    received = tuple(shape)
    if fits(received, expected):
        return
    space = AXIS_NAMES[len(expected) - 2]
    names = ("batch", *space, "hidden_channels") if channels_last else ("batch", "hidden_channels", *space)
    differs = ""
    if len(received) == len(expected):
        wrong = [axis for axis, a, b in zip(names, received, expected, strict=True) if not fits((a,), (b,))]
        differs = f", which differs in {' and '.join(wrong)}"
    grid = "*grid, hidden_channels" if channels_last else "hidden_channels, *grid"
    raise StateError(
        name,
        expected=f"(batch, {grid}) = {expected}",
        received=f"{received}{differs}",
        hint="Pass None, or the state of a call with the same batch and grid.",
    )
