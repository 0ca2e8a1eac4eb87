"""Measure layers on an accelerator, ours and others, and compare its values with a CPU (`make bench-gpu`).

python -m benchmarks.speed.accelerator --device cuda --output build/accelerator.json

Each group runs in a process of its own, and all together end within `--limit` seconds. What is not installed, or has
no support for the device, is listed with the reason. The result is a JSON file and a table next to it. The run
`--device cpu --quick` tests the script in a minute: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.speed.accelerator_table import table
from benchmarks.speed.cases import CASES, Case
from convlstm.files import check_writable, write_atomic

Row = dict[str, Any]

MEASURED = ("wide", "paper", "openstl")
TINY = {"tiny": Case(2, 3, 2, (4,), (6, 6), 3)}
LIMIT = 450.0
"""Seconds of the whole run."""


@dataclass(frozen=True)
class Group:
    """Implementations that one process measures.

    Args:
        name: Name of the group.
        module: Module in this package with `missing(device)` and `build(name, case, work, precision, device)`.
        packages: Packages that must be installed.
        contenders: Names of the implementations; those with `graph` need CUDA.
        precisions: Types of the convolutions.
        share: Part of the time that is left when the group starts.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    contenders: tuple[str, ...]
    precisions: tuple[str, ...] = ("tf32",)
    share: float = 0.5


GROUPS = {
    group.name: group
    for group in (
        Group("values", "accelerator_torch", ("torch",), ("ours",), ("float32", "tf32", "bf16"), 0.15),
        Group(
            "torch",
            "accelerator_torch",
            ("torch",),
            ("ours", "ours graph", "common", "common-last", "common graph"),
            ("tf32", "bf16"),
        ),
        Group("flax", "accelerator_flax", ("jax", "flax"), ("ours", "linen"), share=0.4),
        Group("keras", "accelerator_keras", ("keras", "tensorflow"), ("ours xla", "keras xla"), share=0.5),
        # last, since a compilation of 76 steps takes minutes
        Group("compiled", "accelerator_torch", ("torch",), ("common compiled",), ("tf32", "bf16"), share=1.0),
    )
}
"""Every group, in the order of the run."""


def measured(groups: Sequence[Group], device: str, limit: float, *, quick: bool) -> Iterator[Row]:
    """Run each group in a process and yield its rows; one that is stopped has the rows that it had finished."""
    end = time.monotonic() + limit
    for group in groups:
        absent = [name for name in group.packages if find_spec(name) is None]
        if absent:
            yield {"group": group.name, "left_out": f"{', '.join(absent)} not installed"}
            continue
        seconds = (end - time.monotonic()) * group.share
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder) / "rows.jsonl"
            rows.touch()
            request = {"group": group.name, "device": device, "quick": quick, "rows": str(rows), "seconds": seconds}
            reason = _run(request, seconds)
            yield from map(json.loads, rows.read_text(encoding="utf-8").splitlines())
            if reason:
                yield {"group": group.name, "left_out": reason}


def _run(request: Row, seconds: float) -> str | None:
    """Answer a request in another process; return why it did not end by itself."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if request["device"] == "cpu":
        quiet |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if request["quick"]:  # XLA compiles in half the time
        flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        quiet["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.speed.accelerator", "--answer", json.dumps(request)],
        env={**os.environ, **quiet},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a compiler starts processes, which must end too
    )
    try:
        _, errors = process.communicate(timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"stopped after {seconds:.0f} s"
    lines = errors.strip().splitlines() or [f"exit code {process.returncode}"]
    return lines[-1] if process.returncode else None


def answer(request: Row) -> None:
    """Measure a group in this process, and append each row to the file of the request at once."""
    group, device = GROUPS[request["group"]], request["device"]
    module = import_module(f"benchmarks.speed.{group.module}")

    def add(row: Row) -> None:
        with Path(request["rows"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"group": group.name, **row}) + "\n")

    reason = module.missing(device)
    if reason:
        add({"left_out": reason})
        return
    if group.name == "values":
        add({"machine": module.machine(device)})
    cases = TINY if request["quick"] else {name: CASES[name] for name in MEASURED}
    tasks = [
        {"case": name, "work": work, "precision": precision, "contender": contender}
        for name in cases
        for work in ("train", "forward")
        for precision in group.precisions
        for contender in group.contenders
        if device == "cuda" or not contender.endswith("graph")
    ]
    if group.name == "values":
        tasks = [task for task in tasks if task["work"] == "train"]
    seconds = 0.0 if request["quick"] else request["seconds"] / (4 * len(tasks))
    for task in tasks:
        case = cases[task["case"]]
        try:
            if group.name == "values":
                small = replace(case, batch=min(case.batch, 2), steps=min(case.steps, 4))
                add(task | module.errors(small, task["precision"], device))
            else:
                arguments = (task["contender"], case, task["work"], task["precision"], device)
                row = timed(partial(module.build, *arguments), module.wait_for(device), seconds)
                if task["contender"].endswith("graph"):
                    row.pop("bytes", None)  # a CUDA graph keeps its memory between calls, outside this count
                add(task | row)
        except Exception as error:  # a contender that fails is a result: the others are measured
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            add(task | {"left_out": reason})


def timed(build: Callable[[], Any], wait: Callable[[], int | None], seconds: float) -> Row:
    """Return the times of at least three and at most thirty calls, and the peak memory that `wait` returns.

    `wait` blocks until the device is idle. It returns the peak since its last call, None if that is unknown.
    """
    run = build()
    wait()
    started = time.perf_counter()
    run()
    wait()
    first, times, peak = time.perf_counter() - started, [], None
    begun = time.perf_counter()
    while len(times) < 3 or (len(times) < 30 and time.perf_counter() - begun < seconds):
        started = time.perf_counter()
        run()
        peak = wait()
        times.append(time.perf_counter() - started)
    row = {"median": statistics.median(times), "least": min(times), "most": max(times)}
    return row | {"first": first, "calls": len(times)} | ({} if peak is None else {"bytes": peak})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "mps", "cpu"), default="cuda")
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="only this group; repeat for more")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of the whole run")
    parser.add_argument("--quick", action="store_true", help="tiny cases, to test the script")
    parser.add_argument("--output", type=Path, default=Path("build/accelerator.json"), help="JSON file")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.answer:
        answer(json.loads(options.answer))
        return 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    check_writable(options.output)
    groups = [group for name, group in GROUPS.items() if not options.group or name in options.group]
    result: Row = {"device": options.device, "quick": options.quick, "rows": []}
    for row in measured(groups, options.device, options.limit, quick=options.quick):
        if "machine" in row:
            result["machine"] = row["machine"]
            continue
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
    for path, text in (
        (options.output, json.dumps(result, indent=1) + "\n"),
        (options.output.with_suffix(".md"), table(result)),
    ):
        write_atomic(path, partial(_write, text=text))
    print(f"{options.output}, {options.output.with_suffix('.md')}")
    is_complete = any("median" in row or "error" in row for row in result["rows"])
    return 0 if is_complete else 1


def _write(draft: Path, text: str) -> None:
    draft.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
