"""The activations in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _hard_sigmoid(slope: float) -> Callable[[Tensor], Tensor]:
    # F.hardsigmoid's float64 gradient is off by up to 1e-7; this form is exact and has gradient 0 at both ends.
    def function(x: Tensor) -> Tensor:
        z = slope * x + 0.5
        return torch.where((z > 0) & (z < 1), z, z.detach().clamp(0, 1))

    return function


ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": _hard_sigmoid(1.0 / 6.0),
    "hard_sigmoid_keras2": _hard_sigmoid(0.2),
    "tanh": torch.tanh,
    "relu": torch.relu,
    "identity": lambda x: x,
    "softsign": F.softsign,
    "elu": F.elu,
    "softplus": F.softplus,
}
"""The activations by name; memory decay and the forecaster's output use `softplus`."""
