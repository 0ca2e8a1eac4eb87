"""The words of the contract: gate orders and the closed list of values of each option."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypedDict

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
MERGES = ("concat", "sum", "mul", "ave", "apart")
MASKED_OUTPUTS = ("zero", "hold")

PER_LAYER = (
    "hidden_channels",
    "kernel_size",
    "recurrent_kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
)
# An option of the left column does something only where the option on the right has one of these values (rule R7).
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
"""Keras's words for options that the contract calls otherwise."""


class LayerOptions(TypedDict, total=False):
    """The further options of a layer (meaning: `ConvLSTMSpec`), for typed keyword arguments."""

    spatial_dims: int
    recurrent_kernel_size: Any
    boundary: str | tuple[str, ...]
    forget_bias: float | None
    peephole: str
    input_size: Any
    activation: str
    recurrent_activation: str
    norm: str
    norm_groups: int | None
    direction: str
    merge: str
    masked_output: str
    dropout: float
    input_dropout: float
    recurrent_dropout: float
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
