"""Reading the arguments of a call as MLX arrays; what they must be is in `convlstm.spec.calls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from convlstm.engine.mlx.recurrence import State
from convlstm.errors import DtypeError, ShapeError, SpecError
from convlstm.frontend import calls as shared
from convlstm.spec import calls
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array

LOW = (mx.bfloat16, mx.float16)
"""The types in which c is kept in float32."""


def check_array(name: str, x: Any, *types: mx.Dtype) -> None:
    """Check that x is an MLX array of one of these types."""
    if not isinstance(x, mx.array):
        raise ShapeError(
            name, expected="an MLX array", received=type(x).__name__, hint=f"Convert `{name}` with `mx.array`."
        )
    if x.dtype not in types:
        module = (
            f", or the module with `set_dtype(mx.{_short(x.dtype)})`" if mx.issubdtype(x.dtype, mx.floating) else ""
        )
        raise DtypeError(
            name,
            expected=f"{' or '.join(map(_short, types))}, as the weights",
            received=_short(x.dtype),
            hint=f"Convert the input with `{name}.astype(mx.{_short(types[0])})`{module}.",
        )


def as_type_of(name: str, value: Any, like: mx.array) -> mx.array:
    """Return an array of real numbers in the type of `like`, after checking that it is an MLX array."""
    is_array = isinstance(value, mx.array)
    if not is_array or mx.issubdtype(value.dtype, mx.complexfloating):
        hint = "Pass real numbers." if is_array else "Convert it with `mx.array`."
        received = _short(value.dtype) if is_array else type(value).__name__
        raise DtypeError(name, expected="an MLX array of real numbers", received=received, hint=hint)
    converted: mx.array = value.astype(like.dtype)
    return converted


def check_key(key: Any) -> None:
    """Check that a key is None or one random key."""
    if key is not None and not (isinstance(key, mx.array) and key.dtype == mx.uint32 and key.shape == (2,)):
        received = f"shape {key.shape} of {_short(key.dtype)}" if isinstance(key, mx.array) else type(key).__name__
        raise SpecError("key", expected="one random key", received=received, hint="Create it with `mx.random.key`.")


def frame_types(dtype: mx.Dtype) -> tuple[mx.Dtype, ...]:
    """Return the types of frames a forecaster takes: that of its weights, and float32 with low precision."""
    return (dtype, mx.float32) if dtype in LOW else (dtype,)


def time_first(spec: ConvLSTMSpec, x: Any) -> tuple[mx.array, bool]:
    """Return x as (time, batch, *space, channel), and whether it had a batch axis."""
    axes = calls.frame_axes(spec, "batch", "time", channels_last=True)
    return (x.swapaxes(0, 1), True) if calls.check_frames(spec, x.shape, axes) else (x[:, None], False)


def read_frame(spec: ConvLSTMSpec, x: Any, dtype: mx.Dtype) -> tuple[mx.array, bool]:
    """Return a frame as a sequence of one step (1, batch, *space, channel), and whether it had a batch axis."""
    check_array("x", x, dtype)
    batched = calls.check_frames(spec, x.shape, calls.frame_axes(spec, "batch", channels_last=True))
    return (x[None] if batched else x[None, None]), batched


def frames_of_state(spec: ConvLSTMSpec, state: Any, steps: Any, dtype: mx.Dtype) -> tuple[mx.array, bool]:
    """Return frames without channels (time, batch, *grid, 0) for a layer without input; and as `time_first`."""
    shape, batched = calls.empty_frames(spec, state, steps, channels_last=True)
    return mx.zeros(shape, dtype=dtype), batched


def zero_states(shapes: Sequence[tuple[int, ...]], dtype: mx.Dtype) -> list[State]:
    """Return zeros as (h, c) per layer and direction; c in at least float32."""
    wide = mx.float32 if dtype in LOW else dtype
    return [(mx.zeros(shape, dtype=dtype), mx.zeros(shape, dtype=wide)) for shape in shapes]


class CallReader(shared.CallReader):
    """Reads the masks, times and states of one call as MLX arrays."""

    namespace: ClassVar[Any] = mx

    def type_name(self, value: Any) -> str:
        """Return the type of an MLX array, or of another value, for errors."""
        return _short(value.dtype) if isinstance(value, mx.array) else type(value).__name__

    def as_array(self, name: str, argument: Any, dtype: mx.Dtype | None = None) -> mx.array:
        """Return an argument as an MLX array."""
        # MLX reads no reversed axis
        values = np.array(argument, order="C") if isinstance(argument, np.ndarray) else argument
        try:
            return mx.array(values, dtype=dtype) if dtype else mx.array(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise shared.not_an_array(name, argument, "mx.array") from error

    def as_floats(self, name: str, argument: Any) -> mx.array:
        """Return an argument in float64 with frames of float64, else in float32."""
        return self.as_array(name, argument, mx.float64 if self.like.dtype == mx.float64 else mx.float32)

    def known_values(self, values: mx.array, argument: Any) -> Array | None:
        """Return values that can be read without waiting for an accelerator, and None within a transform."""
        if isinstance(argument, mx.array) and mx.default_device().type != mx.cpu:
            return None
        try:
            return np.array(values)
        except ValueError:  # MLX's only sign that mx.compile or mx.vmap is at work
            return None

    def arange(self, steps: int) -> mx.array:
        """Return the numbers of the steps (time)."""
        return mx.arange(steps)

    def is_state(self, value: Any) -> bool:
        """Return whether a value is a floating MLX array."""
        return isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)


def _short(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")
