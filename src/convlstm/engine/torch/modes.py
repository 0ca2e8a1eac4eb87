"""What PyTorch is doing at the moment, as far as the quick path must know; only private names tell it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def transforms_are_active() -> bool:
    """Return whether functorch transforms or forward-mode differentiation are at work."""
    return bool(torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0)


def are_batched(gradients: Sequence[Tensor | None]) -> bool:
    """Return whether gradients come in batches (`is_grads_batched`), which in-place work cannot take."""
    kinds = (torch._C._functorch.is_batchedtensor, torch._C._functorch.is_legacy_batchedtensor)
    return any(dy is not None and any(kind(dy) for kind in kinds) for dy in gradients)


def is_watched() -> bool:
    """Return whether a trace or a dispatch mode looks on, such as a counter, that knows public operators only."""
    return torch._C._get_tracing_state() is not None or _get_current_dispatch_mode() is not None


def multiplies_exactly() -> bool:
    """Return whether products of float32 matrices on a CPU are computed in float32, and not in fewer bits."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # PyTorch will not say it in the older words once the newer ones were used
        return False
