"""Measure the latency of PyTorch and of exported files of one model, in turns in one process.

    python -m benchmarks.export_latency --write files                 # writes the files: minutes
    python -m benchmarks.export_latency --read files --threads 1      # measures

Each round runs every implementation once, in a new order. The table has the median of the ratios to eager PyTorch of
the same round. `step` is one frame with the states of the frames before, compared with one frame with the state in
PyTorch; for the rain model it is followed by the forecast of 12 frames. LiteRT needs the package ai-edge-litert here.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import jax
import numpy as np
import onnxruntime
import torch

from convlstm import ConvLSTMSpec
from convlstm.export import to_framework, to_onnx
from convlstm.nowcast.models import shipped_model
from convlstm.torch import ConvLSTM, load
from convlstm.torch.weights import to_canonical
from convlstm.weights.checkpoint import Model, load_model

HORIZON = 12
STATE_CHANNELS = 48  # of the rain model, whose patches have four points along each axis
LAYERS = {
    "layer, 16 channels, 64 x 64": (ConvLSTMSpec(in_channels=1, hidden_channels=16, kernel_size=3), (1, 10, 1, 64, 64)),
    "layer, 64 channels, 64 x 64": (ConvLSTMSpec(in_channels=8, hidden_channels=64, kernel_size=3), (1, 10, 8, 64, 64)),
}
RAIN = "rain model, {0} x {0}"
FILES = {"pt2": "_program.pt2", "aoti": "_compiled.pt2", "litert": ".tflite", "stablehlo": ".stablehlo"}
Calls = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser()
    folder = parser.add_mutually_exclusive_group(required=True)
    folder.add_argument("--write", type=Path)
    folder.add_argument("--read", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--models", nargs="+", default=["layers", "rain"], choices=["layers", "rain"])
    parser.add_argument("--processor-time", action="store_true", help="for one thread on a busy machine")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.processor_time else time.perf_counter
    if arguments.write:
        _write(arguments.write)
        return
    os.sched_setaffinity(0, range(arguments.threads))  # JAX has no number of threads
    torch.set_num_threads(arguments.threads)
    print("| model | implementation | ms | ratio to eager PyTorch |\n|---|---|---|---|")
    for name, (spec, shape) in LAYERS.items() if "layers" in arguments.models else ():
        _print_rows(name, _layer_calls(arguments.read, spec, shape, arguments.threads), arguments.rounds, clock)
    if "rain" in arguments.models:
        calls = _rain_calls(arguments.read, arguments.side, arguments.threads)
        _print_rows(RAIN.format(arguments.side), calls, arguments.rounds, clock)


def _write(folder: Path) -> None:
    """Write every file whose latency is measured, if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    models = [(f"layer{spec.hidden_channels[0]}", _layer_model(spec), shape[1]) for spec, shape in LAYERS.values()]
    for name, model, steps in [*models, ("rain", load_model(shipped_model()), 6)]:
        shared = {"horizon": HORIZON if name == "rain" else None}
        for form, fixed in (("scan", {}), ("unrolled", {"steps": steps}), ("step", {})):
            path = folder / f"{name}_{form}.onnx"
            if not path.exists():
                to_onnx(path, model.spec, model.weights, form=form, **fixed, **shared)
        for kind, suffix in FILES.items():
            path = folder / f"{name}{suffix}"
            if not path.exists() and (name, kind) != ("rain", "stablehlo"):  # which has no open size for this model
                to_framework(path, model.spec, model.weights, kind, **shared)


def _layer_model(spec: ConvLSTMSpec) -> Model:
    return Model(spec, to_canonical(ConvLSTM.from_spec(spec)))


def _layer_calls(folder: Path, spec: ConvLSTMSpec, shape: tuple[int, ...], threads: int) -> Calls:
    layer, x = ConvLSTM.from_spec(spec).eval(), torch.randn(shape)
    name = f"layer{spec.hidden_channels[0]}"
    with torch.no_grad():
        _, (h, c) = layer(x)
    state = ((h[0],), (c[0],))
    return {
        "PyTorch": _without_gradient(lambda: layer(x)),
        **_file_calls(folder, name, "x", x, threads),
        "PyTorch, step": _without_gradient(lambda: layer(x[:, :1], state)),
        **_step_calls(folder, name, "x", x[:, 0], {"h_0.0": h[0], "c_0.0": c[0]}, threads),
    }


def _rain_calls(folder: Path, side: int, threads: int) -> Calls:
    module, frames = load(shipped_model()).eval(), torch.rand(1, 6, 2, side, side)
    grid = side // module.spec.patch_size
    part = torch.zeros(1, STATE_CHANNELS, grid, grid)
    state = ((part, part), (part, part))
    states = dict.fromkeys(("h_0.0", "c_0.0", "h_0.1", "c_0.1"), part) | {"frames_0": frames[:, 0]}
    return {
        "PyTorch": _without_gradient(lambda: module(frames, HORIZON)),
        **_file_calls(folder, "rain", "frames", frames, threads),
        "PyTorch, step": _without_gradient(lambda: module(frames[:, :1], HORIZON, state=state)),
        **_step_calls(folder, "rain", "frames", frames[:, 0], states, threads),
    }


def _file_calls(folder: Path, name: str, argument: str, x: torch.Tensor, threads: int) -> Calls:
    """Return one call of a whole sequence for each file."""
    feeds = {argument: x.numpy()}
    scan = _session(folder / f"{name}_scan.onnx", threads)
    unrolled = _session(folder / f"{name}_unrolled.onnx", threads)
    program = torch.export.load(folder / f"{name}_program.pt2").module()
    compiled = torch._inductor.aoti_load_package(str(folder / f"{name}_compiled.pt2"))
    calls: Calls = {
        "`onnx`, ONNX Runtime": lambda: scan.run(None, feeds),
        "`onnx-unrolled`, ONNX Runtime": lambda: unrolled.run(None, feeds),
        "`pt2`": _without_gradient(lambda: program(x)),
        "`aoti`": _without_gradient(lambda: compiled(x)),
    }
    stablehlo = folder / f"{name}.stablehlo"
    if stablehlo.exists():
        exported = jax.jit(jax.export.deserialize(bytearray(stablehlo.read_bytes())).call)
        last = jax.numpy.asarray(np.moveaxis(x.numpy(), 2, -1))
        calls["`stablehlo`, under `jax.jit`"] = lambda: jax.block_until_ready(exported(last))
    return calls


def _step_calls(
    folder: Path, name: str, argument: str, x: torch.Tensor, states: dict[str, torch.Tensor], threads: int
) -> Calls:
    """Return one call of one step for each file."""
    from ai_edge_litert.interpreter import Interpreter

    feeds = {argument: x.numpy()} | {key: array.numpy() for key, array in states.items()}
    step = _session(folder / f"{name}_step.onnx", threads)
    interpreter = Interpreter(str(folder / f"{name}.tflite"), num_threads=threads)
    litert = interpreter.get_signature_runner()
    last = {
        key.replace(".", "_"): np.ascontiguousarray(np.moveaxis(array, 1, -1), np.float32)
        for key, array in feeds.items()
    }
    return {
        "`onnx-step`, ONNX Runtime": lambda: step.run(None, feeds),
        "`litert`, step": lambda: litert(**last),
    }


def _session(path: Path, threads: int) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def _without_gradient(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.inference_mode():
            return call()

    return run


def _print_rows(model: str, calls: Calls, rounds: int, clock: Callable[[], float]) -> None:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            start = clock()
            calls[name]()
            times[name].append(clock() - start)
    for name, seconds in times.items():
        rival = times["PyTorch, step" if "step" in name else "PyTorch"]
        ratios = [own / other for own, other in zip(seconds, rival, strict=True)]
        print(f"| {model} | {name} | {1e3 * median(seconds):.1f} | {median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
