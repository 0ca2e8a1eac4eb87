"""Implementations in PyTorch: ours, the common cell in four forms, and its convolutions alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.cases import Case
from convlstm.engine.torch.native import SWITCH
from convlstm.torch import ConvLSTM

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
GIVEN = os.environ.get(SWITCH, "1")
LAST = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


class CommonStack(nn.Module):
    """The common cell, layer by layer: one convolution over the concatenated x and h, then a split into gates."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.hidden = case.hidden
        ins = (case.channels, *case.hidden[:-1])
        convolution, around = CONVOLUTIONS[len(case.size)], case.kernel // 2
        self.layers = nn.ModuleList(
            convolution(n + m, 4 * m, case.kernel, padding=around) for n, m in zip(ins, case.hidden, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of the last layer (batch, time, hidden, *space)."""
        for layer, hidden in zip(self.layers, self.hidden, strict=True):
            h = c = x.new_zeros(x.shape[0], hidden, *x.shape[3:])
            outputs = []
            for frame in x.unbind(1):
                i, f, o, g = layer(torch.cat([frame, h], dim=1)).chunk(4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            x = torch.stack(outputs, dim=1)
        return x


class HoistedStack(CommonStack):
    """The common cell with the input convolution taken out of the loop: one convolution over all steps at once."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        ins = (case.channels, *case.hidden[:-1])
        convolution, around = CONVOLUTIONS[len(case.size)], case.kernel // 2
        self.layers = nn.ModuleList(convolution(m, 4 * m, case.kernel, padding=around, bias=False) for m in case.hidden)
        self.inputs = nn.ModuleList(
            convolution(n, 4 * m, case.kernel, padding=around) for n, m in zip(ins, case.hidden, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of the last layer (batch, time, hidden, *space)."""
        for layer, convolve, hidden in zip(self.layers, self.inputs, self.hidden, strict=True):
            h = c = x.new_zeros(x.shape[0], hidden, *x.shape[3:])
            outputs = []
            for z in convolve(x.flatten(0, 1)).unflatten(0, x.shape[:2]).unbind(1):
                i, f, o, g = (z + layer(h)).chunk(4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                outputs.append(h)
            x = torch.stack(outputs, dim=1)
        return x


def build(name: str, case: Case, work: str, threads: int) -> Callable[[], None]:
    """Return a function that does the work of an implementation once; the suffix `bf16` selects autocast."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kind, _, precision = name.partition(" ")
    if kind == "floor":
        return floor(case, work, torch.bfloat16 if precision else torch.float32)
    x = torch.randn(case.shape(channels_last=False))
    if kind.startswith("ours"):
        model: nn.Module = ConvLSTM(case.channels, list(case.hidden), case.kernel, spatial_dims=len(case.size))
    else:
        model = HoistedStack(case) if kind.startswith("hoisted") else CommonStack(case)
        if kind == "common-last":
            to: Any = model.to  # its type hints have no memory format
            to(memory_format=LAST[len(case.size)])
    if kind.endswith("-compiled"):
        model.compile()

    def run() -> None:
        os.environ[SWITCH] = "0" if kind == "ours-python" else GIVEN
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(precision)), torch.set_grad_enabled(work == "train"):
            output = model(x)
            output = output[0] if isinstance(output, tuple) else output
            if work == "train":
                loss = F.mse_loss(output.float(), torch.zeros((), dtype=torch.float32).expand_as(output))
        if work == "train":
            model.zero_grad(set_to_none=True)
            loss.backward()

    return run


def floor(case: Case, work: str, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that runs the convolutions alone, in PyTorch's fastest form, on preallocated arrays.

    Forward: the input convolution of all steps at once, the recurrent convolution step by step. Backward: the data
    gradient of the recurrent convolution step by step, and the weight gradients of all steps at once. From the second
    layer on, the backward pass includes the data gradient of the input convolution.
    All of it is in one function, so that it can be read from top to bottom.
    """
    rank, around = len(case.size), case.kernel // 2
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[rank]
    ins, tasks = (case.channels, *case.hidden[:-1]), []

    def array(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype).contiguous(memory_format=LAST[rank])

    ones, zeros, padding = [1] * rank, [0] * rank, [around] * rank

    def layer(first: bool, arrays: Sequence[Tensor], kernels: Sequence[Tensor]) -> None:
        (x, h, z, hs, zs), (w_ih, w_hh, turned) = arrays, kernels
        convolve(x, w_ih, None, 1, around)
        for _ in range(case.steps - 1):
            convolve(h, w_hh, None, 1, around)
        if work == "train":
            backward = torch.ops.aten.convolution_backward
            for _ in range(case.steps - 1):
                convolve(z, turned, None, 1, around)
            backward(zs, x, w_ih, None, ones, padding, ones, False, zeros, 1, (not first, True, False))
            backward(zs, hs, w_hh, None, ones, padding, ones, False, zeros, 1, (False, True, False))

    for index, (n, m) in enumerate(zip(ins, case.hidden, strict=True)):
        frames = case.batch * case.steps
        x, h, z = array(frames, n, *case.size), array(case.batch, m, *case.size), array(case.batch, 4 * m, *case.size)
        hs, zs = array(frames, m, *case.size), array(frames, 4 * m, *case.size)
        w_ih, w_hh, turned = (array(*shape, *(case.kernel,) * rank) for shape in ((4 * m, n), (4 * m, m), (m, 4 * m)))

        tasks.append(partial(layer, not index, (x, h, z, hs, zs), (w_ih, w_hh, turned)))

    def run() -> None:
        with torch.no_grad():
            for task in tasks:
                task()

    return run
