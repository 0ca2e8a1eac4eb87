"""Read the `CLSTM_cell` of jhhuang96/ConvLSTM-PyTorch, which normalises its gates in groups of 32 channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from convlstm.errors import SpecError, WeightsError
from convlstm.interop.finding import Parts
from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read
from convlstm.spec import parsing
from convlstm.spec.types import Array

JHHUANG96 = Layout(
    name="jhhuang96",
    source="the CLSTM_cell of jhhuang96/ConvLSTM-PyTorch",
    gates=("i", "f", "g", "o"),
    axes=(0, 1),
    kernels=("conv.0.weight",),
    biases=("conv.1.bias",),
    norm_scale="conv.1.weight",
    norm_channels=32,
    norm_bias="conv.0.bias",
    ranks=(2,),
    odd_kernels=True,
    facts=(
        "Each 32 channels of a gate are one group of a group normalisation there: norm='group' here.",
        "The bias of its convolution acts before the normalisation, the bias here after it.",
        "Frames are (time, batch, channel, height, width) there; here with `batch_first=False`.",
        "A call without frames takes `seq_len` steps on frames of zeros there; pass frames of zeros here.",
    ),
)
"""`state_dict` with the convolution `conv.0` and the normalisation `conv.1`."""


def read_jhhuang96(
    state_dict: Mapping[str, Any], *, constant_channel: bool = False, layers: Sequence[str] = ()
) -> Converted:
    r"""Read the `state_dict` of a cell of ConvLSTM-PyTorch, alone or within its encoder–decoder.

        z = γ ∘ N(W ∗ [x; h] + b_0) + b_1

    N has groups of 32 channels. It removes the mean of a group, so that b_0 has no effect where it is constant in each
    group. Any other b_0 is read with `constant_channel=True`: frames then have one more channel, the last, of ones.
    Its kernel is b_0 in the centre and zero elsewhere.

    Args:
        state_dict: Arrays, or tensors on the CPU, by name.
        constant_channel: Whether the layer takes a further input channel of ones, the last, for b_0.
        layers: Path of the layer if there are several, such as `encoder.rnn1`.

    Returns:
        Spec, canonical weights and notes.

    Raises:
        SpecError: for `constant_channel` without a b_0.
        WeightsError: if there is no such layer, several, or arrays that do not fit; for a b_0 that is not constant in
            each group without `constant_channel`; for hidden channels that are not a multiple of 32.

    Example:
        >>> import numpy as np
        >>> arrays = {"conv.0.weight": np.zeros((128, 1 + 32, 3, 3)), "conv.0.bias": np.zeros(128)}
        >>> converted = read_jhhuang96(arrays | {"conv.1.weight": np.ones(128), "conv.1.bias": np.zeros(128)})
        >>> converted.spec.norm, converted.spec.norm_groups
        ('group', 1)
    """
    with_channel = parsing.flag("constant_channel", constant_channel)
    convert_bias = partial(_convert_bias, with_channel=with_channel)
    converted = read(JHHUANG96, state_dict, layers=layers, prepare=convert_bias)
    if not with_channel:
        return converted
    line = "The layer takes one more input channel, the last, which must be 1 everywhere: it holds the bias."
    notes = converted.notes
    return replace(converted, notes=replace(notes, differences=(*notes.differences, line)))


def _convert_bias(flat: dict[str, Array], parts: Parts, *, with_channel: bool) -> None:
    """Put the bias before the normalisation into the kernel, if there is one."""
    kernel = parts[JHHUANG96.kernels[0]]
    if JHHUANG96.norm_bias in parts:
        key = parts[JHHUANG96.norm_bias]
        flat[kernel] = _with_bias(flat[kernel], key, flat[key], with_channel)
    elif with_channel:
        raise SpecError(
            "constant_channel",
            expected=f"False, because the layer of {kernel} has no {JHHUANG96.norm_bias}",
            received=True,
            hint="Leave `constant_channel` out.",
        )


def _with_bias(kernel: Array, key: str, bias: Array, with_channel: bool) -> Array:
    """Return the kernel with the bias as a channel of x, or without it if the normalisation removes it."""
    rows = kernel.shape[0]
    if bias.shape != (rows,):
        raise WeightsError(
            key, expected=f"shape ({rows},)", received=f"shape {bias.shape}", hint="Check the file and its layout."
        )
    if with_channel:
        channel = np.zeros((rows, 1, *kernel.shape[2:]), kernel.dtype)
        channel[(slice(None), 0, *(size // 2 for size in kernel.shape[2:]))] = bias
        inputs = kernel.shape[1] - rows // 4
        return np.concatenate([kernel[:, :inputs], channel, kernel[:, inputs:]], axis=1)
    groups = bias.reshape(-1, JHHUANG96.norm_channels) if rows % JHHUANG96.norm_channels == 0 else bias[:, None]
    if np.any(groups != groups[:, :1]):
        raise WeightsError(
            key,
            expected=f"a bias before the normalisation that is equal in each group of {groups.shape[1]} channels",
            received=f"values that differ by up to {np.ptp(groups, axis=1).max():.3g}",
            hint="Pass `--set constant_channel=true` (in Python True) for one layer, and frames with a last channel of "
            "ones.",
        )
    return kernel
