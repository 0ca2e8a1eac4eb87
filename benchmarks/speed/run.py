"""Measure time and memory of implementations, each framework in a separate process, as ratios within one run.

The implementations in a process alternate, so that a drift of the machine affects all of them. If they need separate
processes, the processes alternate. The figure is the median of ours over the median of the other. Memory is measured in
one further process for each implementation.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.speed.groups import EVERY, GROUPS, Group
from convlstm.errors import ConfigError, DependencyError, install

Row = dict[str, Any]
PACKAGES = (
    "convlstm",
    "torch",
    "convlstm-native",
    "keras",
    "tensorflow-cpu",
    "jax",
    "flax",
    "dm-haiku",
    "mlx",
    "numpy",
)


@dataclass(frozen=True)
class Effort:
    """The amount of work of a measurement.

    Args:
        repeats: Rounds after the first call.
        threads: Threads per process.
        limit: Seconds after which a process is stopped.
    """

    repeats: int
    threads: int
    limit: float


def measured(group: Group, cases: Sequence[str], works: Sequence[str], effort: Effort) -> Iterator[Row]:
    """Measure a group, row by row.

    Args:
        group: The implementations.
        cases: Names of cases; those that the group lacks are left out.
        works: Some of forward, train and memory.
        effort: Rounds, threads and limit.

    Yields:
        Rows of group, case, work and contender, with median, least, most and first in seconds, or bytes, and the
        ratio of ours to it. A process that was stopped gives a row with `stopped`, the least seconds of a call, and
        an upper bound of the ratio.

    Raises:
        DependencyError: if a process fails; the message has the last line of its standard error.
    """
    for case in (case for case in group.cases if case in cases):
        for work in (work for work in group.works if work in works):
            yield from _timed(group, case, work, effort)
        if "memory" in works:
            yield from _weighed(group, case, effort)


def merged(before: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return rows with those of an earlier run that were not measured again, in the order of the tables.

    Args:
        before: Rows of the earlier run.
        rows: Rows of this run.

    Returns:
        The rows of both.
    """
    done = {(row["group"], row["case"], row["work"]) for row in rows}
    kept = [row for row in before if (row["group"], row["case"], row["work"]) not in done]
    return sorted([*rows, *kept], key=lambda row: (list(GROUPS).index(row["group"]), EVERY.index(row["case"])))


def machine(threads: int) -> dict[str, Any]:
    """Return processor, threads, Python, and versions of the packages of this run.

    Args:
        threads: Threads per process.

    Returns:
        `machine` and `versions`.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    own = {"processor": _processor(), "threads": threads, "python": platform.python_version()}
    return {"machine": own, "versions": versions}


def choose(kind: str, names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the chosen names after a check, or all names if none is chosen.

    Args:
        kind: Kind of the names, for the message.
        names: The chosen names.
        known: All names.

    Returns:
        The names, in the order of the tables.

    Raises:
        ConfigError: for an unknown name.
    """
    for name in names:
        if name not in known:
            raise ConfigError(
                kind, expected=f"one of {', '.join(known)}", received=repr(name), hint="Choose one of these."
            )
    return [name for name in known if not names or name in names]


def _timed(group: Group, case: str, work: str, effort: Effort) -> Iterator[Row]:
    found = _by_turns(group, effort, {"case": case, "work": work, "measure": "time"})
    place = {"group": group.name, "case": case, "work": work}
    if found is None:
        yield place | {"stopped": effort.limit}
        return
    ours = statistics.median(found[group.contenders[0]]["seconds"])
    for contender, times in found.items():
        if "stopped" in times:
            least = effort.limit / (effort.repeats + 1)  # lower bound of a call, if all calls take the same time
            yield place | {"contender": contender, "stopped": least, "ratio": ours / least}
            continue
        seconds = times["seconds"]
        row = place | {"contender": contender, "first": times["first"], "median": statistics.median(seconds)}
        yield row | {"least": min(seconds), "most": max(seconds), "ratio": ours / row["median"]}


def _by_turns(group: Group, effort: Effort, request: Row) -> dict[str, Any] | None:
    """Return the times of all implementations, from one process or from three processes for each."""
    if not group.apart:
        return _ask(group, group.module, group.environment, effort, request | {"contenders": group.contenders})
    found: dict[str, Any] = {}
    for _ in range(3):
        for name in (name for name in group.contenders if "stopped" not in found.get(name, {})):
            module, environment = group.apart.get(name, (group.module, group.environment))
            part = _ask(group, module, environment, effort, request | {"contenders": [name]})
            if part is None and name == group.contenders[0]:
                return None
            known = found.setdefault(name, {"seconds": []})
            if part is None:
                known["stopped"] = effort.limit
                continue
            known["first"] = part[name]["first"]
            known["seconds"] += part[name]["seconds"]
    return found


def _weighed(group: Group, case: str, effort: Effort) -> Iterator[Row]:
    ours = None
    for contender in group.memory:
        request = {"case": case, "work": "train", "measure": "memory", "contenders": [contender]}
        found = _ask(group, group.module, group.environment, effort, request)
        if found is not None:
            held = found[contender]["bytes"]
            ours = held if ours is None else ours
            place = {"group": group.name, "case": case, "work": "memory"}
            yield place | {"contender": contender, "bytes": held, "ratio": ours / held}


def _ask(
    group: Group, module: str, environment: Mapping[str, str], effort: Effort, request: Row
) -> dict[str, Any] | None:
    """Run a request in a separate process; return None if it was stopped at the limit."""
    count, quiet = str(effort.threads), {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    threads = {"OMP_NUM_THREADS": count, "NPROC": count, "OPENBLAS_NUM_THREADS": count}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        request = request | {"module": f"benchmarks.speed.{module}", "answer": str(answer)} | vars(effort)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed.worker", json.dumps(request)],
            env={**os.environ, **threads, **quiet, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 124:
            return None
        if done.returncode or not answer.exists():
            raise DependencyError(
                group.name,
                expected=f"{', '.join(group.packages)} installed and working",
                received=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1],
                hint=f"{install('torch,keras,flax,haiku,mlx')}.",
            )
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.processor()
