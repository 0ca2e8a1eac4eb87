"""Read `Conv1dLSTM`, `Conv2dLSTM` and `Conv3dLSTM` of kamo-naoyuki/pytorch_convolutional_rnn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.errors import WeightsError
from convlstm.interop.finding import find, is_named, named
from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read

_OWN = re.compile(r"(.*\.)?((?:weight|bias)\w*|peephole|norm_scale)_l(\d+)(_reverse)?")


def _own_name(key: str) -> str:
    """Return `l0.backward.weight_ih` for `weight_ih_l0_reverse`."""
    parts = _OWN.fullmatch(key)
    if parts is None:
        return key
    path, name, layer, reverse = parts.groups()
    return f"{path or ''}l{layer}.{'backward' if reverse else 'forward'}.{name}"


KAMO = Layout(
    name="kamo",
    source="the Conv1dLSTM/Conv2dLSTM/Conv3dLSTM of kamo-naoyuki/pytorch_convolutional_rnn",
    gates=("i", "f", "g", "o"),
    axes=(0, 1),
    kernels=("weight_ih", "weight_hh"),
    biases=("bias_ih", "bias_hh"),
    own_name=_own_name,
    within=r"(.*\.)?l\d+\.(forward|backward)",
    one_object=r".*l\d+\.forward",
    two_ways=True,
    choices={"dropout": 0.0},
    facts=(
        "batch_first is False by default there, True here.",
        "States are stacked tensors (layers · directions, batch, channel, *space) there, tuples of tensors here.",
        "stride and dilation act on both convolutions there, which a file does not show. Only stride 1 and dilation 1 "
        "are the same here.",
        "Peepholes are convolutions there; they have no equivalent here.",
    ),
)
"""`state_dict` with `weight_ih_l0`, `bias_hh_l0_reverse` and so on, as of `torch.nn.LSTM`."""


def read_kamo(state_dict: Mapping[str, Any], *, layers: Sequence[str] = (), **options: Any) -> Converted:
    """Read the `state_dict` of a ConvLSTM of pytorch_convolutional_rnn, alone or within a model.

    Its two biases act as their sum, b = b_ih + b_hh. Several layers and both directions are read.

    Args:
        state_dict: Arrays, or tensors on the CPU, by name.
        layers: Part of the path of the layer if a model has several.
        **options: `dropout`, the rate between its layers (0).

    Returns:
        Spec, canonical weights and notes.

    Raises:
        SpecError: for an option the layer does not have.
        WeightsError: if there is no such layer, several, or one with groups or peepholes.

    Example:
        >>> import numpy as np
        >>> kernels = {"weight_ih_l0": np.zeros((32, 1, 3, 3)), "weight_hh_l0": np.zeros((32, 8, 3, 3))}
        >>> biases = {"bias_ih_l0": np.ones(32), "bias_hh_l0": np.ones(32)}
        >>> read_kamo(kernels | biases).weights["layers.0.forward.bias"][0, 0]
        np.float64(2.0)
    """
    flat = named(KAMO, state_dict)
    for path, parts in find(KAMO, flat).items():
        kernel, is_read = flat[parts["weight_hh"]], not layers or any(is_named(path, name) for name in layers)
        if is_read and kernel.shape[0] != 4 * kernel.shape[1]:
            raise WeightsError(
                parts["weight_hh"],
                expected=f"shape ({kernel.shape[0]}, {kernel.shape[0] // 4}, ...) of an LSTM without groups",
                received=f"shape {kernel.shape}",
                hint="Choose another layer: groups act across the gates there, and a GRU has three gates.",
            )
    return read(KAMO, flat, layers=layers, **options)
