"""Read `Conv1DLSTM`, `Conv2DLSTM` and `Conv3DLSTM` of Haiku."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read

HAIKU = Layout(
    name="haiku",
    source="haiku.Conv1DLSTM/Conv2DLSTM/Conv3DLSTM",
    gates=("i", "g", "f", "o"),
    axes=(-1, -2),
    kernels=("input_to_hidden.w", "hidden_to_hidden.w"),
    biases=("input_to_hidden.b", "hidden_to_hidden.b"),
    forget_offset=1.0,
    facts=(
        "Kernels are (*kernel, in, 4 · channels) there, (4, hidden, in, *kernel) here.",
        "The state's size is fixed by input_shape there; here it follows the input.",
    ),
)
"""Parameters of the cores, alone or within `hk.DeepRNN`."""


def read_haiku(params: Mapping[str, Any], *, layers: Sequence[str] = ()) -> Converted:
    """Read the parameters of Haiku's convolutional LSTM cores.

    Args:
        params: The tree of parameters, or flat with paths such as `conv2_dlstm/input_to_hidden/w`.
        layers: Parts of paths that name the layers in order; none reads the only stack.

    Returns:
        Spec, canonical weights and notes; the two biases and the constant 1 of the forget gate are one bias.

    Raises:
        WeightsError: if there is no such core, several that are not a stack, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> shapes = {"input_to_hidden": (3, 3, 1, 32), "hidden_to_hidden": (3, 3, 8, 32)}
        >>> params = {f"conv2_dlstm/{k}": {"w": np.zeros(s), "b": np.zeros(32)} for k, s in shapes.items()}
        >>> read_haiku(params).spec.hidden_channels
        (8,)
    """
    return read(HAIKU, params, layers=layers)
