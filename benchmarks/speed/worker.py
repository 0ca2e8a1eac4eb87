"""One process of a measurement: the times of implementations that alternate, or the memory of one of them.

A request is JSON: module, case, contenders, work, measure, repeats, threads, limit, and the file for the answer.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import CASES


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of the first call and of all later calls of each implementation; the later calls alternate.

    Args:
        request: The request (see the module).

    Returns:
        `first` and `seconds` by implementation.
    """
    module, runs = import_module(request["module"]), {}
    found: dict[str, dict[str, Any]] = {}
    for name in request["contenders"]:
        runs[name] = module.build(name, CASES[request["case"]], request["work"], request["threads"])
        started = time.perf_counter()
        runs[name]()
        found[name] = {"first": time.perf_counter() - started, "seconds": []}
    for _ in range(request["repeats"]):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            found[name]["seconds"].append(time.perf_counter() - started)
    return found


def memory(request: dict[str, Any]) -> dict[str, Any]:
    """Return the peak memory of three calls minus the memory before them, which includes model and input.

    Args:
        request: The request, with one implementation.

    Returns:
        `bytes` by implementation.
    """
    (name,) = request["contenders"]
    run = import_module(request["module"]).build(name, CASES[request["case"]], request["work"], request["threads"])
    before = _status("VmRSS")
    for _ in range(3):
        run()
    return {name: {"bytes": _status("VmHWM") - before}}


def _status(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Answer the request of the command line; exit with code 124 after its time limit."""
    request = json.loads(sys.argv[1])
    timer = threading.Timer(request["limit"], os._exit, (124,))
    timer.daemon = True
    timer.start()
    answer = (memory if request["measure"] == "memory" else measure)(request)
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
