"""Reading the arguments of a call as MLX arrays; what they must be is in `convlstm.spec.calls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from convlstm.engine.mlx.recurrence import State
from convlstm.errors import ShapeError, SpecError
from convlstm.spec import calls
from convlstm.spec.durations import check_durations
from convlstm.spec.stack import ConvLSTMSpec

LOW = (mx.bfloat16, mx.float16)
"""The types in which c is kept in float32."""


def check_array(name: str, x: Any, *types: mx.Dtype) -> None:
    """Refuse what is no MLX array of one of these types."""
    if not isinstance(x, mx.array):
        raise ShapeError(name, expected="an MLX array", received=type(x).__name__, hint="make it with mx.array.")
    if x.dtype not in types:
        raise ShapeError(
            name,
            expected=f"{' or '.join(map(_short, types))}, after the weights",
            received=_short(x.dtype),
            hint=f"convert the input, {name}.astype({types[0]}), or the module, module.set_dtype({x.dtype}).",
        )


def check_key(key: Any) -> None:
    """Refuse what is neither None nor a random key."""
    if key is not None and not (isinstance(key, mx.array) and key.dtype == mx.uint32 and key.shape == (2,)):
        received = f"shape {key.shape} of {_short(key.dtype)}" if isinstance(key, mx.array) else type(key).__name__
        raise SpecError("key", expected="one random key", received=received, hint="make it with mx.random.key.")


def frame_types(dtype: mx.Dtype) -> tuple[mx.Dtype, ...]:
    """Return the types of frames a forecaster takes: its weights' own, and float32 with low precision."""
    return (dtype, mx.float32) if dtype in LOW else (dtype,)


def time_first(spec: ConvLSTMSpec, x: mx.array) -> tuple[mx.array, bool]:
    """Return x as (time, batch, *space, channel), and whether it came with a batch axis."""
    axes = calls.frame_axes(spec, "batch", "time", channels_last=True)
    return (x.swapaxes(0, 1), True) if calls.check_frames(spec, x.shape, axes) else (x[:, None], False)


def one_step(name: str, wanted: bool, given: Any, x: mx.array, batch: int) -> mx.array | None:
    """Return a cell's duration or gap as (batch, 1), after checking shape and, where concrete, range."""
    calls.check_given(name, wanted, given, "duration_strategy" if name == "duration" else "memory_decay")
    if given is None:
        return None
    values = _as_array(name, given, _wide(x))
    calls.check_one_step(name, values.shape, batch)
    found = _at_hand(given, values)
    if found is not None:
        check_durations(name, found)
    return mx.broadcast_to(values if values.ndim == 2 else values[..., None], (batch, 1))


def valid_steps(lengths: Any, mask: Any, frames: mx.array) -> mx.array | None:
    """Return True where a step is valid (batch, time), from lengths or a mask; None means everywhere."""
    steps, batch = frames.shape[:2]
    calls.check_one_of(lengths, mask)
    if lengths is not None:
        counts = _as_array("lengths", lengths)
        found = _at_hand(lengths, counts)
        inside = counts.shape == (batch,) and (found is None or bool(((found >= 0) & (found <= steps)).all()))
        received = counts.shape if found is None else found.tolist()
        calls.check_lengths(received, batch, steps, whole=mx.issubdtype(counts.dtype, mx.integer), inside=inside)
        return mx.arange(steps) < counts[:, None]
    if mask is None:
        return None
    valid = _as_array("mask", mask)
    whole = valid.dtype == mx.bool_ or mx.issubdtype(valid.dtype, mx.integer)
    calls.check_mask(valid.shape, _short(valid.dtype), (batch, steps), whole=whole)
    return valid.astype(mx.bool_)


def read_durations(spec: ConvLSTMSpec, given: Any, valid: mx.array | None, frames: mx.array) -> mx.array | None:
    """Return durations (batch, time) in at least float32, or None for a layer that has no use for them."""
    calls.check_given("durations", spec.duration_strategy != "none", given)
    return None if given is None else _per_step("durations", given, valid, frames)


def read_gaps(spec: ConvLSTMSpec, given: Any, valid: mx.array | None, frames: mx.array) -> dict[str, mx.array] | None:
    """Return gaps (batch, time) by direction, or None for a layer without memory decay."""
    parts = calls.read_gaps(spec, given)
    return {name: _per_step("gaps", gap, valid, frames) for name, gap in parts.items()} or None


def read_lead_durations(wanted: bool, given: Any, like: mx.array) -> mx.array | None:
    """Return the durations of the forecast steps (batch, horizon), for `like` (horizon, batch), or None."""
    calls.check_given("lead_durations", wanted, given)
    return _per_step("lead_durations", given, None, like) if wanted else None


def read_states(given: Any, shapes: Sequence[tuple[int, ...]], batched: bool = True) -> list[State]:
    """Return the states of a call as (h, c) per layer and direction, after checking them against their shapes.

    Args:
        given: (h_0, c_0), each an array (one layer and direction) or a tuple of arrays.
        shapes: The shape each must have, with the batch axis.
        batched: Whether the given arrays have that batch axis.

    Returns:
        (h, c) indexed layer · D + direction.

    Raises:
        StateError: naming the part, layer and direction that do not fit.
    """
    both = []
    for name, part in zip(("h_0", "c_0"), calls.state_pair(given), strict=True):
        arrays = tuple(part) if isinstance(part, (tuple, list)) else (part,)
        fit = all(isinstance(a, mx.array) and mx.issubdtype(a.dtype, mx.floating) for a in arrays)
        kinds = [_short(a.dtype) if isinstance(a, mx.array) else type(a).__name__ for a in arrays]
        received = f"{len(kinds)}: {', '.join(kinds)}"
        calls.check_state_count(name, len(arrays) if fit else 0, len(shapes), received, kind="floating arrays")
        own = [array if batched else array[None] for array in arrays]
        for index, (array, shape) in enumerate(zip(own, shapes, strict=True)):
            calls.check_state_shape(f"{name}[{index}]", array.shape, shape, channels_last=True)
        both.append(own)
    return list(zip(*both, strict=True))


def zero_states(shapes: Sequence[tuple[int, ...]], dtype: mx.Dtype) -> list[State]:
    """Return zeros as (h, c) per layer and direction; c in at least float32."""
    wide = mx.float32 if dtype in LOW else dtype
    return [(mx.zeros(shape, dtype=dtype), mx.zeros(shape, dtype=wide)) for shape in shapes]


def _per_step(name: str, given: Any, valid: mx.array | None, frames: mx.array) -> mx.array:
    """Return durations or gaps as (batch, time), after checking shape and, where it is concrete, range."""
    steps, batch = frames.shape[:2]
    values = _as_array(name, given, _wide(frames))
    calls.check_per_step(name, values.shape, (batch, steps), steps)
    values = mx.broadcast_to(values.squeeze(-1) if values.ndim == 3 else values, (batch, steps))
    found = _at_hand(given, values)
    where = None if valid is None else _at_hand(valid, valid)
    if found is not None and (valid is None or where is not None):
        check_durations(name, found, where)
    return values


def _wide(x: mx.array) -> mx.Dtype:
    return mx.float64 if x.dtype == mx.float64 else mx.float32


def _as_array(name: str, given: Any, dtype: mx.Dtype | None = None) -> mx.array:
    plain = np.array(given, order="C") if isinstance(given, np.ndarray) else given  # MLX reads no reversed axis
    try:
        return mx.array(plain, dtype=dtype) if dtype else mx.array(plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            name, expected="an array, or numbers", received=type(given).__name__, hint="make it with mx.array."
        ) from error


def _at_hand(given: Any, values: mx.array) -> np.ndarray[Any, Any] | None:
    """Return values that can be looked at without waiting for an accelerator, and None within a transform."""
    if isinstance(given, mx.array) and mx.default_device().type != mx.cpu:
        return None
    try:
        return np.array(values)
    except ValueError:  # MLX's only sign that mx.compile or mx.vmap is at work
        return None


def _short(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")
