"""Read the `ConvLSTM` of Hzzone/Precipitation-Nowcasting, whose peepholes have a weight per grid point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read

HZZONE = Layout(
    name="hzzone",
    source="the ConvLSTM of Hzzone/Precipitation-Nowcasting",
    gates=("i", "f", "g", "o"),
    axes=(0, 1),
    kernels=("_conv.weight",),
    biases=("_conv.bias",),
    peepholes=("Wci", "Wcf", "Wco"),
    ranks=(2,),
    odd_kernels=True,
    facts=(
        "Frames are (time, batch, channel, height, width) there; here with `batch_first=False`.",
        "A call without frames takes `seq_len` steps on frames of zeros there; pass frames of zeros here.",
        "On a GPU the peepholes are not in the state_dict there, and stay zero: such a file has no peepholes here.",
        "Only stride 1 and a padding that keeps the size of the grid run there.",
    ),
)
"""`state_dict` with `_conv.weight`, `_conv.bias`, and the peepholes `Wci`, `Wcf` and `Wco` if it has them."""


def read_hzzone(state_dict: Mapping[str, Any], *, layers: Sequence[str] = ()) -> Converted:
    """Read the `state_dict` of a ConvLSTM of Precipitation-Nowcasting, alone or within its encoder–forecaster.

        i   = σ(z_i + W_ci ∘ c_{t-1}),   f = σ(z_f + W_cf ∘ c_{t-1})
        c_t = f ∘ c_{t-1} + i ∘ tanh(z_g),   o = σ(z_o + W_co ∘ c_t)

    Args:
        state_dict: Arrays, or tensors on the CPU, by name.
        layers: Path of the layer if there are several, such as `encoder.rnn1`.

    Returns:
        Spec, canonical weights and notes; with peepholes `peephole="pixel"` and `input_size` of their grid.

    Raises:
        WeightsError: if there is no such layer, several, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> arrays = {"rnn1._conv.weight": np.zeros((32, 1 + 8, 3, 3)), "rnn1._conv.bias": np.zeros(32)}
        >>> arrays |= {f"rnn1.Wc{gate}": np.zeros((1, 8, 6, 5)) for gate in "ifo"}
        >>> read_hzzone(arrays).spec.input_size
        (6, 5)
    """
    return read(HZZONE, state_dict, layers=layers)
