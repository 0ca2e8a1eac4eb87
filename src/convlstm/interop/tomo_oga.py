"""Read the `ConvLSTM` of tomo-oga/convlstm-mlx (`convlstm-mlx` on the package index)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read

TOMO_OGA = Layout(
    name="tomo-oga",
    source="the ConvLSTM of tomo-oga/convlstm-mlx",
    gates=("i", "f", "g", "o"),
    axes=(0, -1),
    kernels=("conv.weight",),
    biases=("conv.bias",),
    within=r"|(.*\.)?cell",
    ranks=(2,),
    odd_kernels=True,
    facts=(
        "Kernels are (4 · channels, *kernel, in) there, (4, hidden, in, *kernel) here.",
        "Its equations have peepholes, its code has none.",
        "With more than one sample in a batch its outputs mix samples and times up; here they do not.",
        "It drops every axis of size 1 from its output; here they stay.",
    ),
)
"""Weights as `mlx.nn.Module.save_weights` writes them: `cell.conv.weight`."""


def read_tomo_oga(arrays: Mapping[str, Any], *, layers: Sequence[str] = ()) -> Converted:
    """Read the weights of a convlstm-mlx layer or of its cell.

    Args:
        arrays: Arrays by name.
        layers: Parts of paths that name the layers in order; none reads the only stack.

    Returns:
        Spec, canonical weights and notes.

    Raises:
        WeightsError: if there is no such layer, several that are not a stack, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> read_tomo_oga({"cell.conv.weight": np.zeros((32, 5, 5, 1 + 8))}).spec.kernel_size
        ((5, 5),)
    """
    return read(TOMO_OGA, arrays, layers=layers)
