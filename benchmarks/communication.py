"""Bytes that each process of a training sends per step, measured on the loopback interface of Linux.

No other process may use the loopback interface meanwhile, as in a network namespace of its own:
`unshare --net sh -c 'ip link set lo up && python -m benchmarks.communication --processes 2 --strategy ddp'`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from convlstm.cli.launch import launch
from convlstm.frontend.processes import Processes
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.nowcast.config import validate
from convlstm.weights.canonical import initialise

_COUNTERS = Path("/proc/net/dev")
_STEPS = 10


def main() -> int:
    """Start the processes, or measure in one that was started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--strategy", default="ddp", choices=["ddp", "fsdp"])
    parser.add_argument("--accumulate", type=int, default=1)
    options = parser.parse_args()
    processes = Processes(devices=options.processes, strategy=options.strategy)
    if "LOCAL_RANK" not in os.environ:
        return launch([sys.executable, "-m", "benchmarks.communication", *sys.argv[1:]], processes)
    measure(processes, options.accumulate)
    return 0


def measure(processes: Processes, accumulate: int) -> None:
    """Print the bytes per step, and those of the formula in docs/distributed.md."""
    from convlstm.torch.training import Trainer

    spec = validate({}).model.spec(1)
    weights = initialise(spec, 0)
    trainer = Trainer(spec, weights, Optimisation(device="cpu", processes=processes, accumulate=accumulate))
    random = np.random.default_rng(trainer.rank)
    inputs, targets = (random.random((accumulate, time, 1, 16, 16), np.float32) for time in (3, 3))
    sample = Sample(inputs, targets, np.ones_like(targets))
    with trainer.connected():
        for _ in range(3):
            trainer.step(sample, 1e-3, 0)
        trainer.gather(0)
        before = sent_bytes()
        for _ in range(_STEPS):
            trainer.step(sample, 1e-3, 0)
        trainer.gather(0)
        sent = (sent_bytes() - before) / _STEPS / processes.count
    parameters, share = sum(array.size for array in weights.values()), (processes.count - 1) / processes.count
    transfers = 2 if processes.strategy == "ddp" else 1 + accumulate
    print(f"{processes}, accumulate={accumulate}, {parameters} parameters")
    formula = transfers * share * 4 * parameters
    print(f"measured {sent / 1e6:.3f} MB per process and step, formula {formula / 1e6:.3f} MB")


def sent_bytes() -> int:
    """Return the bytes that the loopback interface has sent so far."""
    line = next(line for line in _COUNTERS.read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


if __name__ == "__main__":
    sys.exit(main())
