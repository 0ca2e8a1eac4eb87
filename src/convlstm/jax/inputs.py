"""Reading the arguments of a call: axes, types, masks, durations and states, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from convlstm.engine.jax.recurrence import State, to_compute_types
from convlstm.errors import DtypeError, SpecError, StateError
from convlstm.frontend import calls as shared
from convlstm.spec import calls
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array as NumpyArray


def read_frames(spec: ConvLSTMSpec, x: Any, dtype: Any) -> tuple[Array, bool]:
    """Return x (batch, time, *space, channel) time first, and whether it had a batch axis."""
    x = as_floats("x", x, dtype)
    batched = calls.check_frames(spec, x.shape, calls.frame_axes(spec, "batch", "time", channels_last=True))
    return (jnp.swapaxes(x, 0, 1) if batched else x[:, None]), batched


def read_frame(spec: ConvLSTMSpec, x: Any, dtype: Any) -> tuple[Array, bool]:
    """Return one frame (batch, *space, channel) as a sequence of one step, and whether it had a batch axis."""
    x = as_floats("x", x, dtype)
    batched = calls.check_frames(spec, x.shape, calls.frame_axes(spec, "batch", channels_last=True))
    return (x[None] if batched else x[None, None]), batched


def frames_of_state(spec: ConvLSTMSpec, carry: Any, steps: Any, dtype: Any) -> tuple[Array, bool]:
    """Return frames without channels (time, batch, *grid, 0) for a layer without input; and as `read_frames`."""
    shape, batched = calls.empty_frames(spec, carry, steps, "carry", channels_last=True)
    return jnp.zeros(shape, dtype), batched


def compute_type(params: Any, x: Any, dtype: Any = None, name: str = "x") -> Any:
    """Return the type convolutions run in: that of the caller, or that of input and parameters together, as in Flax.

    Frames of integers, the input with this name, raise an error, as in PyTorch. x is None in a layer without input.
    """
    frames = () if x is None else (as_array(name, x),)
    for array in frames:
        if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == jnp.bool_:
            raise DtypeError(
                name,
                expected="floating frames",
                received=array.dtype,
                hint=f"Scale and convert the frames, for example with `{name}.astype(jnp.float32) / 255`.",
            )
    if dtype is not None:
        return floating("dtype", dtype)
    return jnp.result_type(*frames, *{leaf.dtype for leaf in jax.tree.leaves(params)})


def floating(name: str, dtype: Any) -> Any:
    """Return a floating type, or raise an error that names the argument."""
    try:
        floating_type = None if dtype is None or isinstance(dtype, (Array, np.ndarray)) else jnp.dtype(dtype)
    except TypeError:
        floating_type = None
    if floating_type is None or not jnp.issubdtype(floating_type, jnp.floating):
        received = type(dtype).__name__ if floating_type is None and not isinstance(dtype, (str, int)) else repr(dtype)
        raise SpecError(name, expected="a floating type", received=received, hint="Pass `float32`, or leave it out.")
    return floating_type


def check_key(name: str, key: Any) -> None:
    """Check that a value is one random key."""
    shape, dtype = (key.shape, key.dtype) if isinstance(key, (Array, np.ndarray)) else (None, None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if shape != () if typed else dtype != jnp.uint32 or shape not in ((2,), (4,)):
        received = type(key).__name__ if shape is None else f"shape {shape} of {dtype}"
        raise SpecError(name, expected="one random key", received=received, hint="Create it with `jax.random.key`.")


class CallReader(shared.CallReader):
    """Reads the masks, times and states of one call as JAX arrays."""

    namespace: ClassVar[Any] = jnp
    state_type: ClassVar[str] = "State"

    def as_array(self, name: str, argument: Any) -> Array:
        """Return an argument as a JAX array."""
        return as_array(name, argument)

    def as_floats(self, name: str, argument: Any) -> Array:
        """Return an argument as an array of at least float32."""
        return as_floats(name, argument)

    def known_values(self, values: Array, argument: Any) -> NumpyArray | None:
        """Return values that are not traced, and that can be read without waiting for an accelerator."""
        if isinstance(values, jax.core.Tracer) or any(d.platform != "cpu" for d in values.devices()):
            return None
        return np.asarray(values)

    def arange(self, steps: int) -> Array:
        """Return the numbers of the steps (time)."""
        return jnp.arange(steps)

    def is_state(self, value: Any) -> bool:
        """Return whether a value is a floating array of JAX or NumPy."""
        return isinstance(value, (jax.Array, np.ndarray)) and jnp.issubdtype(value.dtype, jnp.floating)


def read_states(
    spec: ConvLSTMSpec, argument: Any, reader: CallReader, batched: bool = True, *, cell: bool = False
) -> Sequence[State | None]:
    """Return the states of a call per layer and direction for the reader's frames; None means zeros."""
    size = reader.like.shape[2:-1]
    shapes = calls.state_shapes(spec, reader.batch, size, channels_last=True)
    if argument is None:
        return [None] * len(shapes)
    check_state_type("carry", argument)
    return [State(jnp.asarray(h), jnp.asarray(c)) for h, c in reader.states(argument, shapes, batched, cell=cell)]


def check_state_type(name: str, argument: Any, hint: str = "") -> None:
    """Raise an error for a pair without names; the hint is that for Flax, whose own cells have (c, h), by default."""
    if not isinstance(argument, State):
        raise StateError(
            name,
            expected="State(h, c)",
            received=f"a bare {type(argument).__name__}",
            hint=hint or "Pass `State(h=..., c=...)`, since the order of a bare pair in Flax is (c, h).",
        )


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


def as_array(name: str, argument: Any) -> Array:
    """Return an argument as an array, or raise an error that names it."""
    if hasattr(argument, "todense"):  # sparse arrays of JAX and SciPy
        raise DtypeError(
            name,
            expected="a dense array",
            received=f"a sparse {type(argument).__name__}",
            hint=f"Convert `{name}` with `{name}.todense()`.",
        )
    try:
        return jnp.asarray(argument)
    except (TypeError, ValueError) as error:
        raise shared.not_an_array(name, argument, "jnp.asarray") from error


def as_floats(name: str, argument: Any, dtype: Any = None) -> Array:
    """Return a floating array: of the type passed in, or of at least float32."""
    array = as_array(name, argument)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise DtypeError(name, expected="real numbers", received=array.dtype, hint="Pass the real part.")
    return array.astype(jnp.promote_types(array.dtype, jnp.float32) if dtype is None else dtype)
