"""The operators of the optional package `convlstm-native`: one pass where PyTorch itself needs several.

The compiled operators keep their registered names, which built wheels have: `advance` and `retreat` are the forward and
backward pass of the gates (`gates.NativeGates`), `to_points` and `from_points` transforms of Winograd's convolution.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from convlstm.engine.torch.modes import is_traced
from convlstm.engine.torch.switches import is_enabled

SWITCH = "CONVLSTM_NATIVE"
"""Environment variable that switches the operators off while it is 0."""
INTERFACE = 1
"""Version of the operators and their arguments that this module calls; a package of another version is not used."""

_TYPES = (torch.float32, torch.bfloat16)


@cache
def is_installed() -> bool:
    """Return whether the package is installed and loads with this PyTorch."""
    try:
        package = import_module("convlstm_native")
    except (ImportError, OSError, RuntimeError):  # raised for a library that this PyTorch cannot load
        return False
    return bool(getattr(package, "INTERFACE", None) == INTERFACE)


def is_native(like: Tensor) -> bool:
    """Return whether the operators can compute an array like this one now."""
    return (
        like.device.type == "cpu"
        and like.dtype in _TYPES
        and is_enabled(SWITCH, "convlstm-native")
        and is_installed()
        and not is_traced()
    )


def operators() -> Any:
    """Return the compiled operators by their registered names."""
    return torch.ops.convlstm_native


def transform_rows(out: Tensor, x: Tensor, matrix: Tensor, padding: int, channel: int) -> None:
    """Write matrix · rows of each window of x to the channels of `out` from `channel` on."""
    operators().to_points(out, x, matrix, padding, channel)


def add_transposed_rows(x: Tensor, transformed: Tensor, matrix: Tensor, padding: int, channel: int) -> None:
    """Add matrixᵀ · the channels of `transformed` from `channel` on to the rows of each window of x."""
    operators().from_points(x, transformed, matrix, padding, channel)


def put_channels_last(to: Tensor, x: Tensor) -> None:
    """Copy x (batch, channels, *space) into a channels-last array, in one pass where x is channels first."""
    if (
        is_native(to)
        and x.ndim > 3
        and 1 not in x.shape[:2]
        and x.dtype in (torch.float32, to.dtype)
        and x[0, 0].is_contiguous()
    ):
        operators().put_channels_last(to, x)
    else:
        to.copy_(x)
