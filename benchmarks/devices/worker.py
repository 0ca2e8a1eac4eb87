"""One process of a training that is measured: `python -m benchmarks.devices.worker WAY WORK OUTPUT`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.communication import sent_bytes
from benchmarks.devices.collectives import bytes_per_device
from benchmarks.devices.divisions import Division, Work
from convlstm.frontend.trainer import Optimisation, Sample, Trainer
from convlstm.nowcast.frameworks import build_trainer, set_threads
from convlstm.weights.canonical import initialise


def main() -> None:
    """Train, and write losses, seconds and bytes from the first process."""
    division, work, output = Division(**json.loads(sys.argv[1])), Work(**json.loads(sys.argv[2])), Path(sys.argv[3])
    if division.framework in ("torch", "flax"):
        set_threads(division.framework, 1)
    device = None if division.framework == "mlx" else "cpu"
    options = Optimisation(device=device, precision="float32", **division.options)
    trainer = build_trainer(division.framework, work.spec, initialise(work.spec, 0), options)
    if division.framework == "torch" and division.kind == "space":
        from convlstm.torch import divide_rows

        divide_rows(trainer.module)  # type: ignore[attr-defined]
    result = measured(trainer, division, work)
    if trainer.rank == 0:
        output.write_text(json.dumps(result))


def measured(trainer: Trainer, division: Division, work: Work) -> dict[str, Any]:
    """Return the losses of all steps, the median of their seconds, and the bytes that a device sends in one."""
    losses, seconds = [], []
    samples = [part_of_sample(trainer, division, work, step) for step in range(work.steps)]
    with trainer.connected():
        sent = 0
        for step, sample in enumerate(samples):
            if step == work.skipped:
                trainer.gather(0)
                sent = sent_bytes()
            started = time.perf_counter()
            losses.append(trainer.step(sample, 0.005, step))
            seconds.append(time.perf_counter() - started)
        trainer.gather(0)
        sent = sent_bytes() - sent
        # between devices of one process nothing is sent over the network
        program = (
            of_program(trainer, division, samples[0]) if division.framework == "flax" and division.count > 1 else {}
        )
    timed = seconds[work.skipped :]
    result: dict[str, Any] = {
        "losses": losses,
        "seconds": float(np.median(timed)),
        "quartiles": [float(value) for value in np.quantile(timed, [0.25, 0.75])],
        "sent": sent / len(timed) / division.processes,
        "parameters": sum(array.size for array in initialise(work.spec, 0).values()),
    }
    return result | program


def part_of_sample(trainer: Trainer, division: Division, work: Work, step: int) -> Sample:
    """Return this process's part of the sample of a step: some windows, or some rows of all windows."""
    if division.kind == "independent":
        return replace(work, windows=work.windows // division.processes).sample(step)
    if division.framework == "torch" and division.kind == "space":
        whole, size = work.sample(step), work.rows // division.processes
        rows = (..., slice(trainer.rank * size, (trainer.rank + 1) * size), slice(None))
        return Sample(*(np.ascontiguousarray(array[rows]) for array in (whole.inputs, whole.targets, whole.weight)))
    return work.sample(step, trainer.batch_rows(work.windows))


def of_program(trainer: Any, division: Division, sample: Sample) -> dict[str, float]:
    """Return the bytes that a device sends in XLA's program for a training step."""
    import jax

    rate, seed = trainer._replicated((np.float32(0), jax.random.key_data(jax.random.key(0))))
    placed = trainer._placed(sample, trainer._mesh)
    text = trainer._step.lower(trainer._params, trainer._moments, placed, rate, seed).compile().as_text()
    sent = bytes_per_device(text, division.count)
    return {"sent": sent} if division.devices > 1 else {"sent_by_program": sent}


if __name__ == "__main__":
    main()
