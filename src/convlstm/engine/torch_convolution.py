"""Convolutions as oneDNN runs them right and fast, the recurrent one added into a buffer where it can."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from convlstm.contract.geometry import Widths

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def unambiguous(x: Tensor) -> Tensor:
    """Return a view of x (batch, channels, *space) whose strides say that it is channels first, if it has one channel.

    Such an input fits either memory format. With the strides of channels last, as a view of NumPy's or Keras's frames
    has them, oneDNN's convolution reads past its end where the strides of the convolution are mixed, and is wrong in
    silence (PyTorch 2.13).
    """
    return x.squeeze(1).unsqueeze(1) if x.shape[1] == 1 else x


def padded(x: Tensor, widths: Widths) -> tuple[Tensor, list[int]]:
    """Return x with what padding a convolution cannot do itself, and what is left to it."""
    if all(before == after for before, after in widths):
        return x, [before for before, _ in widths]
    return F.pad(x, [n for width in reversed(widths) for n in width]), [0] * len(widths)


def convolve(x: Tensor, weight: Tensor, widths: Widths) -> Tensor:
    """Return W ∗ x with stride 1, on x padded by these widths."""
    x, padding = padded(x, widths)
    return CONVOLUTIONS[len(widths)](x, weight, None, 1, padding)


def add_convolution(z: Tensor, h: Tensor, weight: Tensor, widths: Widths) -> None:
    """Add W ∗ h to z in place, within the convolution where oneDNN offers that."""
    symmetric = all(before == after for before, after in widths)
    if symmetric and len(widths) == 2 and z.device.type == "cpu" and not _is_watched() and _can_add(z.dtype):
        _convolution_with_sum(z, h, weight, [before for before, _ in widths])
    else:
        z.add_(convolve(h, weight, widths))


def _convolution_with_sum(z: Tensor, h: Tensor, weight: Tensor, padding: list[int]) -> None:
    torch.ops.mkldnn._convolution_pointwise_.binary(
        z, h, weight, None, padding, [1, 1], [1, 1], 1, "add", 1.0, None, [], None
    )


def _is_watched() -> bool:
    """Return whether a trace or a dispatch mode looks on, such as a counter, that knows public operators only."""
    return torch._C._get_tracing_state() is not None or _get_current_dispatch_mode() is not None


@cache
def _can_add(dtype: torch.dtype) -> bool:
    """Return whether this build of PyTorch has oneDNN's convolution with sum (a private operator), and is right."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    z, h, weight = (torch.ones(1, 1, n, n, dtype=dtype, device="cpu") for n in (2, 2, 1))
    try:
        _convolution_with_sum(z, h, weight, [0, 0])
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((z == 2).all())
