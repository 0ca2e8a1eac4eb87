"""Layers whose grid is divided among processes."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn

from convlstm.engine.torch.rows import Rows, divided
from convlstm.errors import SpecError
from convlstm.torch.forecaster import Forecaster
from convlstm.torch.module import SpecModule


def divide_rows(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    r"""Divide the rows of the grid among the processes of a group, in every layer, cell and forecaster of a module.

    From then on each process passes its block of rows (the first spatial axis): of frames, states and targets, in the
    order of the ranks. Before a convolution the processes exchange the rows that their neighbours need, (k − 1) / 2 · d
    on each side for a kernel of k rows and dilation d. Output, states and gradients are those of the whole grid: a
    parameter has the sum of its gradients over the processes as its gradient, which
    `torch.distributed.all_reduce` computes. (`DistributedDataParallel` computes the mean.)

    Each process computes the same layers in the same order. A block has at least as many rows as a neighbour needs,
    and a multiple of the stride and of the patch size. The generic implementation runs, without the fused one. Random
    dropout masks are drawn in each process. A divided module cannot be pickled.

    Args:
        module: A layer, a cell, a forecaster, or a module that contains them.
        group: Processes; None is the default group. A group of one process changes nothing.

    Raises:
        SpecError: if the module contains no layer, or an option needs the whole grid: a norm, a peephole for each
            pixel, padding other than `same`, a forecaster with `detail_channels`.

    Example:
        >>> import convlstm.torch, torch, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> layer = convlstm.torch.ConvLSTM(1, 8, kernel_size=3)
        >>> divide_rows(layer)
        >>> output, _ = layer(torch.zeros(2, 5, 1, 16, 16))
        >>> dist.destroy_process_group()
        >>> tuple(output.shape)
        (2, 5, 8, 16, 16)
    """
    rows = Rows(group)
    layers = [part for part in module.modules() if isinstance(part, SpecModule)]
    if not layers:
        raise SpecError(
            "module",
            expected="a module with a ConvLSTM",
            received=type(module).__name__,
            hint="Pass the layer, or a module that contains it.",
        )
    for part in module.modules():
        if isinstance(part, Forecaster) and part.spec.detail_channels:
            raise SpecError(
                "detail_channels",
                expected="0 where rows are divided",
                received=str(part.spec.detail_channels),
                hint="The output at full resolution needs the rows of the neighbours; use one process.",
            )
    for part in layers:
        for layer in part.spec.layers:
            divided(layer, rows)
    for part in layers:
        part.rows = rows
