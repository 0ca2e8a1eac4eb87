"""Reading the arguments of a call: axes, types, masks, durations and states, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convlstm.contract.durations import check_durations
from convlstm.contract.geometry import AXIS_NAMES
from convlstm.contract.spec import ConvLSTMSpec
from convlstm.engine.torch import State
from convlstm.engine.torch_fused import transforms_are_active
from convlstm.errors import ShapeError, StateError


def check_tensor(name: str, x: Any, weight: Tensor) -> None:
    """Refuse what is no tensor of the weights' type on the weights' device (autocast converts types by itself)."""
    if not isinstance(x, Tensor):
        raise ShapeError(name, expected="a tensor", received=type(x).__name__, mend="make it with torch.as_tensor.")
    if x.device != weight.device:
        raise ShapeError(
            name,
            expected=f"device {weight.device}, the weights' own",
            received=x.device,
            mend=f"move the input, {name}.to({str(weight.device)!r}), or the layer.",
        )
    cast = x.is_floating_point() and torch.is_autocast_enabled(x.device.type)
    if x.dtype != weight.dtype and not cast:
        raise ShapeError(
            name,
            expected=f"dtype {weight.dtype}, the weights' own",
            received=x.dtype,
            mend=f"convert the input, {name}.to({weight.dtype}), or the layer, layer.to({x.dtype}).",
        )


def time_first(spec: ConvLSTMSpec, x: Tensor, batch_first: bool) -> tuple[Tensor, bool]:
    """Return x as (time, batch, channel, *space), and whether it came with a batch axis."""
    rank = spec.spatial_dims
    axes = ["batch", "time", f"channel={spec.in_channels}", *AXIS_NAMES[rank]]
    if not batch_first:
        axes[0], axes[1] = axes[1], axes[0]
    if x.ndim not in (rank + 2, rank + 3) or x.shape[-rank - 1] != spec.in_channels:
        raise ShapeError(
            "x",
            expected=f"({', '.join(axes)})",
            received=f"shape {tuple(x.shape)}",
            mend="permute the axes, or build the layer with the channels of your data.",
        )
    if spec.peephole == "pixel" and tuple(x.shape[-rank:]) != spec.input_size:
        raise ShapeError(
            "x",
            expected=f"frames of {spec.input_size}, the input_size of the pixel peepholes",
            received=f"{tuple(x.shape[-rank:])}",
            mend="crop or pad the frames, or use peephole='channel'.",
        )
    if x.ndim == rank + 2:
        return x.unsqueeze(1), False
    return x.transpose(0, 1) if batch_first else x, True


def check_frame(spec: ConvLSTMSpec, x: Any, weight: Tensor) -> None:
    """Refuse what is no frame (batch, channel, *space) or (channel, *space) of a cell."""
    check_tensor("x", x, weight)
    rank = spec.spatial_dims
    if x.ndim not in (rank + 1, rank + 2) or x.shape[-rank - 1] != spec.in_channels:
        raise ShapeError(
            "x",
            expected=f"({', '.join(('batch', f'channel={spec.in_channels}', *AXIS_NAMES[rank]))}), one step",
            received=f"shape {tuple(x.shape)}",
            mend="give one frame a call, or use ConvLSTM for a sequence.",
        )


def one_step(name: str, wanted: bool, given: Any, x: Tensor, batch: int) -> Tensor | None:
    """Return a cell's duration or gap as (1, batch) or (1,), after checking shape and, where at hand, range."""
    if wanted != (given is not None):
        raise ShapeError(
            name,
            expected="a number, (batch,) or (batch, 1)" if wanted else "None in a cell that does not use it",
            received="None" if given is None else type(given).__name__,
            mend="give it." if wanted else "choose a duration_strategy, or memory_decay, to use it.",
        )
    if given is None:
        return None
    values = _as_tensor(name, given, torch.float64 if x.dtype == torch.float64 else torch.float32, x.device)
    if tuple(values.shape) not in ((), (batch,), (batch, 1)):
        raise ShapeError(
            name,
            expected=f"a number, ({batch},) or ({batch}, 1)",
            received=f"shape {tuple(values.shape)}",
            mend="give one value per row.",
        )
    if _at_hand(values):
        check_durations(name, values.detach().numpy())
    return (values.squeeze(-1) if values.ndim == 2 else values).unsqueeze(0)


def valid_steps(lengths: Any, mask: Any, frames: Tensor) -> Tensor | None:
    """Return True where a step is valid (batch, time), from lengths or a mask; None means everywhere."""
    steps, batch = frames.shape[:2]
    if lengths is not None and mask is not None:
        raise ShapeError("mask", expected="None beside lengths", received="both", mend="give one of them.")
    if lengths is not None:
        counts = _as_tensor("lengths", lengths, None, frames.device)
        whole = not counts.is_floating_point() and counts.dtype != torch.bool
        inside = tuple(counts.shape) == (batch,) and (
            not _at_hand(counts) or bool(((counts >= 0) & (counts <= steps)).all())
        )
        if not (whole and inside):
            raise ShapeError(
                "lengths",
                expected=f"{batch} whole numbers from 0 to {steps}",
                received=counts.tolist(),
                mend="give the number of valid steps of each row.",
            )
        return torch.arange(steps, device=frames.device) < counts[:, None]
    if mask is None:
        return None
    valid = _as_tensor("mask", mask, None, frames.device)
    if tuple(valid.shape) != (batch, steps) or valid.is_floating_point():
        raise ShapeError(
            "mask",
            expected=f"bools (batch, time) = {(batch, steps)}",
            received=f"shape {tuple(valid.shape)} of {valid.dtype}",
            mend="give one bool per frame, True where it is valid.",
        )
    return valid.bool()


def read_durations(spec: ConvLSTMSpec, given: Any, valid: Tensor | None, frames: Tensor, batch_first: bool) -> Any:
    """Return durations (batch, time) in at least float32, or None for a layer that has no use for them."""
    aware = spec.duration_strategy != "none"
    if aware != (given is not None):
        raise ShapeError(
            "durations",
            expected="one duration per step (batch, time)" if aware else "None with duration_strategy='none'",
            received="None" if given is None else type(given).__name__,
            mend="give the duration of each step." if aware else "choose a duration_strategy to use them.",
        )
    return None if given is None else _per_step("durations", given, valid, frames, batch_first)


def read_gaps(
    spec: ConvLSTMSpec, given: Any, valid: Tensor | None, frames: Tensor, batch_first: bool
) -> dict[str, Tensor] | None:
    """Return gaps (batch, time) by direction, or None for a layer without memory decay."""
    count = len(spec.directions) if spec.memory_decay else 0
    parts = () if given is None else given if isinstance(given, tuple) else (given,)
    if len(parts) != count:
        raise ShapeError(
            "gaps",
            expected=f"{count} array(s) (batch, time), one per direction" if count else "None without memory_decay",
            received=f"{len(parts)} array(s)",
            mend="make them with convlstm.contract.durations.durations_from_times.",
        )
    checked = [_per_step("gaps", gap, valid, frames, batch_first) for gap in parts]
    return dict(zip(spec.directions, checked, strict=True)) if count else None


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
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise StateError("state", expected="a pair (h_0, c_0)", received=type(given).__name__, mend="pass it so.")
    both = []
    for name, part in zip(("h_0", "c_0"), given, strict=True):
        tensors = (part,) if isinstance(part, Tensor) else tuple(part) if isinstance(part, (tuple, list)) else ()
        fit = [isinstance(tensor, Tensor) and tensor.is_floating_point() for tensor in tensors]
        if len(tensors) != len(shapes) or not all(fit) or any(t.device != like.device for t in tensors):
            raise StateError(
                name,
                expected=f"{len(shapes)} floating tensors on {like.device}, one per layer and direction",
                received=_kinds(part),
                mend="pass what the layer returned as (h_n, c_n).",
            )
        own = [tensor if batched else tensor.unsqueeze(0) for tensor in tensors]
        for index, (tensor, shape) in enumerate(zip(own, shapes, strict=True)):
            if tuple(tensor.shape) != shape:
                raise StateError(
                    f"{name}[{index}]",
                    expected=f"(batch, hidden_channels, *grid) = {shape}",
                    received=f"{tuple(tensor.shape)}{_difference(tuple(tensor.shape), shape)}",
                    mend="start from None, or pass the state of a call with the same batch and grid.",
                )
        both.append(own)
    return list(zip(*both, strict=True))


def _kinds(part: Any) -> str:
    items = part if isinstance(part, (tuple, list)) else (part,)
    words = [f"{t.dtype} on {t.device}" if isinstance(t, Tensor) else type(t).__name__ for t in items]
    return f"{len(words)}: {', '.join(words)}"


def _difference(received: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if len(received) != len(expected):
        return ""
    names = ("batch", "hidden_channels", *AXIS_NAMES[len(expected) - 2])
    wrong = [name for name, a, b in zip(names, received, expected, strict=True) if a != b]
    return f", which differs in {' and '.join(wrong)}"


def _per_step(name: str, given: Any, valid: Tensor | None, frames: Tensor, batch_first: bool) -> Tensor:
    """Return durations or gaps as (batch, time), after checking shape and, where values are at hand, range."""
    steps, batch = frames.shape[:2]
    wide = torch.float64 if frames.dtype == torch.float64 else torch.float32
    values = _as_tensor(name, given, wide, frames.device)
    full = (batch, steps) if batch_first else (steps, batch)
    if tuple(values.shape) not in ((), (steps,), full, (*full, 1)):
        raise ShapeError(
            name,
            expected=f"a number, ({steps},), {full} or {(*full, 1)}",
            received=f"shape {tuple(values.shape)}",
            mend="give one value per step.",
        )
    if values.ndim == 3:
        values = values.squeeze(-1)
    if values.ndim == 2 and not batch_first:
        values = values.transpose(0, 1)
    values = values.expand(batch, steps)
    if _at_hand(values):
        check_durations(name, values.detach().numpy(), None if valid is None else valid.numpy())
    return values


def _as_tensor(name: str, given: Any, dtype: torch.dtype | None, device: torch.device) -> Tensor:
    try:
        return torch.as_tensor(given, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            name, expected="a tensor, or numbers", received=type(given).__name__, mend="make it with torch.as_tensor."
        ) from error


def _at_hand(values: Tensor) -> bool:
    """Return whether values can be looked at without a graph break or waiting for an accelerator."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling() and not transforms_are_active()


def read_lead_durations(wanted: bool, given: Any, like: Tensor) -> Tensor | None:
    """Return the durations of the forecast steps (batch, horizon), for `like` (horizon, batch), or None."""
    if wanted != (given is not None):
        raise ShapeError(
            "lead_durations",
            expected="one duration per lead time (batch, horizon)" if wanted else "None in a model without durations",
            received="None" if given is None else type(given).__name__,
            mend="give them." if wanted else "choose a duration_strategy to use them.",
        )
    return _per_step("lead_durations", given, None, like, batch_first=True) if wanted else None
