"""Measure the latency of PyTorch and of ONNX Runtime for one model, side by side in one run.

    python -m benchmarks.export_latency --threads 1 --rounds 7

Each round runs every implementation once, in a new order. The table has the median of the ratios to eager PyTorch of
the same round. `step` is one frame with the states of the frames before, compared with one frame with the state in
PyTorch.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch

from convlstm import ConvLSTMSpec
from convlstm.export import to_onnx
from convlstm.nowcast.models import shipped_model
from convlstm.torch import ConvLSTM, load
from convlstm.torch.weights import to_canonical
from convlstm.weights.checkpoint import load_model

LAYERS = {
    "layer, 16 channels, 64 x 64": (ConvLSTMSpec(in_channels=1, hidden_channels=16, kernel_size=3), (1, 10, 1, 64, 64)),
    "layer, 64 channels, 64 x 64": (ConvLSTMSpec(in_channels=8, hidden_channels=64, kernel_size=3), (1, 10, 8, 64, 64)),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| model | implementation | ms | ratio to eager PyTorch |\n|---|---|---|---|")
    for name, (spec, shape) in LAYERS.items():
        _print_rows(name, _layer(spec, shape, arguments.threads), arguments.rounds)
    _print_rows(
        f"rain model, {arguments.side} x {arguments.side}", _rain(arguments.side, arguments.threads), arguments.rounds
    )


def _layer(spec: ConvLSTMSpec, shape: tuple[int, ...], threads: int) -> dict[str, Callable[[], Any]]:
    layer = ConvLSTM.from_spec(spec).eval()
    weights, folder = to_canonical(layer), Path(tempfile.mkdtemp())
    x = torch.randn(shape)
    scan = _session(folder, spec, weights, threads)
    unrolled = _session(folder, spec, weights, threads, form="unrolled", steps=shape[1])
    step = _session(folder, spec, weights, threads, form="step")
    _, (h, c) = layer(x)
    states = {"h_0.0": h[0].detach().numpy(), "c_0.0": c[0].detach().numpy()}
    frames, one = {"x": x.numpy()}, {"x": x[:, 0].numpy(), **states}
    state = ((h[0].detach(),), (c[0].detach(),))
    return {
        "eager PyTorch": _without_gradient(lambda: layer(x)),
        "scan": lambda: scan.run(None, frames),
        "unrolled": lambda: unrolled.run(None, frames),
        "eager PyTorch, step": _without_gradient(lambda: layer(x[:, :1], state)),
        "step": lambda: step.run(None, one),
    }


def _rain(side: int, threads: int) -> dict[str, Callable[[], Any]]:
    model, module = load_model(shipped_model()), load(shipped_model())
    folder, frames = Path(tempfile.mkdtemp()), torch.rand(1, 6, 2, side, side)
    scan = _session(folder, model.spec, model.weights, threads)
    unrolled = _session(folder, model.spec, model.weights, threads, form="unrolled", steps=6, horizon=12)
    feeds = {"frames": frames.numpy()}
    return {
        "eager PyTorch": _without_gradient(lambda: module(frames, 12)),
        "scan": lambda: scan.run(None, feeds),
        "unrolled": lambda: unrolled.run(None, feeds),
    }


def _session(folder: Path, spec: Any, weights: Any, threads: int, **options: Any) -> Any:
    path = folder / f"{options.get('form', 'scan')}.onnx"
    to_onnx(path, spec, weights, **options)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def _without_gradient(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _print_rows(model: str, calls: dict[str, Callable[[], Any]], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            start = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        rival = times["eager PyTorch, step" if name.endswith("step") else "eager PyTorch"]
        ratios = [own / other for own, other in zip(seconds, rival, strict=True)]
        print(f"| {model} | {name} | {1e3 * median(seconds):.1f} | {median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
