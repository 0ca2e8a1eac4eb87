"""Implementations in PyTorch on an accelerator: ours and the common cell, eager, compiled, and as CUDA graphs."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.cases import Case
from benchmarks.speed.in_torch import LAST, CommonStack
from convlstm.torch import ConvLSTM


def missing(device: str) -> str | None:
    """Return why nothing can be measured on a device."""
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}
    return None if available[device]() else f"PyTorch {torch.__version__} finds no device {device}"


def machine(device: str) -> dict[str, Any]:
    """Return the device and the versions that a figure depends on."""
    versions = {"device": device, "torch": torch.__version__, "python": platform.python_version()}
    if device == "cuda":
        from convlstm.engine.torch.accelerator_gates import triton_serves

        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        versions |= {"device": f"{torch.cuda.get_device_name()} (compute capability {capability})"}
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        versions |= {"kernels of Triton": triton_serves(torch.ones(1, device=device))}
    return versions


def wait_for(device: str) -> Callable[[], int | None]:
    """Return a function that waits for the device, and returns the peak memory since its last call on CUDA."""
    if device == "mps":
        return torch.mps.synchronize
    if device == "cpu":
        return lambda: None

    def wait() -> int:
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return peak

    return wait


def model_of(kind: str, case: Case) -> nn.Module:
    """Return ours or the common cell."""
    if kind == "ours":
        return ConvLSTM(case.channels, list(case.hidden), case.kernel, spatial_dims=len(case.size))
    return CommonStack(case)


@contextmanager
def precision_of(name: str, device: str, *, captured: bool = False) -> Any:
    """Set the types of convolutions: float32 exactly, float32 with TF32, or bfloat16 by autocast."""
    tf32 = name == "tf32"
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        # a CUDA graph must contain the casts of the weights, so that autocast keeps none of them
        with torch.autocast(device, torch.bfloat16, enabled=name == "bf16", cache_enabled=not captured):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def build(name: str, case: Case, work: str, precision: str, device: str) -> Callable[[], None]:
    """Return a function that does the work of an implementation once; the suffix is `graph` or `compiled`."""
    torch.manual_seed(0)
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    kind, _, form = name.partition(" ")
    x = torch.randn(case.shape(channels_last=False), device=device)
    model = model_of(kind, case).to(device)
    if kind == "common-last":
        to: Any = model.to  # its type hints have no memory format
        to(memory_format=LAST[len(case.size)])
    call: Callable[[Tensor], Any] = model
    if form == "compiled":
        call = torch.compile(model, backend="aot_eager" if device == "cpu" else "inductor")

    def run() -> None:
        with precision_of(precision, device, captured=form == "graph"), torch.set_grad_enabled(work == "train"):
            output = call(x)
            output = output[0] if isinstance(output, tuple) else output
            if work == "train":
                loss = output.float().square().mean()
        if work == "train":
            model.zero_grad(set_to_none=True)
            with precision_of(precision, device):
                loss.backward()

    return captured(run) if form == "graph" else run


def captured(run: Callable[[], None]) -> Callable[[], None]:
    """Return a function that replays the CUDA graph of a call, which includes the backward pass of a training step."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles the kernels of Triton, and chooses the algorithms of cuDNN
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def errors(case: Case, precision: str, device: str) -> dict[str, float]:
    """Return the largest errors of our outputs and gradients on a device, next to float64 on the CPU.

    The error is max|a − b| / max(1, max|b|) for outputs, and max|a − b| / max|b| for each gradient.
    """
    torch.manual_seed(0)
    exact = model_of("ours", case).double()
    x = torch.randn(case.shape(channels_last=False), dtype=torch.float64)
    model = model_of("ours", case)
    model.load_state_dict(exact.state_dict())
    model.to(device)
    with precision_of(precision, device):
        output = model(x.float().to(device))[0]
    with precision_of(precision, device):
        output.float().square().sum().backward()
    exact.load_state_dict(model.state_dict())  # the weights as they were rounded to float32
    expected = exact(x.float().double())[0]
    expected.square().sum().backward()
    worst = 0.0
    for a, b in zip(model.parameters(), exact.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        worst = max(worst, float((a.grad.cpu().double() - b.grad).abs().max() / b.grad.abs().max()))
    error = (output.detach().cpu().double() - expected).abs().max() / expected.abs().max().clamp(min=1)
    return {"error": float(error), "gradient_error": worst}
