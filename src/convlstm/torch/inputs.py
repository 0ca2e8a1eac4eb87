"""Reading the arguments of a call as tensors; what they must be is in `convlstm.spec.calls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from convlstm.engine.torch.modes import transforms_are_active
from convlstm.engine.torch.precision import autocast_dtype
from convlstm.errors import DtypeError, ShapeError, SpecError, StateError
from convlstm.frontend import calls as shared
from convlstm.spec import calls
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The types of weights that the layers compute with."""

DTYPE_NAMES = ", ".join(map(str, DTYPES))
"""Their names, for errors."""


def check_tensor(name: str, x: Any, weight: Tensor) -> None:
    """Check that x is a dense tensor of the weights' type and device; autocast converts all types but float64."""
    if isinstance(x, PackedSequence):
        raise ShapeError(
            name,
            expected="a tensor",
            received="a PackedSequence",
            hint="Unpack it with `torch.nn.utils.rnn.pad_packed_sequence`.",
        )
    if not isinstance(x, Tensor):
        raise ShapeError(
            name, expected="a tensor", received=type(x).__name__, hint=f"Convert `{name}` with `torch.as_tensor`."
        )
    if not _is_dense(x):
        convert = f"torch.nested.to_padded_tensor({name}, 0.0)" if x.is_nested else f"{name}.to_dense()"
        raise DtypeError(
            name,
            expected="a dense tensor",
            received="a nested tensor" if x.is_nested else f"layout {x.layout}",
            hint=f"Convert the input with `{convert}`.",
        )
    if x.device != weight.device:
        raise ShapeError(
            name,
            expected=f"device {weight.device}, as the weights",
            received=x.device,
            hint=f"Move the input with `{name}.to({str(weight.device)!r})`, or move the layer.",
        )
    _check_dtype(name, x, weight)


def as_type_of(name: str, value: Any, like: Tensor) -> Tensor:
    """Return a dense real tensor in the type of `like`, after checking that it is one and on the device of `like`."""
    if not isinstance(value, Tensor):
        received, hint = type(value).__name__, f"Convert it with `torch.as_tensor(..., device={str(like.device)!r})`."
    elif value.is_complex() or not _is_dense(value):
        received, hint = f"{value.dtype} of layout {value.layout}", "Pass a dense tensor of real numbers."
    elif value.device != like.device:
        received, hint = f"one on {value.device}", f"Move it with `.to({str(like.device)!r})`."
    else:
        return value.to(like.dtype)
    raise DtypeError(name, expected=f"a real tensor on {like.device}", received=received, hint=hint)


def _check_dtype(name: str, x: Tensor, weight: Tensor) -> None:
    if weight.dtype not in DTYPES:
        raise SpecError(
            "dtype",
            expected=f"weights of {DTYPE_NAMES}",
            received=weight.dtype,
            hint="Convert the layer with `layer.to(torch.float32)`.",
        )
    cast = x.is_floating_point() and x.dtype != torch.float64 and autocast_dtype(weight) is not None
    if x.dtype != weight.dtype and not cast:
        layer = f", or the layer with `layer.to({x.dtype})`" if x.dtype in DTYPES else ""
        raise DtypeError(
            name,
            expected=f"dtype {weight.dtype}, as the weights",
            received=x.dtype,
            hint=f"Convert the input with `{name}.to({weight.dtype})`{layer}.",
        )


def _is_dense(x: Tensor) -> bool:
    return x.layout == torch.strided and not x.is_nested


def one_state(name: str, state: Any, hx: Any) -> Any:
    """Return the initial state of a call, which `hx` is another name of."""
    if state is not None and hx is not None:
        raise StateError(
            "hx", expected=f"None together with `{name}`", received="both", hint=f"Pass `{name}` or `hx`, not both."
        )
    return hx if state is None else state


def unstacked_state(state: Any, shapes: Sequence[tuple[int, ...]], batched: bool) -> Any:
    """Return (h, c) with a tensor per layer and direction for one of stacked tensors, any other state as it is.

    A stacked tensor is (layers · directions, batch, hidden_channels, *grid), as in `torch.nn.LSTM`.
    """
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        return state
    return tuple(_unstacked(f"{name}_0", part, shapes, batched) for name, part in zip("hc", state, strict=True))


def _unstacked(name: str, part: Any, shapes: Sequence[tuple[int, ...]], batched: bool) -> Any:
    if not isinstance(part, Tensor) or part.ndim != len(shapes[0]) + batched:
        return part
    if any(shape != shapes[0] for shape in shapes):
        raise StateError(
            name,
            expected=f"a tuple of {len(shapes)} tensors, because the layers differ in channels or grid",
            received=f"one tensor of shape {tuple(part.shape)}",
            hint="Pass a tuple with one tensor per layer and direction.",
        )
    expected = (len(shapes), *shapes[0][0 if batched else 1 :])
    if tuple(part.shape) != expected:
        raise StateError(
            name,
            expected=f"({'layers · directions, batch' if batched else 'layers · directions'}, "
            f"hidden_channels, *grid) = {expected}",
            received=tuple(part.shape),
            hint="Pass None, or the state of a call with the same batch and grid.",
        )
    return part.unbind(0)


def time_first(spec: ConvLSTMSpec, x: Any, batch_first: bool) -> tuple[Tensor, bool]:
    """Return x as (time, batch, channel, *space), and whether it had a batch axis."""
    leading = ("batch", "time") if batch_first else ("time", "batch")
    if not calls.check_frames(spec, x.shape, calls.frame_axes(spec, *leading)):
        return x.unsqueeze(1), False
    return x.transpose(0, 1) if batch_first else x, True


def frames_of_state(spec: ConvLSTMSpec, state: Any, steps: Any, weight: Tensor) -> tuple[Tensor, bool]:
    """Return frames without channels (time, batch, 0, *grid) for a layer without input; and as `time_first`."""
    shape, batched = calls.empty_frames(spec, state, steps, is_stackable=True)
    return weight.new_empty(shape), batched


def check_frame(spec: ConvLSTMSpec, x: Any, weight: Tensor) -> bool:
    """Check a frame (batch, channel, *space) or (channel, *space), and return whether it has a batch axis."""
    check_tensor("x", x, weight)
    return calls.check_frames(spec, x.shape, calls.frame_axes(spec, "batch"))


def read_frame(spec: ConvLSTMSpec, x: Any, weight: Tensor) -> tuple[Tensor, bool]:
    """Return a frame as a sequence of one step (1, batch, channel, *space), and whether it had a batch axis."""
    batched = check_frame(spec, x, weight)
    return (x if batched else x.unsqueeze(0)).unsqueeze(0), batched


class CallReader(shared.CallReader):
    """Reads the masks, times and states of one call as tensors."""

    namespace: ClassVar[Any] = torch
    channels_last: ClassVar[bool] = False

    def valid_steps(self, lengths: Any, mask: Any, batched: bool = True) -> Any:
        """Return True where a step is valid; without a batch axis a mask may be (time,), and lengths one number."""
        if not batched:
            lengths = [lengths] if isinstance(lengths, int) else lengths
            mask = mask.unsqueeze(0) if isinstance(mask, Tensor) and mask.ndim == 1 else mask
        return super().valid_steps(lengths, mask)

    @property
    def state_kind(self) -> str:
        """What the arrays of a state must be, for errors."""
        return f"dense floating tensors on {self.like.device}"

    def type_name(self, value: Any) -> str:
        """Return the type and device of a tensor, or the type of another value, for errors."""
        if not isinstance(value, Tensor):
            return type(value).__name__
        return f"{value.dtype} on {value.device}" + ("" if _is_dense(value) else f" with layout {value.layout}")

    def as_array(self, name: str, argument: Any, dtype: torch.dtype | None = None) -> Tensor:
        """Return an argument as a tensor on the frames' device."""
        if isinstance(argument, np.ndarray):
            argument = np.asarray(argument, order="C")  # PyTorch takes no negative strides, as of a reversed view
        try:
            return torch.as_tensor(argument, dtype=dtype, device=self.like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise shared.not_an_array(name, argument, "torch.as_tensor") from error

    def as_floats(self, name: str, argument: Any) -> Tensor:
        """Return an argument in float64 with frames of float64, else in float32."""
        return self.as_array(name, argument, torch.float64 if self.like.dtype == torch.float64 else torch.float32)

    def known_values(self, values: Tensor, argument: Any) -> Array | None:
        """Return values that can be read without a graph break or waiting for an accelerator."""
        if values.device.type != "cpu" or torch.compiler.is_compiling() or transforms_are_active():
            return None
        known: Array = (values.float() if values.dtype == torch.bfloat16 else values).detach().numpy()
        return known

    def arange(self, steps: int) -> Tensor:
        """Return the numbers of the steps (time)."""
        return torch.arange(steps, device=self.like.device)

    def is_state(self, value: Any) -> bool:
        """Return whether a value is a dense floating tensor on the frames' device."""
        is_floating = isinstance(value, Tensor) and value.is_floating_point() and _is_dense(value)
        return is_floating and value.device == self.like.device
