"""Convolutions in the forms that oneDNN computes correctly and fast, added into a buffer where that is possible."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.engine.torch.modes import is_traced
from convlstm.spec.geometry import Widths, effective_kernel

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

Form = tuple[Sequence[int], Sequence[int]]
"""Stride and dilation along each axis; empty means 1."""
UNIT: Form = ((), ())


def contiguous_strides(x: Tensor) -> Tensor:
    """Return x (batch, channels, *space), with the strides of channels first if it has one channel.

    Such an input fits either memory format. A view of NumPy's or Keras's frames has the strides of
    channels last. Where the strides of the convolution differ, oneDNN then reads past the end of the input, and the
    result is silently wrong (PyTorch 2.13).
    """
    return x.squeeze(1).unsqueeze(1) if x.shape[1] == 1 else x


def channels_last_strides(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Return x with the strides of channels last, if it has one channel and the convolution has stride 1.

    oneDNN then takes a tenth of the time. Other strides are not safe there (see `contiguous_strides`).
    """
    if x.shape[1] != 1 or x.ndim == 3 or set(stride) != {1}:
        return contiguous_strides(x)
    return x.squeeze(1).unsqueeze(-1).movedim(-1, 1)


def padded(x: Tensor, widths: Widths) -> tuple[Tensor, list[int]]:
    """Return x (batch, channels, *space), padded where the convolution cannot, and the padding left to it.

    A bfloat16 convolution in 3-D over frames of depth 1 that pads the depth itself is wrong: oneDNN reads outside its
    input on processors with AMX (PyTorch 2.13). This function pads such frames.
    """
    if is_wrong_at_depth_one(x, widths):
        x, widths = F.pad(x, [0, 0, 0, 0, *widths[0]]), ((0, 0), *widths[1:])
    if all(before == after for before, after in widths):
        return x, [before for before, _ in widths]
    return F.pad(x, [n for width in reversed(widths) for n in width]), [0] * len(widths)


def is_wrong_at_depth_one(x: Tensor, widths: Widths) -> bool:
    """Return whether oneDNN must not pad the depth of x (batch, channels, *space) itself (see `padded`)."""
    return x.dtype == torch.bfloat16 and len(widths) == 3 and x.shape[2] == 1 and widths[0] != (0, 0)


def needs_two_columns(dtype: torch.dtype) -> bool:
    """Return whether a convolution to one column must take its form from `one_output_column`.

    That form is exact in every type. While a graph is compiled, only bfloat16 takes it: a comparison of sizes would fix
    a dynamic width.
    """
    return dtype == torch.bfloat16 or not torch.compiler.is_compiling()


def one_output_column(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """Return padded frames x (..., *space), cut to the columns under the kernel if the output has one, and the stride.

    On processors with AMX, oneDNN reads outside the input of a bfloat16 convolution, and of its weight gradient. This
    happens where the stride along the last axis is above 1 and the output has one point there (PyTorch 2.13, TensorFlow
    2.21). It happens in float32 too, where `torch.backends.mkldnn.conv.fp32_precision` or
    oneDNN's environment variables allow bfloat16.
    """
    span = effective_kernel(kernel[-1], dilation[-1])
    if stride[-1] == 1 or (x.shape[-1] - span) // stride[-1] > 0:
        return x, list(stride)
    return x[..., :span], [*stride[:-1], 1]


def add_convolution(
    z: Tensor, h: Tensor, weight: Tensor, widths: Widths, bias: Tensor | None = None, form: Form = UNIT
) -> None:
    """Add W ∗ h + b to z in place, inside the convolution where oneDNN supports that; W may come from `prepack`."""
    stride, dilation = (list(values) or [1] * len(widths) for values in form)
    even = all(before == after for before, after in widths)
    h, padding = padded(h, widths)
    if weight.is_mkldnn or (can_add(z) and is_channels_last(weight) and even):
        convolution_with_sum(z, h, weight, bias, padding, stride, dilation)
    else:
        z.add_(CONVOLUTIONS[len(widths)](h, weight, bias, stride, padding, dilation))


def can_add(like: Tensor) -> bool:
    """Return whether a convolution of arrays like this one can add its result to a buffer."""
    if like.ndim != 4 or like.device.type != "cpu" or not torch.backends.mkldnn.enabled or is_traced():
        return False
    return _has_sum(like.dtype)


def is_channels_last(weight: Tensor) -> bool:
    """Return whether a kernel is channels last or from `prepack`, so that a convolution need not reorder it."""
    return weight.is_mkldnn or weight.is_contiguous(memory_format=torch.channels_last)


def prepack(weight: Tensor, size: Sequence[int], widths: Widths, form: Form = UNIT) -> Tensor:
    """Return a kernel in oneDNN's own layout for unpadded inputs of shape `size`; `convolution_with_sum` accepts it.

    oneDNN would otherwise reorder the kernel at each use, which takes a tenth of the time of a small convolution.
    """
    stride, dilation = (list(values) or [1] * len(widths) for values in form)
    padding, space = [before for before, _ in widths], list(size[2:])
    if any(before != after for before, after in widths):
        space = [n + before + after for n, (before, after) in zip(space, widths, strict=True)]
        padding = [0] * len(widths)
    arguments = (padding, stride, dilation, 1, [*size[:2], *space])
    reordered: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *arguments)
    return reordered


def convolution_with_sum(
    z: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: list[int],
    stride: list[int],
    dilation: list[int],
) -> None:
    """Add W ∗ h + b to z in place by a private operator; valid only where `can_add` holds."""
    torch.ops.mkldnn._convolution_pointwise_.binary(
        z, h, weight, bias, padding, stride, dilation, 1, "add", 1.0, None, [], None
    )


@cache
def _has_sum(dtype: torch.dtype) -> bool:
    """Return whether oneDNN's private convolution with sum and a prepacked kernel exists and is correct."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    z, h, weight = (torch.ones(1, n, n, 16, dtype=dtype, device="cpu").movedim(-1, 1) for n in (2, 2, 1))
    try:
        kernel = prepack(weight.expand(16, -1, -1, -1).contiguous(), h.shape, ((0, 0), (0, 0)))
        convolution_with_sum(z, h, kernel, None, [0, 0], [1, 1], [1, 1])
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((z == 17).all())
