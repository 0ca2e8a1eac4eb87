"""Reading the arguments of a call: axes, types, masks, durations and states, checked before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import keras

from convlstm.errors import ConvLSTMError, DtypeError, ShapeError
from convlstm.keras.engines import BACKEND, State, Tensor, at_hand, to_array
from convlstm.keras.options import translate_error
from convlstm.keras.stack import cell_dtype
from convlstm.spec import calls
from convlstm.spec.durations import check_durations
from convlstm.spec.options import ConvLSTMSpec

Shape = tuple[int | None, ...]


def errors_unchanged(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer's `call` whose errors of this package reach the user as they are."""
    return _guarded(call, lambda error: error)


def errors_in_keras_terms(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer's `call` whose errors of this package reach the user with Keras's names of arguments."""
    return _guarded(call, translate_error)


def _guarded(call: Callable[..., Any], change: Callable[[ConvLSTMError], ConvLSTMError]) -> Callable[..., Any]:
    @wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except ConvLSTMError as error:
            changed = change(error)
            # Keras rebuilds every other error from its message alone, as a RuntimeError where that fails
            changed._keras_call_info_injected = True  # type: ignore[attr-defined]
            raise changed from error.__cause__

    return wrapped


class MasksOnly:
    """A layer whose call has masks and no lengths, as every layer of Keras."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer; `lengths` raises an error that says how to make the mask."""
        if "lengths" in kwargs:
            raise ShapeError(
                "lengths",
                expected="a mask, because layers of Keras have no lengths",
                received=type(kwargs["lengths"]).__name__,
                hint="Pass `mask=keras.ops.arange(steps) < keras.ops.expand_dims(lengths, 1)`.",
            )
        return super().__call__(*args, **kwargs)  # type: ignore[misc]


def is_symbol(*given: Any) -> bool:
    """Return whether any of these is a symbol: a tensor of a graph that is being built."""
    return any(keras.utils.is_keras_tensor(one) for one in given)


def tensor(name: str, given: Any, dtype: str | None = None) -> Tensor:
    """Return an argument as a tensor of this type, or a symbol as it is.

    Anything but real numbers raises a `ShapeError`, since a cast would drop an imaginary part in silence.
    """
    if _is_sparse(given):
        convert = f"{name}.to_dense()" if BACKEND == "torch" else f"keras.ops.convert_to_tensor({name}, sparse=False)"
        raise DtypeError(
            name,
            expected="a dense tensor",
            received=f"a sparse or ragged {type(given).__name__}",
            hint=f"Convert `{name}` with `{convert}`.",
        )
    try:
        array = given if is_symbol(given) else keras.ops.convert_to_tensor(given)
        kind = keras.backend.standardize_dtype(array.dtype)
    except (TypeError, ValueError):
        array, kind = None, type(given).__name__
    if not kind.startswith(("float", "bfloat", "int", "uint", "bool")) or array is None:
        hint = "Pass the real part." if kind.startswith("complex") else f"Convert `{name}` with `numpy.asarray`."
        raise DtypeError(name, expected="one array of real numbers", received=kind, hint=hint)
    return array if dtype is None else keras.ops.cast(array, dtype)


def _is_sparse(given: Any) -> bool:
    """Return whether a value is a sparse or ragged tensor, or the symbol of one, of any backend."""
    attributes = ("sparse", "ragged", "is_sparse", "is_sparse_csr")
    is_flagged = any(getattr(given, name, False) is True for name in attributes)
    return is_flagged or type(given).__name__ in ("SparseTensor", "RaggedTensor") or hasattr(given, "todense")


def split_inputs(given: Any, names: Sequence[str], separate: Sequence[Any]) -> tuple[Any, ...]:
    """Return frames, durations and gaps of a call that has them in one tuple or as separate arguments.

    `names` says which of `durations` and `gaps` the layer uses, which is also their order in the tuple.
    """
    if not isinstance(given, (tuple, list)):
        return (given, *separate)
    frames, *rest = given
    if len(rest) != len(names) or any(part is not None for part in separate):
        raise ShapeError(
            "sequences",
            expected=f"({', '.join(('frames', *names))}), or the frames and the rest as separate arguments",
            received=f"{len(given)} arrays",
            hint="Pass each array once." if names else "Choose a `duration_strategy` or `memory_decay` to use them.",
        )
    by_name = dict(zip(names, rest, strict=True))
    return frames, by_name.get("durations"), by_name.get("gaps")


def used_times(spec: ConvLSTMSpec) -> tuple[str, ...]:
    """Return which of `durations` and `gaps` a layer uses."""
    uses = {"durations": spec.duration_strategy != "none", "gaps": spec.memory_decay}
    return tuple(name for name, is_used in uses.items() if is_used)


def check_given(name: str, frames: Any) -> None:
    """Raise an error for a call without frames, from which Keras's layers take their channels."""
    if frames is None:
        raise ShapeError(
            name,
            expected="frames",
            received="None",
            hint="Use `ConvLSTMStack` with a spec of `in_channels=0` for steps without input.",
        )


def frames_of_state(spec: ConvLSTMSpec, state: Any, steps: Any, dtype: str) -> Tensor:
    """Return frames without channels (batch, time, *grid, 0), for a stack without input; of a symbol, a symbol."""
    (_, batch, *frame), batched = calls.empty_frames(spec, state, steps, channels_last=True)
    first = state[0][0] if isinstance(state[0], (tuple, list)) else state[0]
    if not batched:
        unknown = (None,) * (spec.spatial_dims + 1)
        expected = (*unknown, spec.hidden_channels[0])
        calls.check_state_shape("h_0[0]", tuple(first.shape), expected, channels_last=True)
    if is_symbol(first):
        return keras.KerasTensor((batch, steps, *frame), dtype=dtype)
    batch, *grid, _ = keras.ops.shape(tensor("h_0", first))
    return keras.ops.zeros((batch, steps, *grid, 0), dtype)


def check_frames(
    name: str,
    spec: ConvLSTMSpec,
    shape: Sequence[int | None],
    *leading: str,
    data_format: str = "channels_last",
) -> None:
    """Refuse frames of another shape; sizes that are not known yet are not looked at."""
    check_rank(name, spec.spatial_dims, shape, *leading)
    last = data_format == "channels_last"
    calls.check_frames(spec, shape, calls.frame_axes(spec, *leading, channels_last=last), name)


def check_rank(name: str, spatial_dims: int, shape: Sequence[int | None], *leading: str) -> None:
    """Refuse frames without their leading or channel axes before anything is built from their shape."""
    count = len(leading) + spatial_dims + 1
    if len(shape) != count:
        raise ShapeError(
            name,
            expected=f"{count} axes: {', '.join(leading)}, channels and {spatial_dims} of space",
            received=f"shape {tuple(shape)}",
            hint="Pass frames with these axes.",
        )


def read_mask(mask: Any, frames: Tensor) -> Tensor | None:
    """Return a mask as bools (batch, time); without one, the mask that Keras has tied to the frames."""
    if isinstance(mask, (tuple, list)) and mask and (mask[0] is None or len(getattr(mask[0], "shape", ())) > 1):
        mask = mask[0]  # Keras hands a tuple of inputs a mask of each
    mask = getattr(frames, "_keras_mask", None) if mask is None else mask
    if mask is None:
        return None
    valid = tensor("mask", mask)
    kind = keras.backend.standardize_dtype(valid.dtype)
    calls.check_mask(tuple(valid.shape), kind, tuple(frames.shape[:2]), whole=kind == "bool" or "int" in kind)
    return keras.ops.cast(valid, "bool")


def read_times(
    spec: ConvLSTMSpec, durations: Any, gaps: Any, frames: Tensor, mask: Tensor | None
) -> tuple[Tensor | None, Mapping[str, Tensor]]:
    """Return durations (batch, time) and gaps (batch, time) by direction, after checking shape and range."""
    calls.check_given("durations", spec.duration_strategy != "none", durations)
    by_direction = calls.read_gaps(spec, gaps)
    read = None if durations is None else per_step("durations", durations, frames, mask)
    return read, {name: per_step("gaps", gap, frames, mask) for name, gap in by_direction.items()}


def per_step(name: str, given: Any, frames: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return durations or gaps (batch, time) in at least float32, for frames (batch, time, ...)."""
    dtype = cell_dtype(keras.backend.standardize_dtype(frames.dtype))
    values, full = tensor(name, given, dtype), tuple(frames.shape[:2])
    calls.check_per_step(name, tuple(values.shape), full, full[1])
    if is_symbol(values, frames, mask):
        return values
    values = values[..., 0] if len(values.shape) == 3 else values
    values = keras.ops.broadcast_to(values, tuple(keras.ops.shape(frames)[:2]))
    if at_hand(values):
        valid = None if mask is None else to_array(mask)
        check_durations(name, to_array(values), valid)
    return values


def one_step(name: str, given: Any, frame: Tensor) -> Tensor:
    """Return a cell's duration or gap as (batch, 1)."""
    values = tensor(name, given)
    calls.check_one_step(name, tuple(values.shape), frame.shape[0])
    return values[:, None] if len(values.shape) == 1 else values


def read_states(
    given: Any, shapes: Sequence[Shape], dtype: str, name: str | None = None, data_format: str = "channels_last"
) -> list[State]:
    """Return (h_0, c_0) as (h, c) indexed layer · D + direction in the types to compute in, after checking them.

    `name` is Keras's argument for the state [h, c] of a single layer. A size of None in `shapes` is not known.
    """
    pair = calls.state_pair(given) if name is None else calls.state_pair(given, name, "[h, c]")
    parts = ("h_0", "c_0") if name is None else (f"{name}[0]", f"{name}[1]")
    form = "(h_0, c_0), each a tuple with one array per layer and direction" if name is None else "[h, c]"
    read = []
    for part, arrays, kind in zip(parts, pair, (dtype, cell_dtype(dtype)), strict=True):
        items = tuple(arrays) if isinstance(arrays, (tuple, list)) and name is None else (arrays,)
        count, received = (0, None) if arrays is None else (len(items), f"{len(items)}")
        calls.check_state_count(part, count, len(shapes), received, kind="arrays", form=form)
        tensors = []
        for index, (item, shape) in enumerate(zip(items, shapes, strict=True)):
            label = f"{part}[{index}]" if name is None else part
            tensors.append(tensor(label, item, kind))
            last = data_format == "channels_last"
            calls.check_state_shape(label, tuple(tensors[-1].shape), shape, channels_last=last)
        read.append(tensors)
    return list(zip(*read, strict=True))
