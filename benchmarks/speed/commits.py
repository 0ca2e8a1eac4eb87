"""Compare the speed of two checkouts of this project by alternating calls.

    python benchmarks/speed/commits.py BEFORE AFTER --case wide --case first --framework torch

BEFORE and AFTER are folders. The cases are the layers of cases.py, and `forecaster`: a training step, or with `--work
forward` a forecast, of the default forecaster of values. Each pair of processes is started and warmed up. Then the two
alternate, and one is idle while the other computes. The figure is the time of AFTER divided by that of BEFORE: the
median over the turns of a pair, then the median over the pairs, with the lowest and highest pair in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

FRAMEWORKS: dict[str, tuple[str, dict[str, str]]] = {
    "torch": ("in_torch", {}),
    "keras-tensorflow": ("in_keras", {"KERAS_BACKEND": "tensorflow"}),
    "keras-torch": ("in_keras", {"KERAS_BACKEND": "torch"}),
    "keras-jax": ("in_keras", {"KERAS_BACKEND": "jax"}),
    "flax": ("in_flax", {}),
    "mlx": ("in_mlx", {}),
}
FORECASTER = "forecaster"
SETTLE = 0.02  # seconds between turns, so that the threads of the other process have stopped spinning


def main() -> None:
    """Print a line for each framework and case, and one line of JSON at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--framework", action="append", choices=sorted(FRAMEWORKS))
    parser.add_argument("--case", action="append")
    parser.add_argument("--work", default="train", choices=("train", "forward"))
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of one pair")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [python_path(tree, Path(folder) / str(n)) for n, tree in enumerate((options.before, options.after))]
        for framework in options.framework or ["torch"]:
            for case in options.case or ["wide"]:
                ratios = [compare(paths, framework, case, options, swap=n % 2 == 1) for n in range(options.pairs)]
                row = {
                    "framework": framework,
                    "case": case,
                    "work": options.work,
                    "ratio": round(statistics.median(ratios), 4),
                    "pairs": [round(ratio, 4) for ratio in ratios],
                }
                print(f"{framework} {case}: {row['ratio']:.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)
                rows.append(row)
    print(json.dumps(rows))


def python_path(tree: Path, folder: Path) -> str:
    """Build the compiled operators of a checkout into a folder; return a PYTHONPATH with both."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps"]
    subprocess.run([*command, "--target", str(folder), str(tree / "native")], check=True)
    return os.pathsep.join([str(folder), str(tree.resolve() / "src"), str(tree.resolve())])


def compare(paths: list[str], framework: str, case: str, options: argparse.Namespace, *, swap: bool) -> float:
    """Return the median over turns of the second checkout's time divided by the first's."""
    order = [1, 0] if swap else [0, 1]
    processes: dict[int, subprocess.Popen[str]] = {}
    for n in order:
        processes[n] = start(paths[n], framework, case, options)
        take_turn(processes[n], 1)
    calls = max(1, round(0.3 / take_turn(processes[0], 1)))
    ratios: list[float] = []
    begun = time.monotonic()
    while time.monotonic() - begun < options.seconds or len(ratios) < 4:
        seconds = {}
        for n in order if len(ratios) % 2 else reversed(order):
            time.sleep(SETTLE)
            seconds[n] = take_turn(processes[n], calls)
        ratios.append(seconds[1] / seconds[0])
    for process in processes.values():
        process.communicate()
    return statistics.median(ratios)


def start(path: str, framework: str, case: str, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a process that reads numbers of calls and makes as many calls."""
    module, environment = FRAMEWORKS[framework]
    environment = {**os.environ, **environment, "PYTHONPATH": path, "OMP_NUM_THREADS": str(options.threads)}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", module, case, options.work]
    return subprocess.Popen(
        [*command, str(options.threads)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def take_turn(process: subprocess.Popen[str], calls: int) -> float:
    """Return the seconds of one call, averaged over `calls` calls."""
    print(calls, file=process.stdin, flush=True)
    while not (answer := process.stdout.readline()).startswith("seconds "):  # type: ignore[union-attr]
        if not answer:
            raise RuntimeError("a process of the comparison ended")
    return float(answer.split()[1])


def worker(module: str, case: str, work: str, threads: str) -> None:
    """Build the layer; answer each number of calls on standard input with the seconds of one call."""
    try:
        package = "benchmarks.speed"
        cases: Any = import_module(f"{package}.cases")
    except ImportError:  # up to 8575ea4
        package = "convlstm.bench"
        cases = import_module(f"{package}.cases")
    if case == FORECASTER:
        run = build_forecaster(module.removeprefix("in_"), work, int(threads))
    else:
        run = import_module(f"{package}.{module}").build("ours", cases.CASES[case], work, int(threads))
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            run()
        print("seconds", (time.perf_counter() - started) / int(line), flush=True)


def build_forecaster(framework: str, work: str, threads: int) -> Callable[[], None]:
    """Return a training step on 8 crops of 96 × 96 cells, or a forecast in float32 of a grid of 192 × 228 cells.

    The forecaster reads 6 frames and forecasts 12. Everything is imported here, from the checkout; commits since
    fdb51c7 have these names.
    """
    from convlstm.frontend.trainer import Optimisation, Sample
    from convlstm.nowcast.config import Config
    from convlstm.nowcast.frameworks import build_trainer, set_threads
    from convlstm.weights.canonical import initialise

    set_threads(framework, threads)
    spec = Config().model.spec(frame_channels=1)
    optimisation = Optimisation(precision="auto" if work == "train" else "float32")
    trainer = build_trainer(framework, spec, initialise(spec, 0), optimisation)
    random = np.random.default_rng(0)
    batch, grid = (8, (96, 96)) if work == "train" else (1, (192, 228))
    inputs, targets = (random.random((batch, count, 1, *grid), dtype=np.float32) for count in (6, 12))
    sample = Sample(inputs, targets, np.ones_like(targets))
    if work == "train":
        return lambda: trainer.step(sample, 1e-3, 0)
    return lambda: trainer.predict(sample, 12)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        sys.path.pop(0)  # this folder has modules with names of other packages
        worker(*sys.argv[2:])
    else:
        main()
