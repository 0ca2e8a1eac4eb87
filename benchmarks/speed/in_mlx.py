"""Implementations in MLX: ours, and the common cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from benchmarks.speed.cases import Case
from convlstm.mlx import ConvLSTM


class CommonStack(nn.Module):
    """The common cell, layer by layer: one convolution over the concatenated x and h, then a split into gates."""

    def __init__(self, case: Case) -> None:
        nn.Module.__init__(self)  # type: ignore[no-untyped-call]
        ins = (case.channels, *case.hidden[:-1])
        self.layers = [
            nn.Conv2d(n + m, 4 * m, case.kernel, padding=case.kernel // 2)
            for n, m in zip(ins, case.hidden, strict=True)
        ]

    def __call__(self, x: mx.array) -> mx.array:
        """Return the outputs of the last layer (batch, time, *space, hidden)."""
        for layer in self.layers:
            hidden = layer.weight.shape[0] // 4
            h = c = mx.zeros((x.shape[0], *x.shape[2:4], hidden))
            outputs = []
            for t in range(x.shape[1]):
                i, f, o, g = mx.split(layer(mx.concatenate([x[:, t], h], axis=-1)), 4, axis=-1)
                c = mx.sigmoid(f) * c + mx.sigmoid(i) * mx.tanh(g)
                h = mx.sigmoid(o) * mx.tanh(c)
                outputs.append(h)
            x = mx.stack(outputs, axis=1)
        return x


def build(name: str, case: Case, work: str, threads: int) -> Callable[[], None]:
    """Return a function that does the work of an implementation once; OPENBLAS_NUM_THREADS sets the threads."""
    mx.set_default_device(mx.cpu)
    x = mx.array(np.random.default_rng(0).standard_normal(case.shape(channels_last=True), dtype=np.float32))
    if name == "ours":
        model: nn.Module = ConvLSTM(case.channels, list(case.hidden), case.kernel, spatial_dims=len(case.size))
    else:
        model = CommonStack(case)

    def output(x: mx.array) -> mx.array:
        result: Any = model(x)
        found: mx.array = result[0] if isinstance(result, tuple) else result
        return found

    if work == "forward":
        return lambda: mx.eval(output(x))
    step = nn.value_and_grad(model, lambda x: mx.mean(output(x) ** 2))
    return lambda: mx.eval(step(x))
