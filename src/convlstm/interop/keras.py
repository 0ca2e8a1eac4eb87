"""Read and write `keras.layers.ConvLSTM1D`, `ConvLSTM2D` and `ConvLSTM3D`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from convlstm.errors import SpecError, WeightsError
from convlstm.interop.finding import flatten
from convlstm.interop.layout import Converted, Layout
from convlstm.interop.reading import read
from convlstm.interop.writing import write
from convlstm.spec.choices import KERAS_WORDS
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec

_PARTS = ("kernel", "recurrent_kernel", "bias")
_NUMBERED = re.compile(r"(^|.*\.)cell\.vars\.([012])")


def _place(spec: ConvLSTMSpec, index: int, direction: str) -> str:
    count = f"_{index}" if index else ""
    if spec.direction == "bidirectional":
        return f"layers/bidirectional{count}/{'backward' if direction == 'reverse' else 'forward'}_layer/cell/vars/"
    return f"layers/conv_lstm{spec.spatial_dims}d{count}/cell/vars/"


def _layer_name(key: str) -> str:
    """Return the Keras name of an array, for which weights files use a number."""
    key = key.removesuffix(":0")
    numbered = _NUMBERED.fullmatch(key)
    return f"{numbered[1]}cell.{_PARTS[int(numbered[2])]}" if numbered else key


def _constructor_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the Keras layer, and of its `Bidirectional` wrapper."""
    words = {KERAS_WORDS.get(name, name): "linear" if value == "identity" else value for name, value in options.items()}
    words["zero_output_for_mask"] = words.pop("masked_output") == "zero"
    words["go_backwards"] = words.pop("direction") == "reverse"
    if "merge" in words:
        merge = words.pop("merge")
        words["merge_mode of Bidirectional"] = None if merge == "separate" else merge
    return words


KERAS = Layout(
    name="keras",
    source="keras.layers.ConvLSTM1D/2D/3D",
    gates=("i", "f", "g", "o"),
    axes=(-1, -2),
    kernels=("kernel", "recurrent_kernel"),
    biases=("bias",),
    layer_name=_layer_name,
    place=_place,
    separator="/",
    two_ways=True,
    choices={
        "padding": "valid",
        "stride": 1,
        "dilation": 1,
        "activation": "tanh",
        "recurrent_activation": "sigmoid",
        "masked_output": "hold",
        "direction": "forward",
        "merge": "concat",
        "input_dropout": 0.0,
        "recurrent_dropout": 0.0,
    },
    constructor_arguments=_constructor_arguments,
    facts=(
        "Kernels are (*kernel, in, 4 · filters) there, (4, hidden, in, *kernel) here.",
        "Unless told otherwise tf.keras 2.15 and before used hard_sigmoid = clip(0.2 z + 0.5, 0, 1) for the gates "
        "(hard_sigmoid_keras2 here), Keras 3 uses sigmoid; its own hard_sigmoid is clip(z/6 + 0.5, 0, 1).",
        "recurrent_dropout draws four masks there, one for all gates here: equal in distribution, not draw by draw.",
        "go_backwards returns outputs in processing order there; direction='reverse' returns them in input order.",
    ),
)
"""Keras 3 and tf.keras: weights files, the older HDF5 form, or arrays by name."""


def read_keras(arrays: Mapping[str, Any] | Sequence[Any], *, layers: Sequence[str] = (), **options: Any) -> Converted:
    """Read Keras's ConvLSTM layers.

    Args:
        arrays: Arrays by name, as in a weights file (`layers/conv_lstm2d/cell/vars/0`) or by Keras attribute
            (`kernel`, `recurrent_kernel`, `bias`), or the list that `layer.get_weights()` returns.
        layers: Parts of paths that name the layers in order; none reads the only stack.
        **options: Options of the layer, by the names of `ConvLSTMSpec`: padding (valid), stride, dilation,
            activation, recurrent_activation (sigmoid), masked_output (hold), direction, merge, dropout rates.

    Returns:
        Spec, canonical weights and notes.

    Raises:
        SpecError: for an option the layer does not have, or a file of Keras 2 without `recurrent_activation`.
        WeightsError: if there is no such layer, several that are not a stack, or arrays that do not fit.

    Example:
        >>> import numpy as np
        >>> weights = [np.zeros((3, 3, 1, 32)), np.zeros((3, 3, 8, 32)), np.zeros(32)]
        >>> read_keras(weights, padding="same").weights["layers.0.forward.weight_ih"].shape
        (4, 8, 1, 3, 3)
    """
    flat = flatten(arrays if isinstance(arrays, Mapping) else _listed_parts(arrays))
    if "recurrent_activation" not in options and any(key.endswith(":0") for key in flat):
        raise SpecError(
            "recurrent_activation",
            expected="the value that the layer was built with, because this is a file of Keras 2",
            received="none",
            hint="Pass hard_sigmoid_keras2 (the default of ConvLSTM in Keras 2) or sigmoid.",
        )
    return read(KERAS, flat, layers=layers, **options)


def _listed_parts(arrays: Sequence[Any]) -> dict[str, Any]:
    if len(arrays) in (2, 3):
        return dict(zip(_PARTS, arrays, strict=False))  # the bias may be missing
    raise WeightsError(
        "arrays",
        expected="kernel, recurrent_kernel and optionally bias of one layer",
        received=f"a list of {len(arrays)}",
        hint="Pass the arrays of several layers or directions by name.",
    )


def write_keras(spec: Spec, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return a layer stack as the arrays in the weights file of a Keras `Sequential` model of ConvLSTM layers.

    Args:
        spec: The stack; `constructor_options` returns the arguments of the Keras layers.
        weights: Its canonical arrays.

    Returns:
        Arrays by path; those of one layer, sorted by path, are the argument of `layer.set_weights`.

    Raises:
        SpecError: naming the option that Keras's layer cannot hold.
        WeightsError: if weights and spec differ.

    Example:
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=8, kernel_size=3)
        >>> sorted(write_keras(spec, initialise(spec, seed=0)))[0]
        'layers/conv_lstm2d/cell/vars/0'
    """
    written = write(KERAS, spec, weights)
    numbers = {part: str(number) for number, part in enumerate(_PARTS)}
    return {
        f"{place}/{numbers[part]}": array
        for (place, _, part), array in ((k.rpartition("/"), a) for k, a in written.items())
    }
