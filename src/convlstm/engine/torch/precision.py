"""The types that autocast and low precision imply, on any device and in any mode of PyTorch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """Return the type that autocast computes in for such a tensor, or None where it does not apply (float64)."""
    device = like.device.type
    if like.dtype == torch.float64 or not torch.amp.is_autocast_available(device):
        return None
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Switch autocast off for the device of a tensor."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type of cell states: at least float32."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
