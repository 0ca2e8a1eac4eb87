"""Read `Conv1dLSTM`, `Conv2dLSTM` and `Conv3dLSTM` of kamo-naoyuki/pytorch_convolutional_rnn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convlstm.errors import WeightsError
from convlstm.interop.finding import Parts
from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array

_PARAMETER = re.compile(r"(.*\.)?((?:weight|bias)\w*|peephole|norm_scale)_l(\d+)(_reverse)?")


def _layer_name(key: str) -> str:
    """Return `l0.backward.weight_ih` for `weight_ih_l0_reverse`."""
    parts = _PARAMETER.fullmatch(key)
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
    layer_name=_layer_name,
    within=r"(.*\.)?l\d+\.(forward|backward)",
    one_object=r".*l\d+\.forward",
    two_ways=True,
    choices={"dropout": 0.0, "dilation": 1},
    facts=(
        "batch_first is False by default there, True here.",
        "States are stacked tensors (layers · directions, batch, channel, *space) there, tuples of tensors here.",
        "dilation acts on both convolutions there: it is dilation and recurrent_dilation here.",
        "stride acts on both convolutions there and keeps the grid. Only stride 1 is the same here, and a file does "
        "not show it.",
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
        **options: `dropout`, the rate between its layers (0), and `dilation` of its two convolutions (1).

    Returns:
        Spec, canonical weights and notes. `dilation` is both `dilation` and `recurrent_dilation` of the spec.

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
    converted = read(KAMO, state_dict, layers=layers, prepare=_check_gates, **options)
    assert isinstance(converted.spec, ConvLSTMSpec)
    return replace(converted, spec=replace(converted.spec, recurrent_dilation=converted.spec.dilation))


def _check_gates(flat: dict[str, Array], parts: Parts) -> None:
    """Raise WeightsError for a layer with groups, and for a GRU."""
    kernel = flat[parts["weight_hh"]]
    if kernel.shape[0] != 4 * kernel.shape[1]:
        raise WeightsError(
            parts["weight_hh"],
            expected=f"shape ({kernel.shape[0]}, {kernel.shape[0] // 4}, ...) of an LSTM without groups",
            received=f"shape {kernel.shape}",
            hint="Choose another layer: groups act across the gates there, and a GRU has three gates.",
        )
