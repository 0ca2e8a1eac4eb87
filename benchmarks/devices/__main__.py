"""Train the same model on several devices, and compare losses, bytes and times with those of one process.

Each process sends over the loopback interface, which no other program may use meanwhile, as in a network namespace of
its own: `unshare --net sh -c 'ip link set lo up && python -m benchmarks.devices equality --output devices.json'`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.devices.bandwidth import measure_bandwidth
from benchmarks.devices.divisions import EQUALITY, SCALING, SMALL, Division, Work
from benchmarks.devices.table import tables
from convlstm.cli.launch import launch
from convlstm.frontend.processes import Processes

ROOT = Path(__file__).parents[2]
"""Folder of `benchmarks`, which `launch` does not put on Python's path."""

_WEAK = Work(model="default", windows=4, rows=64, steps=13)
_STRONG = Work(model="default", windows=8, rows=64, steps=11)


def main() -> None:
    """Run some parts, add them to a file of results, and print the tables of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["equality", "weak", "strong", "bandwidth"])
    parser.add_argument("--framework", action="append", help="Only this framework; may be repeated.")
    parser.add_argument("--output", type=Path, default=Path("build/devices.json"))
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {}
    for part in options.parts:
        if part == "bandwidth":
            results[part] = measure_bandwidth()
            save(results, options.output)
            continue
        divisions = [
            division
            for division in (EQUALITY if part == "equality" else SCALING)
            if not options.framework or division.framework in options.framework
        ]
        measured = {division.framework for division in divisions}
        results[part] = [row for row in results.get(part, []) if row["framework"] not in measured]
        for division in divisions:
            work = SMALL if part == "equality" else scaled(division, part)
            print(
                f"{part}: {division.framework}, {division.name}, {division.processes} processes",
                file=sys.stderr,
                flush=True,
            )
            results[part].append(asdict(division) | {"work": asdict(work)} | trained(division, work))
            save(results, options.output)  # each one, because a measurement can be stopped
    print(tables(results))


def save(results: dict[str, Any], output: Path) -> None:
    """Write the results as JSON."""
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")


def scaled(division: Division, part: str) -> Work:
    """Return the same windows in each process (weak scaling), or in all processes together (strong scaling)."""
    return replace(_WEAK, windows=_WEAK.windows * division.count) if part == "weak" else _STRONG


def trained(division: Division, work: Work) -> dict[str, Any]:
    """Train in new processes, and return the result of the first one."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        words = json.dumps(asdict(division)), json.dumps(asdict(work)), str(output)
        command = [sys.executable, "-m", "benchmarks.devices.worker", *words]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={division.devices}"
        if division.kind == "independent":
            together = [subprocess.Popen(command) for _ in range(division.processes)]
            code = max(process.wait() for process in together)
        elif division.processes == 1:
            code = subprocess.run(command, check=False).returncode
        else:
            code = launch(command, Processes(devices=division.processes))
        if code:
            raise SystemExit(f"{division.name}: exit code {code}")
        result: dict[str, Any] = json.loads(output.read_text())
    return result


if __name__ == "__main__":
    main()
