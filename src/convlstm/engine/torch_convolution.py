"""Convolutions as oneDNN runs them right and fast, the recurrent one added into a buffer where it can."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.contract.geometry import Widths
from convlstm.engine.torch_modes import is_watched

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

Form = tuple[Sequence[int], Sequence[int]]
UNIT: Form = ((), ())


def unambiguous(x: Tensor) -> Tensor:
    """Return a view of x (batch, channels, *space) whose strides say that it is channels first, if it has one channel.

    Such an input fits either memory format. With the strides of channels last, as a view of NumPy's or Keras's frames
    has them, oneDNN's convolution reads past its end where the strides of the convolution are mixed, and is wrong in
    silence (PyTorch 2.13).
    """
    return x.squeeze(1).unsqueeze(1) if x.shape[1] == 1 else x


def one_channel_last(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Return a view whose strides say that x is channels last, if it has one channel and no stride stands against it.

    oneDNN then takes a tenth of the time.
    """
    if x.shape[1] != 1 or x.ndim == 3 or set(stride) != {1}:
        return unambiguous(x)
    return x.squeeze(1).unsqueeze(-1).movedim(-1, 1)


def padded(x: Tensor, widths: Widths) -> tuple[Tensor, list[int]]:
    """Return x with what padding a convolution cannot do itself, and what is left to it."""
    if all(before == after for before, after in widths):
        return x, [before for before, _ in widths]
    return F.pad(x, [n for width in reversed(widths) for n in width]), [0] * len(widths)


def add_convolution(
    z: Tensor, h: Tensor, weight: Tensor, widths: Widths, bias: Tensor | None = None, form: Form = UNIT
) -> None:
    """Add W ∗ h + b to z in place, within the convolution where oneDNN offers that.

    Args:
        z: Where it is added.
        h: What is convolved.
        weight: W.
        widths: Points of padding around h.
        bias: b.
        form: Stride and dilation along each axis; nothing means 1.
    """
    stride, dilation = (list(part) or [1] * len(widths) for part in form)
    if can_add(z, weight) and all(before == after for before, after in widths):
        convolution_with_sum(z, h, weight, bias, [before for before, _ in widths], stride, dilation)
    else:
        h, padding = padded(h, widths)
        z.add_(CONVOLUTIONS[len(widths)](h, weight, bias, stride, padding, dilation))


def can_add(z: Tensor, weight: Tensor) -> bool:
    """Return whether a convolution can add to such an array by itself: a kernel in another order it puts in order."""
    in_order = z.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    allowed = bool(torch.backends.mkldnn.enabled) and not is_watched()
    return in_order and z.device.type == "cpu" and allowed and _has_sum(z.dtype)


def convolution_with_sum(
    z: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
) -> None:
    """Add W ∗ h + b to z in place: a private operator, where `can_add` allows it."""
    torch.ops.mkldnn._convolution_pointwise_.binary(
        z, h, weight, bias, padding, stride, dilation, 1, "add", 1.0, None, [], None
    )


@cache
def _has_sum(dtype: torch.dtype) -> bool:
    """Return whether this build of PyTorch has oneDNN's convolution with sum (a private operator), and is right."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    z, h, weight = (torch.ones(1, 1, n, n, dtype=dtype, device="cpu") for n in (2, 2, 1))
    try:
        convolution_with_sum(z, h, weight, None, [0, 0], [1, 1], [1, 1])
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((z == 2).all())
