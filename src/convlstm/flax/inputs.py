"""Reading the arguments of a call: axes, types, masks, durations and states, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from convlstm.engine.jax.recurrence import State, to_compute_types
from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.spec import calls
from convlstm.spec.durations import check_durations
from convlstm.spec.stack import ConvLSTMSpec


def read_frames(spec: ConvLSTMSpec, x: Any, dtype: Any) -> tuple[Array, bool]:
    """Return x (batch, time, *space, channel) time first, and whether it came with a batch axis."""
    x = as_floats("x", x, dtype)
    batched = calls.check_frames(spec, x.shape, calls.frame_axes(spec, "batch", "time", channels_last=True))
    return (jnp.swapaxes(x, 0, 1) if batched else x[:, None]), batched


def read_frame(spec: ConvLSTMSpec, x: Any, dtype: Any) -> tuple[Array, bool]:
    """Return one frame (batch, *space, channel) as a sequence of one step, and whether it came with a batch axis."""
    x = as_floats("x", x, dtype)
    batched = calls.check_frames(spec, x.shape, calls.frame_axes(spec, "batch", channels_last=True))
    return (x[None] if batched else x[None, None]), batched


def compute_type(params: Any, x: Any, dtype: Any = None) -> Any:
    """Return the type convolutions run in: the given one, or that of input and parameters together, as in Flax."""
    if dtype is not None:
        return floating("dtype", dtype)
    return jnp.result_type(as_array("x", x), *{leaf.dtype for leaf in jax.tree.leaves(params)})


def floating(name: str, dtype: Any) -> Any:
    """Return a floating type, or refuse another by the name of its argument."""
    try:
        found = None if dtype is None or isinstance(dtype, (Array, np.ndarray)) else jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        received = type(dtype).__name__ if found is None and not isinstance(dtype, (str, int)) else repr(dtype)
        raise SpecError(name, expected="a floating type", received=received, hint="take float32, or leave it out.")
    return found


def check_key(name: str, key: Any) -> None:
    """Refuse what is no single random key."""
    shape, dtype = (key.shape, key.dtype) if isinstance(key, (Array, np.ndarray)) else (None, None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if shape != () if typed else dtype != jnp.uint32 or shape not in ((2,), (4,)):
        received = type(key).__name__ if shape is None else f"shape {shape} of {dtype}"
        raise SpecError(name, expected="one random key", received=received, hint="make it with jax.random.key.")


def valid_steps(lengths: Any, mask: Any, batch: int, steps: int) -> Array | None:
    """Return True where a step is valid (batch, time), from lengths or a mask; None means everywhere."""
    calls.check_one_of(lengths, mask)
    if lengths is not None:
        counts = as_array("lengths", lengths)
        whole = jnp.issubdtype(counts.dtype, jnp.integer)
        inside = counts.shape == (batch,) and (
            not is_at_hand(counts) or bool(((counts >= 0) & (counts <= steps)).all())
        )
        shown = counts.tolist() if is_at_hand(counts) else f"shape {counts.shape} of {counts.dtype}"
        calls.check_lengths(shown, batch, steps, whole=whole, inside=inside)
        return jnp.arange(steps) < counts[:, None]
    if mask is None:
        return None
    valid = as_array("mask", mask)
    whole = valid.dtype == bool or jnp.issubdtype(valid.dtype, jnp.integer)
    calls.check_mask(valid.shape, valid.dtype, (batch, steps), whole=whole)
    return valid.astype(bool)


def read_durations(spec: ConvLSTMSpec, given: Any, valid: Array | None, batch: int, steps: int) -> Array | None:
    """Return durations (batch, time) in at least float32, or None for a layer that has no use for them."""
    calls.check_given("durations", spec.duration_strategy != "none", given)
    return None if given is None else per_step("durations", given, valid, batch, steps)


def read_gaps(spec: ConvLSTMSpec, given: Any, valid: Array | None, batch: int, steps: int) -> Mapping[str, Array]:
    """Return gaps (batch, time) by direction, empty for a layer without memory decay."""
    parts = calls.read_gaps(spec, given)
    return {name: per_step("gaps", gap, valid, batch, steps) for name, gap in parts.items()}


def one_step(name: str, wanted: bool, given: Any, batch: int) -> Array | None:
    """Return a cell's duration or gap as (batch, 1), after checking shape and, where concrete, range."""
    calls.check_given(name, wanted, given, "duration_strategy" if name == "duration" else "memory_decay")
    if given is None:
        return None
    values = as_floats(name, given)
    calls.check_one_step(name, values.shape, batch)
    if is_at_hand(values):
        check_durations(name, values)
    return jnp.broadcast_to(values if values.ndim == 2 else values[..., None], (batch, 1))


def per_step(name: str, given: Any, valid: Array | None, batch: int, steps: int) -> Array:
    """Return durations or gaps as (batch, time), after checking shape and, where it is concrete, range."""
    values = as_floats(name, given)
    calls.check_per_step(name, values.shape, (batch, steps), steps)
    values = jnp.broadcast_to(values[..., 0] if values.ndim == 3 else values, (batch, steps))
    if is_at_hand(values) and (valid is None or is_at_hand(valid)):
        check_durations(name, values, None if valid is None else np.asarray(valid))
    return values


def read_states(
    spec: ConvLSTMSpec, given: Any, batch: int, input_size: tuple[int, ...], batched: bool = True
) -> Sequence[State | None]:
    """Return the states of a call per layer and direction, None each for zeros, after checking them.

    Args:
        spec: The stack.
        given: State(h_0, c_0), each an array (one layer and direction) or a tuple of arrays.
        batch: Rows of the batch.
        input_size: Spatial size of the input.
        batched: Whether the given arrays have a batch axis.

    Returns:
        States indexed layer · D + direction.

    Raises:
        StateError: for a bare pair, or naming the part, layer and direction that do not fit.
    """
    shapes = calls.state_shapes(spec, batch, input_size, channels_last=True)
    if given is None:
        return [None] * len(shapes)
    if not isinstance(given, State):  # in Flax's own cells a bare pair is (c, h)
        raise StateError(
            "carry",
            expected="State(h, c)",
            received=f"a bare {type(given).__name__}",
            hint="pass State(h=..., c=...), since the order of a bare pair in Flax is (c, h).",
        )
    both = []
    for name, part in zip(("h_0", "c_0"), given, strict=True):
        arrays = tuple(part) if isinstance(part, (tuple, list)) else (part,)
        fit = all(isinstance(a, (jax.Array, np.ndarray)) and jnp.issubdtype(a.dtype, jnp.floating) for a in arrays)
        calls.check_state_count(name, len(arrays) if fit else 0, len(shapes), _kinds(arrays), kind="floating arrays")
        own = [jnp.asarray(array if batched else array[None]) for array in arrays]
        for index, (array, shape) in enumerate(zip(own, shapes, strict=True)):
            calls.check_state_shape(f"{name}[{index}]", array.shape, shape, channels_last=True)
        both.append(own)
    return [State(h, c) for h, c in zip(*both, strict=True)]


def zero_states(spec: ConvLSTMSpec, batch: int, input_size: tuple[int, ...], dtype: Any) -> list[State]:
    """Return zero states per layer and direction, for convolutions in this type."""
    shapes = calls.state_shapes(spec, batch, input_size, channels_last=True)
    return [to_compute_types(dtype, State(jnp.zeros(shape), jnp.zeros(shape))) for shape in shapes]


def state_from_pair(carry: Any) -> State | None:
    """Return the State of a carry that may be a bare pair (h, c), for the drop-in cells."""
    if carry is None or isinstance(carry, State):
        return carry
    return State(*calls.state_pair(carry, "carry", "(h, c)"))


def as_type_of_carry(carry: Any, state: State) -> Any:
    """Return a state as the type of the carry: `lax.scan` requires that it stays the same."""
    return state if carry is None or isinstance(carry, State) else type(carry)(state)


def as_array(name: str, given: Any) -> Array:
    """Return an array, or refuse by name what is none."""
    try:
        return jnp.asarray(given)
    except (TypeError, ValueError) as error:
        raise ShapeError(
            name, expected="an array, or numbers", received=type(given).__name__, hint="make it with jnp.asarray."
        ) from error


def as_floats(name: str, given: Any, dtype: Any = None) -> Array:
    """Return a floating array: of the given type, or of at least float32."""
    array = as_array(name, given)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ShapeError(name, expected="real numbers", received=array.dtype, hint="take the real part.")
    return array.astype(jnp.promote_types(array.dtype, jnp.float32) if dtype is None else dtype)


def is_at_hand(values: Array) -> bool:
    """Return whether values can be looked at: not traced, and without waiting for an accelerator."""
    return not isinstance(values, jax.core.Tracer) and all(d.platform == "cpu" for d in values.devices())


def _kinds(arrays: tuple[Any, ...]) -> str:
    words = [str(getattr(a, "dtype", type(a).__name__)) for a in arrays]
    return f"{len(words)}: {', '.join(words)}"
