"""Rows of the grid divided among processes: each exchanges the rows that its neighbours' convolutions need.

Every process holds a block of consecutive rows of each frame and state, in the order of the ranks. Rows are points
along the first spatial axis. Before a convolution a process receives the rows next to its block from the processes
before and after it. The boundary rule applies at the two ends of the grid alone. The backward pass returns the
gradients of received rows to the process that sent them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from convlstm.errors import ShapeError, SpecError
from convlstm.spec.layer import LayerSpec

_AXIS = 2  # of the rows in (batch, channels, *space)


@dataclass(frozen=True)
class Rows:
    """The processes among which the rows are divided.

    Args:
        group: The process group; None is the default group.
    """

    group: dist.ProcessGroup | None = None

    @property
    def rank(self) -> int:
        """The place of this process in the group, and of its block among the rows."""
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        """Number of processes."""
        return dist.get_world_size(self.group)

    def neighbours(self, *, circular: bool) -> tuple[int | None, int | None]:
        """Return the processes before and after this one, by their rank in all; None at an end of the grid."""
        ranks = list(range(self.size))
        before, after = self.rank - 1, self.rank + 1
        if circular:
            before, after = before % self.size, after % self.size
        return self._global(before if before in ranks else None), self._global(after if after in ranks else None)

    def _global(self, rank: int | None) -> int | None:
        if rank is None or self.group is None:
            return rank
        return dist.get_global_rank(self.group, rank)


@dataclass(frozen=True)
class DividedLayer(LayerSpec):
    """A layer of which each process computes a block of rows."""

    rows: Rows = Rows()


def divided(layer: LayerSpec, rows: Rows) -> DividedLayer:
    """Return a layer whose rows are divided; options that need the whole grid raise a `SpecError`."""
    spec = layer.stack
    unsupported = {
        "norm": (spec.norm, "none", "a norm is over the whole grid"),
        "peephole": (spec.peephole, ("none", "channel"), "a peephole for each pixel is one array of the whole grid"),
        "padding": (layer.padding, "same", "another padding changes the number of rows"),
    }
    for name, (received, supported, reason) in unsupported.items():
        if received not in ((supported,) if isinstance(supported, str) else supported):
            raise SpecError(
                name,
                expected=f"{supported!r} where rows are divided, because {reason}",
                received=repr(received),
                hint="Choose a supported value, or run the layer on the whole grid.",
            )
    return DividedLayer(**{field.name: getattr(layer, field.name) for field in fields(LayerSpec)}, rows=rows)


def rows_of(layer: LayerSpec) -> Rows | None:
    """Return the division of a layer's rows; None for a layer on the whole grid."""
    return layer.rows if isinstance(layer, DividedLayer) and layer.rows.size > 1 else None


def check_stride(layer: LayerSpec, rows: int) -> None:
    """Raise a `ShapeError` if the rows of this process are no multiple of the stride: its grid would overlap others."""
    if rows % layer.stride[0]:
        raise ShapeError(
            "x",
            expected=f"rows in each process that are a multiple of the stride {layer.stride[0]}",
            received=f"{rows} rows",
            hint="Divide the rows into such blocks.",
        )


def with_neighbours(x: Tensor, width: tuple[int, int], rows: Rows, *, circular: bool) -> tuple[Tensor, tuple[int, int]]:
    """Return x (batch, channels, rows, ...) with the rows of its neighbours, and the rows that a boundary must add."""
    if x.shape[_AXIS] < max(width):
        raise ShapeError(
            "x",
            expected=f"at least {max(width)} rows in each process, which its neighbours need",
            received=f"{x.shape[_AXIS]} rows",
            hint="Use fewer processes.",
        )
    before, after = rows.neighbours(circular=circular)
    exchange = _Exchange(width, before, after, rows.group)
    missing = (width[0] if before is None else 0, width[1] if after is None else 0)
    return _Extend.apply(x, exchange), missing  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Exchange:
    """The rows that one process receives before and after its block, and the processes that have them."""

    width: tuple[int, int]
    before: int | None
    after: int | None
    group: dist.ProcessGroup | None

    @property
    def received(self) -> tuple[int, int]:
        """The number of rows received before and after the block."""
        first, last = self.width
        return (0 if self.before is None else first), (0 if self.after is None else last)

    def swap(self, to_after: Tensor, to_before: Tensor, like_before: Tensor, like_after: Tensor) -> list[Tensor]:
        """Send rows to both neighbours; return what they sent, in the shapes of the last two arguments."""
        # contiguous as what is sent, whatever the strides of x
        from_before, from_after = (
            torch.empty_like(like, memory_format=torch.contiguous_format) for like in (like_before, like_after)
        )
        # two processes in a circle are each other's neighbour on both sides: the order matches sends and receipts
        transfers = [
            (dist.isend, to_after.contiguous(), self.after),
            (dist.isend, to_before.contiguous(), self.before),
            (dist.irecv, from_before, self.before),
            (dist.irecv, from_after, self.after),
        ]
        operations = [
            dist.P2POp(kind, rows, peer) for kind, rows, peer in transfers if peer is not None and rows.numel()
        ]
        for work in dist.batch_isend_irecv(operations) if operations else []:
            work.wait()
        return [from_before, from_after]


class _Extend(torch.autograd.Function):
    """Add the rows of the neighbours."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        first, last = exchange.width
        before, after = exchange.received
        rows = x.shape[_AXIS]
        parts = exchange.swap(
            x.narrow(_AXIS, rows - first, first),
            x.narrow(_AXIS, 0, last),
            x.narrow(_AXIS, 0, before),
            x.narrow(_AXIS, 0, after),
        )
        return torch.cat([parts[0], x, parts[1]], dim=_AXIS)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Return.apply(gradients[0], ctx.exchange), None  # type: ignore[no-untyped-call]


class _Return(torch.autograd.Function):
    """Give the rows of the neighbours back, and add those that they return: the adjoint of `_Extend`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        first, last = exchange.width
        before, after = exchange.received
        rows = y.shape[_AXIS] - before - after
        x = y.narrow(_AXIS, before, rows).clone()
        sent_before = x.narrow(_AXIS, 0, 0 if exchange.before is None else last)
        sent_after = x.narrow(_AXIS, rows - first, 0 if exchange.after is None else first)
        returned = exchange.swap(
            y.narrow(_AXIS, before + rows, after), y.narrow(_AXIS, 0, before), sent_before, sent_after
        )
        sent_before += returned[0]
        sent_after += returned[1]
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Extend.apply(gradients[0], ctx.exchange), None  # type: ignore[no-untyped-call]
