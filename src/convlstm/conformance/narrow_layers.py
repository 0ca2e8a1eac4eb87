"""Random layers of the families in which other libraries' bfloat16 convolutions are wrong on processors with AMX.

oneDNN reads outside its input where a stride above 1 leaves one output column. It also does where frames of depth 1
with an odd number of channels are padded along the depth. TensorFlow's `einsum` is wrong for odd numbers of channels.
The engines avoid all of these; tests and `benchmarks/low_precision.py` draw such layers more often than chance would.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convlstm.conformance.derivatives import picker
from convlstm.conformance.random_layers import Case, random_case

FAMILIES = ("any", "one column", "depth 1", "odd channels", "any")
"""Family of a case by its seed, modulo the number of families; two of five are drawn over the whole option space."""

SMOOTH = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "norm": "none",
    "duration_strategy": "none",
    "memory_decay": False,
}
"""Options with which rounding of the input moves no gradient by much."""


def family_of(seed: int) -> str:
    """Return the family of a seed."""
    return FAMILIES[seed % len(FAMILIES)]


def narrow_case(seed: int, **fixed: Any) -> Case:
    """Return a random layer of the family of a seed, with inputs; `fixed` are options that are not random."""
    family = family_of(seed)
    if family == "any":
        return random_case(seed, **fixed)
    random = np.random.default_rng([seed, 12])

    pick = picker(random)
    options: dict[str, Any] = {
        "in_channels": pick(1, 3, 4, 5, 8, 16, 17),
        "hidden_channels": pick(1, 3, 4, 5, 8),
        "groups": 1,
        "num_layers": 1,
        "dropout": 0.0,
        "dilation": 1,
        "padding": "same",
    }
    size: tuple[int | None, ...] | None = None
    if family == "one column":
        rank = options["spatial_dims"] = pick(1, 2, 2, 3)
        options["stride"] = (*(pick(1, 2) for _ in range(rank - 1)), pick(2, 3))
        options["kernel_size"] = tuple(pick(1, 2, 3, 5) for _ in range(rank))
        options["recurrent_kernel_size"] = pick(1, 2, 3)
        size = (*(pick(2, 5, 9) for _ in range(rank - 1)), pick(1, 2, 3))
    elif family == "depth 1":
        options |= {"spatial_dims": 3, "stride": 1, "boundary": "zeros", "recurrent_kernel_size": pick(3, 5)}
        kernel = options["kernel_size"] = (pick(3, 5), pick(1, 3, 5), pick(2, 3, 5))
        options["padding"] = pick("same", tuple(k // 2 for k in kernel))
        size = (1, pick(3, 6, 7), pick(3, 5, 7))
    else:
        options |= {"in_channels": pick(3, 5, 7, 9, 15), "dilation": 2, "stride": pick(1, 2)}
        options |= {"kernel_size": pick(2, 3), "recurrent_kernel_size": pick(1, 3), "spatial_dims": pick(1, 2, 2, 3)}
        if pick(True, False):
            options |= {"groups": 3, "in_channels": 9, "hidden_channels": 9}
    return random_case(seed, size, **options | fixed)
