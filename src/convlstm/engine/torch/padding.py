"""The boundaries in PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from convlstm.engine.torch.rows import Rows, with_neighbours
from convlstm.spec.geometry import Widths, check_boundary


def pad(x: Tensor, widths: Widths, boundary: tuple[str, ...], rows: Rows | None = None) -> Tensor:
    """Return x (batch, channels, *space) with points added around its spatial axes, one axis after another.

    Where `rows` are divided among processes, those of the neighbours come first.
    """
    if rows is not None and tuple(widths[0]) != (0, 0):
        x, missing = with_neighbours(x, widths[0], rows, circular=boundary[0] == "circular")
        widths = (missing, *widths[1:])
    check_boundary(tuple(x.shape[2:]), widths, boundary)
    rank = x.ndim - 2
    for axis, (width, rule) in enumerate(zip(widths, boundary, strict=True)):
        if width == (0, 0):
            continue
        if rule == "zeros":
            x = F.pad(x, [0, 0] * (rank - 1 - axis) + list(width))
        else:
            x = _pad_axis(x, 2 + axis, width, rule)
    return x


def _pad_axis(x: Tensor, axis: int, width: tuple[int, int], rule: str) -> Tensor:
    size = x.shape[axis]
    index = torch.arange(-width[0], size + width[1], device=x.device)
    if rule == "replicate":
        index = index.clamp(0, size - 1)
    elif rule == "circular":
        index = index % size
    else:
        index = (size - 1) - ((size - 1) - index.abs()).abs()
    return x.index_select(axis, index)
