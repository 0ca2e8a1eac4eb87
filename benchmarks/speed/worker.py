"""One process of a measurement: contenders of one framework by turns, or the memory of one of them.

A request is JSON: module, case, contenders, work, measure, repeats, threads, limit, and the file for the answer.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cases import CASES


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of the first call, and of all later ones, of each contender; they take turns."""
    case, module = CASES[request["case"]], import_module(request["module"])
    runs, found = {}, {}
    for name in request["contenders"]:
        runs[name] = module.build(name, case, request["work"], request["threads"])
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
    """Return the most bytes taken by three calls, less what the process had with its model and input in place."""
    case, module = CASES[request["case"]], import_module(request["module"])
    (name,) = request["contenders"]
    run = module.build(name, case, request["work"], request["threads"])
    before = resident()
    for _ in range(3):
        run()
    return {name: {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before}}


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    request = json.loads(sys.argv[1])
    timer = threading.Timer(request["limit"], os._exit, (124,))
    timer.daemon = True
    timer.start()
    answer = (memory if request["measure"] == "memory" else measure)(request)
    Path(request["answer"]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
