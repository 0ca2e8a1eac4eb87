"""Time and memory beside every peer and beside the machine's own convolutions, as ratios of one run.

    python benchmarks/speed/run.py [--groups torch keras-jax ...] [--cases wide ...] [--output speed.json]

Each framework runs in a process of its own, its contenders by turns, so that a drift of the machine meets all of them;
the figure is the median of ours over the median of the peer's. Where contenders need processes of their own, the
processes take turns. Memory is taken in one more process for each contender. Groups that are left out keep their rows
in the output. Nothing else should run meanwhile. `table.py` makes the page from the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("convlstm", "torch", "keras", "tensorflow-cpu", "jax", "flax", "dm-haiku", "mlx", "numpy")
OPENBLAS = Path("/usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3")


@dataclass(frozen=True)
class Group:
    """Contenders that share a process; the first is ours.

    Args:
        module: The file that builds them.
        contenders: Their names.
        cases: Of `cases.py`.
        environment: Variables of the process.
        works: What is timed.
        memory: Whose memory is taken, in the training step.
        apart: For contenders that need another process: its module and environment.
    """

    module: str
    contenders: tuple[str, ...]
    cases: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    works: tuple[str, ...] = ("forward", "train")
    memory: tuple[str, ...] = ()
    apart: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)


EVERY = ("wide", "paper", "openstl", "first", "long", "small", "1-D", "3-D")
LARGE = ("wide", "paper", "openstl", "first")
GROUPS = {
    "torch": Group(
        "in_torch", ("ours", "common", "common-last", "floor"), EVERY, memory=("ours", "common", "common-last")
    ),
    "torch beside TensorFlow": Group(
        "in_torch",
        ("ours", "keras"),
        ("wide", "paper", "openstl", "first", "long", "small"),
        apart={"keras": ("in_keras", {"KERAS_BACKEND": "tensorflow"})},
    ),
    "torch bf16": Group("in_torch", ("ours bf16", "common bf16", "common-last bf16", "floor bf16"), LARGE),
    "keras-tensorflow": Group(
        "in_keras", ("ours", "keras"), ("wide", "paper", "openstl", "first", "small"), {"KERAS_BACKEND": "tensorflow"}
    ),
    "keras-tensorflow xla": Group("in_keras", ("ours xla", "keras xla"), ("small",), {"KERAS_BACKEND": "tensorflow"}),
    "keras-torch": Group("in_keras", ("ours", "keras"), ("wide", "first", "small"), {"KERAS_BACKEND": "torch"}),
    "keras-jax": Group("in_keras", ("ours", "keras"), ("small",), {"KERAS_BACKEND": "jax"}),
    "flax": Group("in_flax", ("ours", "linen", "haiku"), ("small",)),
    "flax large": Group("in_flax", ("ours",), ("wide", "paper", "first")),
    "mlx": Group("in_mlx", ("ours", "plain"), ("small", "first"), {"LD_PRELOAD": str(OPENBLAS)}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="*", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--cases", nargs="*", default=list(EVERY), choices=list(EVERY))
    parser.add_argument("--works", nargs="*", default=["forward", "train"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--limit", type=float, default=600, help="seconds for one process")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.groups:
        group = GROUPS[name]
        if "LD_PRELOAD" in group.environment and not OPENBLAS.exists():
            print(f"{name}: left out, {OPENBLAS.name} of OpenBLAS is not installed")
            continue
        for case in (case for case in group.cases if case in options.cases):
            for work in (work for work in group.works if work in options.works):
                rows += timed(name, group, case, work, options)
            if not options.no_memory:
                rows += weighed(name, group, case, options)
    if options.output:
        known = {name: number for name in PACKAGES if (number := installed(name))}
        machine = {"processor": processor(), "threads": options.threads, "python": platform.python_version()}
        before = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
        done = {(row["group"], row["case"], row["work"]) for row in rows}
        rows += [row for row in before if (row["group"], row["case"], row["work"]) not in done]
        rows.sort(key=lambda row: (list(GROUPS).index(row["group"]), EVERY.index(row["case"])))
        options.output.write_text(json.dumps({"machine": machine, "versions": known, "rows": rows}, indent=1) + "\n")


def timed(name: str, group: Group, case: str, work: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    found = by_turns(group, options, case=case, work=work, measure="time")
    if found is None:
        print(f"{name:22}{case:9}{work:9}stopped after {options.limit:.0f} s", flush=True)
        return [{"group": name, "case": case, "work": work, "stopped": options.limit}]
    ours = statistics.median(found[group.contenders[0]]["seconds"])
    rows = []
    for contender, times in found.items():
        seconds = times["seconds"]
        row = {"group": name, "case": case, "work": work, "contender": contender, "first": times["first"]}
        row |= {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}
        row["ratio"] = ours / row["median"]
        rows.append(row)
        spread = f"{row['least']:.4f} to {row['most']:.4f}"
        print(
            f"{name:22}{case:9}{work:9}{contender:17}{row['median']:9.4f} s  {spread:20}  first {row['first']:7.2f} s"
            f"  ours / it {row['ratio']:.3f}",
            flush=True,
        )
    return rows


def by_turns(group: Group, options: argparse.Namespace, **request: Any) -> dict[str, Any] | None:
    """Return the times of all contenders: of one process, or of as many as they need, three times each."""
    if not group.apart:
        return ask(group, options, contenders=group.contenders, **request)
    found: dict[str, Any] = {}
    for _ in range(3):
        for name in group.contenders:
            module, environment = group.apart.get(name, (group.module, group.environment))
            part = ask(Group(module, (name,), (), environment), options, contenders=(name,), **request)
            if part is None:
                return None
            known = found.setdefault(name, part[name] | {"seconds": []})
            known["seconds"] += part[name]["seconds"]
    return found


def weighed(name: str, group: Group, case: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for contender in group.memory:
        found = ask(group, options, case=case, work="train", measure="memory", contenders=(contender,))
        if found is not None:
            rows.append({"group": name, "case": case, "work": "memory", "contender": contender} | found[contender])
    for row in rows:
        row["ratio"] = rows[0]["bytes"] / row["bytes"]
        line = f"{row['bytes'] / 1e6:9.0f} MB  ours / it {row['ratio']:.3f}"
        print(f"{name:22}{case:9}{'memory':9}{row['contender']:17}{line}", flush=True)
    return rows


def ask(group: Group, options: argparse.Namespace, **request: Any) -> dict[str, Any] | None:
    """Run a request in a process of its own; None where it took longer than the limit."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        request |= {"module": group.module, "repeats": options.repeats, "threads": options.threads}
        request |= {"limit": options.limit, "answer": str(answer)}
        count = str(options.threads)
        threads = {"OMP_NUM_THREADS": count, "NPROC": count, "OPENBLAS_NUM_THREADS": count}
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, str(HERE / "worker.py"), json.dumps(request)],
            env={**os.environ, **threads, **quiet, **group.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 124:
            return None
        if done.returncode:
            sys.exit(f"{request}\n{done.stderr[-3000:]}")
        return json.loads(answer.read_text())


def installed(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    main()
