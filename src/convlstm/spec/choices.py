"""The allowed values of each option, gate orders, and the names of options in other libraries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from convlstm.spec.types import LayerSizes, Padding, PerAxis

GATES = ("i", "f", "g", "o")
"""Order of the gate axis: input, forget, candidate, output."""
PEEPHOLE_GATES = ("i", "f", "o")
"""Order of the peephole axis."""
RECURRENT_ACTIVATIONS = ("sigmoid", "hard_sigmoid", "hard_sigmoid_keras2")
ACTIVATIONS = ("tanh", "relu", "identity", "sigmoid", "softsign", "elu")
DURATION_ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
DURATION_STRATEGIES = ("none", "linear", "log", "log1p", "scalar", "exp", "mlp")
PEEPHOLES = ("none", "channel", "pixel")
NORMS = ("none", "layer", "group")
DIRECTIONS = ("forward", "reverse", "bidirectional")
MERGES = ("concat", "sum", "mul", "ave", "separate")
MASKED_OUTPUTS = ("zero", "hold")
PRECISIONS = ("float32", "bfloat16")

PER_LAYER = (
    "hidden_channels",
    "kernel_size",
    "recurrent_kernel_size",
    "stride",
    "padding",
    "dilation",
    "recurrent_dilation",
    "groups",
)
# An option on the left has an effect only if the option on the right has one of these values.
ACTS_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "duration_damping": ("duration_strategy", ("exp",)),
    "duration_hidden": ("duration_strategy", ("exp", "mlp")),
    "duration_activation": ("duration_strategy", ("exp", "mlp")),
    "duration_features": ("duration_strategy", ("exp", "mlp")),
    "duration_eps": ("duration_strategy", ("log", "scalar", "exp", "mlp")),
    "norm_groups": ("norm", ("group",)),
    "input_size": ("peephole", ("pixel",)),
    "merge": ("direction", ("bidirectional",)),
}

NORM_EPSILON = 1e-5
"""Added to the variance in a norm."""

KERAS_WORDS = {
    "hidden_channels": "filters",
    "stride": "strides",
    "dilation": "dilation_rate",
    "bias": "use_bias",
    "input_dropout": "dropout",
}
"""Keras's names of options that have another name in ConvLSTMSpec."""

FOREIGN_NAMES: dict[str, tuple[str, ...]] = {
    **{name: (keras_name,) for name, keras_name in KERAS_WORDS.items()},
    **{keras_name: (name,) for name, keras_name in KERAS_WORDS.items() if keras_name != "dropout"},
    **dict.fromkeys(
        ("out_channels", "hidden_dim", "hidden_size", "num_filters", "units"), ("filters", "hidden_channels")
    ),
    **dict.fromkeys(("input_dim", "input_channels", "n_channels"), ("in_channels",)),
    **dict.fromkeys(("padding_mode", "pad_mode"), ("boundary",)),
    **dict.fromkeys(("layer_norm", "normalization", "use_layer_norm"), ("norm",)),
    "dropout_rate": ("dropout",),
    "merge_mode": ("merge",),
    "num_groups": ("groups",),
    "peepholes": ("peephole",),
    "recurrent_kernel": ("recurrent_kernel_size",),
    "unit_forget_bias": ("forget_bias",),
}
"""Names of options in other libraries, with their names here in order of preference."""

FOREIGN_OPTIONS = {
    "proj_size": "Remove it and apply a 1×1 convolution to the output.",
    "return_sequences": "Remove it: a call returns every time step. Call with `all_layers=True` for every layer.",
    "return_all_layers": "Remove it and call the layer with `all_layers=True`.",
    "return_state": "Remove it: a call always returns the final state.",
    "go_backwards": "Use `direction='reverse'`.",
    "stateful": "Remove it and pass the returned state to the next call.",
}
"""Options of other libraries that have no equivalent option here, with a hint."""


class CellOptions(TypedDict, total=False):
    """The keyword options of one step of one layer, which `ConvLSTMSpec` describes."""

    recurrent_kernel_size: LayerSizes | None
    recurrent_dilation: LayerSizes
    boundary: str | tuple[str, ...]
    forget_bias: float | None
    peephole: str
    input_size: PerAxis | None
    norm: str
    norm_groups: int | None
    zoneout_h: float
    zoneout_c: float
    duration_strategy: str | Callable[[Any], Any]
    reference_duration: float
    duration_eps: float
    duration_damping: float
    duration_hidden: int | tuple[int, ...]
    duration_activation: str
    duration_features: int | str
    memory_decay: bool


class LayerOptions(CellOptions, total=False):
    """The keyword options of a layer, which `ConvLSTMSpec` describes."""

    spatial_dims: int
    activation: str
    recurrent_activation: str
    direction: str
    merge: str
    masked_output: str
    dropout: float
    input_dropout: float
    recurrent_dropout: float


class StackOptions(LayerOptions, total=False):
    """The keyword options of a layer, together with those of its input convolution."""

    stride: LayerSizes
    padding: Padding
    dilation: LayerSizes
    groups: int | Sequence[int]
    bias: bool
