"""Modes of PyTorch that the fused implementation must know of; only private names report them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

Function = TypeVar("Function", bound=Callable[..., Any])


def transforms_are_active() -> bool:
    """Return whether functorch transforms or forward-mode differentiation are active."""
    return bool(torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0)


def constant_in_graphs(function: Function) -> Function:
    """Let the compiler call a function while it traces, and take the result for a constant.

    It does what `torch.compiler.assume_constant_result` does, which would import the compiler: over a second.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def _call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return function(*arguments, **options)


call_outside_graph = _call
"""Call a function, and end the graph that is being compiled before; after `may_end_graph` returned True."""


@constant_in_graphs
def may_end_graph() -> bool:
    """Return whether the graph that is being compiled may end here: not with `fullgraph=True`."""
    global call_outside_graph  # noqa: PLW0603 (the compiler, which this would import, is loaded while it traces)
    from torch._dynamo.symbolic_convert import tls

    translator = getattr(tls, "current_tx", None)
    if getattr(translator, "one_graph", True) or getattr(translator, "error_on_graph_break", True):
        return False
    if call_outside_graph is _call:  # not on import, which would import the compiler
        call_outside_graph = torch.compiler.disable(_call)
    return True


def are_batched(gradients: Sequence[Tensor | None]) -> bool:
    """Return whether gradients are batched (`is_grads_batched`), which in-place operations cannot handle."""
    kinds = (torch._C._functorch.is_batchedtensor, torch._C._functorch.is_legacy_batchedtensor)
    return any(dy is not None and any(kind(dy) for kind in kinds) for dy in gradients)


def saved_tensors_are_replaced() -> bool:
    """Return whether hooks replace the tensors saved for a backward pass, as activation checkpointing does."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def is_jit_traced() -> bool:
    """Return whether `torch.jit.trace`, or the older ONNX exporter, records the operations."""
    return torch._C._get_tracing_state() is not None


def is_traced() -> bool:
    """Return whether a trace or a dispatch mode, such as a counter, is active, which knows public operators only."""
    return is_jit_traced() or _get_current_dispatch_mode() is not None


def matmul_is_float32() -> bool:
    """Return whether products of float32 matrices on a CPU are computed in float32, not in fewer bits."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # PyTorch refuses the older query once the newer setting was used
        return False
