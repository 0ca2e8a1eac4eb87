"""The words of the contract: gate orders and the closed list of values of each option."""

from __future__ import annotations

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
