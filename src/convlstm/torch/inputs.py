"""Reading the arguments of a call as tensors; what they must be is in `convlstm.spec.calls`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from convlstm.engine.torch.modes import transforms_are_active
from convlstm.engine.torch.precision import autocast_dtype
from convlstm.engine.torch.recurrence import State
from convlstm.errors import ShapeError
from convlstm.spec import calls
from convlstm.spec.durations import check_durations
from convlstm.spec.stack import ConvLSTMSpec


def check_tensor(name: str, x: Any, weight: Tensor) -> None:
    """Refuse what is no tensor of the weights' type on the weights' device (autocast converts all but float64)."""
    if isinstance(x, PackedSequence):
        raise ShapeError(
            name, expected="a tensor", received="a PackedSequence", hint="pad_packed_sequence it, and give its lengths."
        )
    if not isinstance(x, Tensor):
        raise ShapeError(name, expected="a tensor", received=type(x).__name__, hint="make it with torch.as_tensor.")
    if x.device != weight.device:
        raise ShapeError(
            name,
            expected=f"device {weight.device}, the weights' own",
            received=x.device,
            hint=f"move the input, {name}.to({str(weight.device)!r}), or the layer.",
        )
    cast = x.is_floating_point() and x.dtype != torch.float64 and autocast_dtype(weight) is not None
    if x.dtype != weight.dtype and not cast:
        raise ShapeError(
            name,
            expected=f"dtype {weight.dtype}, the weights' own",
            received=x.dtype,
            hint=f"convert the input, {name}.to({weight.dtype}), or the layer, layer.to({x.dtype}).",
        )


def time_first(spec: ConvLSTMSpec, x: Tensor, batch_first: bool) -> tuple[Tensor, bool]:
    """Return x as (time, batch, channel, *space), and whether it came with a batch axis."""
    leading = ("batch", "time") if batch_first else ("time", "batch")
    if not calls.check_frames(spec, x.shape, calls.frame_axes(spec, *leading)):
        return x.unsqueeze(1), False
    return x.transpose(0, 1) if batch_first else x, True


def check_frame(spec: ConvLSTMSpec, x: Any, weight: Tensor) -> bool:
    """Refuse what is no frame (batch, channel, *space) or (channel, *space); return whether it has a batch axis."""
    check_tensor("x", x, weight)
    return calls.check_frames(spec, x.shape, calls.frame_axes(spec, "batch"))


def one_step(name: str, wanted: bool, given: Any, x: Tensor, batch: int) -> Tensor | None:
    """Return a cell's duration or gap as (batch, 1), after checking shape and, where concrete, range."""
    calls.check_given(name, wanted, given, "duration_strategy" if name == "duration" else "memory_decay")
    if given is None:
        return None
    values = _as_tensor(name, given, torch.float64 if x.dtype == torch.float64 else torch.float32, x.device)
    calls.check_one_step(name, values.shape, batch)
    if _at_hand(values):
        check_durations(name, values.detach().numpy())
    return values.reshape(-1, 1).expand(batch, 1)


def valid_steps(lengths: Any, mask: Any, frames: Tensor, batched: bool = True) -> Tensor | None:
    """Return True where a step is valid (batch, time), from lengths or a mask; None means everywhere.

    Without a batch axis a mask may be (time,), and lengths one number.
    """
    steps, batch = frames.shape[:2]
    calls.check_one_of(lengths, mask)
    if not batched:
        lengths = [lengths] if isinstance(lengths, int) else lengths
        mask = mask.unsqueeze(0) if isinstance(mask, Tensor) and mask.ndim == 1 else mask
    if lengths is not None:
        counts = _as_tensor("lengths", lengths, None, frames.device)
        inside = tuple(counts.shape) == (batch,) and (
            not _at_hand(counts) or bool(((counts >= 0) & (counts <= steps)).all())
        )
        whole = _is_whole(counts, or_bool=False)
        received = None if whole and inside else counts.tolist()  # a list waits for an accelerator
        calls.check_lengths(received, batch, steps, whole=whole, inside=inside)
        return torch.arange(steps, device=frames.device) < counts[:, None]
    if mask is None:
        return None
    valid = _as_tensor("mask", mask, None, frames.device)
    calls.check_mask(valid.shape, valid.dtype, (batch, steps), whole=_is_whole(valid))
    return valid.bool()


def read_durations(spec: ConvLSTMSpec, given: Any, valid: Tensor | None, frames: Tensor, batch_first: bool) -> Any:
    """Return durations (batch, time) in at least float32, or None for a layer that has no use for them."""
    calls.check_given("durations", spec.duration_strategy != "none", given)
    return None if given is None else _per_step("durations", given, valid, frames, batch_first)


def read_gaps(
    spec: ConvLSTMSpec, given: Any, valid: Tensor | None, frames: Tensor, batch_first: bool
) -> dict[str, Tensor] | None:
    """Return gaps (batch, time) by direction, or None for a layer without memory decay."""
    parts = calls.read_gaps(spec, given)
    checked = {name: _per_step("gaps", gap, valid, frames, batch_first) for name, gap in parts.items()}
    return checked or None


def read_lead_durations(wanted: bool, given: Any, like: Tensor) -> Tensor | None:
    """Return the durations of the forecast steps (batch, horizon), for `like` (horizon, batch), or None."""
    calls.check_given("lead_durations", wanted, given)
    return _per_step("lead_durations", given, None, like, batch_first=True) if wanted else None


def read_states(given: Any, shapes: Sequence[tuple[int, ...]], like: Tensor, batched: bool = True) -> list[State]:
    """Return the states of a call as (h, c) per layer and direction, after checking them against their shapes.

    Args:
        given: (h_0, c_0), each a tensor (one layer and direction) or a tuple of tensors.
        shapes: The shape each must have, with the batch axis.
        like: A tensor of the device they must be on.
        batched: Whether the given tensors have that batch axis.

    Returns:
        (h, c) indexed layer · D + direction.

    Raises:
        StateError: naming the part, layer and direction that do not fit.
    """
    both = []
    for name, part in zip(("h_0", "c_0"), calls.state_pair(given), strict=True):
        tensors = (part,) if isinstance(part, Tensor) else tuple(part) if isinstance(part, (tuple, list)) else ()
        fit = all(isinstance(t, Tensor) and t.is_floating_point() and t.device == like.device for t in tensors)
        count = len(tensors) if fit else 0
        calls.check_state_count(name, count, len(shapes), _kinds(part), kind=f"floating tensors on {like.device}")
        own = [tensor if batched else tensor.unsqueeze(0) for tensor in tensors]
        for index, (tensor, shape) in enumerate(zip(own, shapes, strict=True)):
            calls.check_state_shape(f"{name}[{index}]", tensor.shape, shape)
        both.append(own)
    return list(zip(*both, strict=True))


def _kinds(part: Any) -> str:
    items = part if isinstance(part, (tuple, list)) else (part,)
    words = [f"{t.dtype} on {t.device}" if isinstance(t, Tensor) else type(t).__name__ for t in items]
    return f"{len(words)}: {', '.join(words)}"


def _is_whole(values: Tensor, *, or_bool: bool = True) -> bool:
    return not values.is_floating_point() and not values.is_complex() and (or_bool or values.dtype != torch.bool)


def _per_step(name: str, given: Any, valid: Tensor | None, frames: Tensor, batch_first: bool) -> Tensor:
    """Return durations or gaps as (batch, time), after checking shape and, where it is concrete, range."""
    steps, batch = frames.shape[:2]
    wide = torch.float64 if frames.dtype == torch.float64 else torch.float32
    values = _as_tensor(name, given, wide, frames.device)
    calls.check_per_step(name, values.shape, (batch, steps) if batch_first else (steps, batch), steps)
    if values.ndim == 3:
        values = values.squeeze(-1)
    if values.ndim == 2 and not batch_first:
        values = values.transpose(0, 1)
    values = values.expand(batch, steps)
    if _at_hand(values):
        check_durations(name, values.detach().numpy(), None if valid is None else valid.numpy())
    return values


def _as_tensor(name: str, given: Any, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    if isinstance(given, np.ndarray):
        given = np.asarray(given, order="C")  # PyTorch takes no negative strides, as of a reversed view
    try:
        return torch.as_tensor(given, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            name, expected="a tensor, or numbers", received=type(given).__name__, hint="make it with torch.as_tensor."
        ) from error


def _at_hand(values: Tensor) -> bool:
    """Return whether values can be looked at without a graph break or waiting for an accelerator."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and not transforms_are_active()
