"""Packed sequences to padded ones and back, for frames with any trailing axes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from convlstm.errors import ShapeError
from convlstm.spec.calls import frame_axes
from convlstm.spec.options import ConvLSTMSpec


def unpack(spec: ConvLSTMSpec, packed: PackedSequence, batch_first: bool) -> tuple[Tensor, Tensor]:
    """Return padded frames and the lengths of the rows, both in the order before packing."""
    axes = frame_axes(spec, "sum of lengths")
    if packed.data.ndim != len(axes):  # padded, the batch axis could be taken for the time axis
        raise ShapeError(
            "x.data",
            expected=f"({', '.join(axes)})",
            received=f"shape {tuple(packed.data.shape)}",
            hint=f"Pack frames with {len(axes) + 1} axes.",
        )
    padded, lengths = pad_packed_sequence(packed, batch_first=batch_first)
    return padded, lengths


def pack(output: Any, like: PackedSequence, lengths: Tensor, batch_first: bool) -> Any:
    """Return an output, or each output of a tuple, packed with the order and batch sizes of `like`."""
    if isinstance(output, tuple):
        return tuple(pack(part, like, lengths, batch_first) for part in output)
    order = like.sorted_indices
    if order is not None:
        output = output.index_select(0 if batch_first else 1, order)
        lengths = lengths[order.to(lengths.device)]
    data = pack_padded_sequence(output, lengths, batch_first=batch_first).data
    return PackedSequence(data, like.batch_sizes, order, like.unsorted_indices)
