"""The time of a sum over processes, from which latency and bandwidth of a step's communication follow."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from convlstm.cli.launch import launch
from convlstm.frontend.processes import Processes

_SIZES = (8, 1 << 21)
"""Bytes: a number, as for the loss, and about the gradient of the default model."""

_CALLS = 40


def measure_bandwidth() -> list[dict[str, Any]]:
    """Return the median seconds of Gloo's sum over 2 and 4 processes, for each number of bytes."""
    rows = []
    for processes in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "seconds.json"
            command = [sys.executable, "-m", "benchmarks.devices.bandwidth", str(output), str(processes)]
            if code := launch(command, Processes(devices=processes)):
                raise SystemExit(f"bandwidth: exit code {code}")
            rows.append({"processes": processes, "seconds": json.loads(output.read_text())})
    return rows


def main() -> None:
    """Add arrays over the processes that were started, and write the seconds from the first one."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=int(os.environ["LOCAL_RANK"]), world_size=int(sys.argv[2]))
    medians = {}
    for size in _SIZES:
        array, seconds = torch.zeros(size // 4), []
        for _ in range(_CALLS):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(array)
            seconds.append(time.perf_counter() - started)
        medians[size] = float(np.median(seconds))
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(medians))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
