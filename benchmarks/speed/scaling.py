"""Measure time and memory by sequence length, the time of a streaming step, and the share of loading, in PyTorch.

    python benchmarks/speed/scaling.py [length memory streaming loader] [--output docs/benchmarks/scaling.json]

Run nothing else at the same time. Each memory is measured in a separate process.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import conv2d

from convlstm.torch import ConvLSTM, ConvLSTMCell, fixed_weights

THREADS = os.cpu_count() or 1
LENGTHS = (25, 50, 100, 200, 400, 800)
LONG = (60, 125, 250, 500, 1000)
LOADER_SETTINGS = ["data.crop=64", "training.batch_size=4", "training.learning_rate=3e-3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = {"length": length, "memory": memory, "streaming": streaming, "loader": loader}
    parser.add_argument("studies", nargs="*", default=list(studies), help=", ".join(studies))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    if options.one is not None:
        print(held(options.one))
        return
    found = json.loads(options.output.read_text()) if options.output and options.output.exists() else {}
    for name in options.studies:
        found[name] = studies[name]()
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n")


def length() -> dict[str, Any]:
    """Return the time of a training step at each length, and its difference from a straight line.

    Each length runs several times in a row, as in training, because the memory of another length cannot be reused.
    """
    torch.manual_seed(0)
    layer, taken = ConvLSTM(16, 32, 3), {steps: [] for steps in LENGTHS}
    for _ in range(3):
        for steps in LENGTHS:
            x = torch.randn(1, steps, 16, 32, 32)
            run = turns({steps: lambda x=x: layer(x)[0].square().mean().backward()}, 4)
            taken[steps] += run[steps]
    times = {steps: statistics.median(seconds) for steps, seconds in taken.items()}
    slope, start = np.polyfit(LENGTHS, list(times.values()), 1, w=1 / np.array(list(times.values())))
    off = {steps: seconds / (start + slope * steps) - 1 for steps, seconds in times.items()}
    return {"seconds": times, "per step": slope, "start": start, "off the line": off}


def memory() -> dict[str, Any]:
    """Return the peak memory of a checkpointed training step without input, output and its gradient, by length."""
    found = {}
    for steps in LONG:
        command = [sys.executable, __file__, "--one", str(steps)]
        found[steps] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"bytes": found, "exponent": np.polyfit(np.log(LONG), np.log(list(found.values())), 1)[0]}


def held(steps: int) -> int:
    """Return the peak memory of one length, in this process."""
    layer = ConvLSTM(16, 64, 3, checkpoint=True)
    x = torch.randn(1, steps, 16, 32, 32)
    layer(x[:, :4])[0].square().mean().backward()
    before = status("VmRSS")
    output = layer(x)[0]
    output.backward(torch.ones_like(output))
    return status("VmHWM") - before - 2 * output.numel() * output.element_size()


def status(name: str) -> int:
    """Return an entry of /proc/self/status in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def streaming() -> list[dict[str, Any]]:
    """Return the time of one step of a stream of one sample, and of its two convolutions alone.

    A third step runs inside `fixed_weights`, which it enters before the clock starts.
    """
    rows = []
    for name, channels, hidden, size, kernel in (
        ("wide", 64, 64, 64, 3),
        ("openstl", 128, 128, 16, 5),
        ("small grid", 8, 16, 8, 3),
        ("one point", 4, 8, 1, 1),
    ):
        torch.manual_seed(0)
        cell = ConvLSTMCell(channels, hidden, kernel).eval()
        x = torch.randn(1, channels, size, size)
        state = cell(x)
        last = {"memory_format": torch.channels_last}
        own, other = x.contiguous(**last), state[0].detach().contiguous(**last)
        w_ih, w_hh, bias = cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_l0

        def step(cell: ConvLSTMCell = cell, x: torch.Tensor = x, state: Any = state) -> None:
            cell(x, state)

        def alone(own: Any = own, other: Any = other, w_ih: Any = w_ih, w_hh: Any = w_hh, bias: Any = bias) -> None:
            around = w_ih.shape[-1] // 2
            conv2d(own, w_ih, bias, 1, around)
            conv2d(other, w_hh, None, 1, around)

        fixed_cell = copy.deepcopy(cell)
        with torch.inference_mode(), fixed_weights(fixed_cell):
            times = turns({"step": step, "fixed": partial(step, fixed_cell), "convolutions": alone}, 400)
        step_time, fixed, floor = (statistics.median(times[key]) for key in ("step", "fixed", "convolutions"))
        rows.append(
            {"case": name, "step": step_time, "convolutions": floor, "ratio": step_time / floor}
            | {"over": step_time - floor, "fixed": fixed, "fixed ratio": fixed / floor}
        )
    return rows


def loader() -> dict[str, Any]:
    """Return the share of loading in a training step, for the radar sample and for the same data as Zarr."""
    import tempfile

    import xarray as xr

    from convlstm.data import open_frames, sample_path
    from convlstm.nowcast.config_text import read_config
    from convlstm.nowcast.fit import optimisation
    from convlstm.nowcast.frameworks import build_trainer
    from convlstm.nowcast.prepare import prepare, to_sample
    from convlstm.weights.canonical import initialise

    config, found = read_config(None, LOADER_SETTINGS), {}
    with tempfile.TemporaryDirectory() as folder:
        with xr.open_dataset(sample_path()) as dataset:
            dataset.load().drop_encoding().to_zarr(Path(folder) / "rain.zarr")
        for name, path in (("sample", sample_path()), ("zarr", Path(folder) / "rain.zarr")):
            data, pipeline = prepare(config, open_frames(path))
            spec = config.model.spec(len(pipeline.variables), pipeline.time_step)
            trainer = build_trainer("torch", spec, initialise(spec, 0), optimisation(config.training))
            loading, stepping = [], []
            for number in range(40):
                started = time.perf_counter()
                sample = to_sample(data.train.batch(number), pipeline, config)
                between = time.perf_counter()
                trainer.step(sample, 1e-4, number)
                loading.append(between - started)
                stepping.append(time.perf_counter() - between)
            load, step = (statistics.median(part[5:]) for part in (loading, stepping))
            found[name] = {"loading": load, "step": step, "share": load / (load + step), "worst": max(loading[5:])}
    return found


def turns(runs: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Return the seconds of alternating calls of each function, after two calls that are not counted."""
    times: dict[Any, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 2):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number >= 2:
                times[name].append(time.perf_counter() - started)
    return times


if __name__ == "__main__":
    main()
