"""The operators of the optional package `convlstm-native`: work that PyTorch itself offers only in many passes."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from convlstm.engine.torch.modes import is_watched
from convlstm.errors import ConfigError

SWITCH = "CONVLSTM_NATIVE"
"""Variable of the environment that leaves the operators aside while it is 0."""
INTERFACE = 1
"""Operators and their arguments as they are called here: a package with others is left aside."""

_TYPES = (torch.float32, torch.bfloat16)


@cache
def is_installed() -> bool:
    """Return whether the package is there and loads beside this PyTorch."""
    try:
        package = import_module("convlstm_native")
    except (ImportError, OSError, RuntimeError):  # a library that this PyTorch cannot load fails in one of these ways
        return False
    return bool(getattr(package, "INTERFACE", None) == INTERFACE)


def is_native(like: Tensor) -> bool:
    """Return whether the operators serve such an array, here and now."""
    return like.device.type == "cpu" and like.dtype in _TYPES and _is_wanted() and is_installed() and not is_watched()


def _is_wanted() -> bool:
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise ConfigError(
            SWITCH,
            expected="0 or 1",
            received=repr(value),
            hint="0 in the environment leaves convlstm-native aside; 1, or nothing, uses it.",
        )
    return value == "1"


def operators() -> Any:
    """Return `advance`, `retreat`, `to_points`, `from_points` and `put_channels_last`."""
    return torch.ops.convlstm_native


def put_channels_last(to: Tensor, x: Tensor) -> None:
    """Copy x (batch, channels, *space) into an array that is channels last, quickly where x is channels first."""
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
