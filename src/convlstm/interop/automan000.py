"""Read the `ConvLSTM` of automan000/Convolutional_LSTM_PyTorch, which has one convolution per gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read

AUTOMAN000 = Layout(
    name="automan000",
    source="the ConvLSTM of automan000/Convolutional_LSTM_PyTorch",
    gates=("i", "f", "g", "o"),
    gate_names=("i", "f", "c", "o"),
    axes=(0, 1),
    kernels=("Wx{}.weight", "Wh{}.weight"),
    biases=("Wx{}.bias",),
    peepholes=("Wci", "Wcf", "Wco"),
    one_object=r".*cell\d+",
    ranks=(2,),
    odd_kernels=True,
    facts=(
        "One convolution per gate there, one for all gates here.",
        "Its layer feeds one frame at every step; here pass that frame repeated along time.",
        "On a GPU the peepholes are not in the state_dict there, and stay zero: such a file has no peepholes here.",
    ),
)
"""`state_dict` with `cell0.Wxi.weight`, or of one `ConvLSTMCell`; the peepholes `Wci`, `Wcf`, `Wco` may be missing."""


def read_automan000(state_dict: Mapping[str, Any], *, layers: Sequence[str] = ()) -> Converted:
    """Read the `state_dict` of a ConvLSTM of Convolutional_LSTM_PyTorch or of its cell, alone or within a model.

        i   = σ(W_xi ∗ x + W_hi ∗ h + b_i + W_ci ∘ c_{t-1}),   f = σ(W_xf ∗ x + W_hf ∗ h + b_f + W_cf ∘ c_{t-1})
        c_t = f ∘ c_{t-1} + i ∘ tanh(W_xc ∗ x + W_hc ∗ h + b_c),   o = σ(W_xo ∗ x + W_ho ∗ h + b_o + W_co ∘ c_t)

    Args:
        state_dict: Arrays, or tensors on the CPU, by name.
        layers: Part of the path of the ConvLSTM if a model has several.

    Returns:
        Spec, canonical weights and notes; with peepholes `peephole="pixel"` and `input_size` of their grid.

    Raises:
        WeightsError: if there is no such layer, several stacks, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> arrays = {f"cell0.W{a}{g}.weight": np.zeros((8, n, 3, 3)) for a, n in (("x", 1), ("h", 8)) for g in "ifco"}
        >>> read_automan000(arrays).weights["layers.0.forward.weight_ih"].shape
        (4, 8, 1, 3, 3)
    """
    return read(AUTOMAN000, state_dict, layers=layers)
