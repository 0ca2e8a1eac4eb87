"""Read and write the `ConvLSTM` of ndrplz/ConvLSTM_pytorch and its copies (torchgeo, many notebooks)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read
from convlstm.interop.writing import write
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec


def _place(spec: ConvLSTMSpec, index: int, direction: str) -> str:
    return f"cell_list.{index}."


NDRPLZ = Layout(
    name="ndrplz",
    source="the ConvLSTM of ndrplz/ConvLSTM_pytorch",
    gates=("i", "f", "o", "g"),
    axes=(0, 1),
    kernels=("conv.weight",),
    biases=("conv.bias",),
    within=r"|(.*\.)?(cell_list\.\d+|[^.]*(?i:lstm|cell)[^.]*)",
    place=_place,
    one_object=r".*cell_list\.\d+",
    ranks=(2,),
    odd_kernels=True,
    facts=(
        "batch_first is False by default there, True here.",
        "Only the last layer's states are returned by default there, in lists; here all layers', as tuples.",
        "A state given to the call raises an error there; here it is used.",
    ),
)
"""`state_dict` with `cell_list.0.conv.weight`, or of models with cells such as `encoder_1_convlstm.conv.weight`."""


def read_ndrplz(state_dict: Mapping[str, Any], *, layers: Sequence[str] = ()) -> Converted:
    """Read the `state_dict` of an ndrplz ConvLSTM or of its cells, alone or within a model.

    Args:
        state_dict: Arrays, or tensors on the CPU, by name.
        layers: Paths of the layers in order, or parts of them, if a model has several: `encoder`, or
            `encoder_1_convlstm` and `encoder_2_convlstm` of holmdk/Video-Prediction-using-PyTorch.

    Returns:
        Spec, canonical weights and notes.

    Raises:
        WeightsError: if there is no such layer, several stacks, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> read_ndrplz({"cell_list.0.conv.weight": np.zeros((32, 1 + 8, 3, 3))}).spec.bias
        False
    """
    return read(NDRPLZ, state_dict, layers=layers)


def write_ndrplz(spec: Spec, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return a layer stack as the `state_dict` of an ndrplz ConvLSTM.

    Args:
        spec: The stack: two spatial axes, odd kernels, and no option that the layer lacks.
        weights: Its canonical arrays.

    Returns:
        Arrays by name.

    Raises:
        SpecError: naming the option that the layer cannot hold.
        WeightsError: if weights and spec differ.

    Example:
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> write_ndrplz(spec, initialise(spec, seed=0))["cell_list.0.conv.weight"].shape
        (32, 9, 3, 3)
    """
    return write(NDRPLZ, spec, weights)
