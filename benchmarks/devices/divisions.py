"""The divisions of a training among processes and devices, and the sizes of the models that are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.frontend.processes import DeviceMesh, Processes
from convlstm.frontend.trainer import Sample
from convlstm.nowcast.config import validate


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a training is divided: the processes, the devices of each, and what they divide.

    Args:
        name: For the tables.
        framework: `torch`, `flax` or `mlx`.
        processes: Their number.
        devices: Devices of each process, in JAX.
        kind: `data` (windows), `fsdp` (windows and weights), `space` (rows of the grid), or `independent` (each
            process trains a model alone, without communication).
        space: Parts of the rows.
    """

    name: str
    framework: str
    processes: int = 1
    devices: int = 1
    kind: str = "data"
    space: int = 1

    @property
    def count(self) -> int:
        """Devices of all processes."""
        return self.processes * self.devices

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `Optimisation`."""
        if self.kind == "independent":
            return {}
        strategy = "fsdp" if self.kind == "fsdp" else "ddp"
        options: dict[str, Any] = {"processes": Processes(devices=self.processes, strategy=strategy)}
        if self.framework == "flax" and self.count > 1:
            options["mesh"] = DeviceMesh(data=self.count // self.space, space=self.space)
        return options


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is trained: a model, the windows of a batch, and the steps.

    Args:
        model: `small`, or `default` (that of `convlstm train`).
        windows: Windows of a batch, in all processes together.
        rows: Rows and columns of the frames.
        steps: Optimiser steps.
        skipped: First steps, which are not timed.
    """

    model: str
    windows: int
    rows: int
    steps: int
    skipped: int = 3

    @property
    def spec(self) -> ForecasterSpec:
        """The spec of the model."""
        if self.model == "default":
            return validate({}).model.spec(1)
        encoder = ConvLSTMSpec(in_channels=4, hidden_channels=[16, 16], kernel_size=3)
        return ForecasterSpec(encoder=encoder, patch_size=2, residual=True)

    @property
    def frames(self) -> tuple[int, int]:
        """Input frames and lead times of a window."""
        return (6, 12) if self.model == "default" else (4, 4)

    def sample(self, step: int, rows: slice = slice(None)) -> Sample:
        """Return some windows of the batch of a step: waves that drift, with missing values in the targets."""
        random = np.random.default_rng(step)
        past, future = self.frames
        size, time = (self.windows, 1, 1, 1, 1), np.arange(past + future).reshape(1, -1, 1, 1, 1)
        y, x = np.mgrid[: self.rows, : self.rows] * (2 * np.pi / self.rows)
        phase, speed, waves = random.uniform(0, 6, size), random.uniform(-0.5, 0.5, size), random.integers(1, 4, size)
        frames = np.float32(0.5 + 0.5 * np.sin(waves * (x + y) + phase + speed * time))
        weight = (random.random(frames[:, past:].shape, np.float32) < 0.8).astype(np.float32)
        return Sample(frames[rows, :past], frames[rows, past:], weight[rows])


SMALL = Work(model="small", windows=8, rows=32, steps=50)

ONE = {framework: Division(name="one process", framework=framework) for framework in ("torch", "flax", "mlx")}

EQUALITY = [
    *ONE.values(),
    *(Division(name=f"DDP, {n} processes", framework="torch", processes=n) for n in (2, 4)),
    *(Division(name=f"FSDP, {n} processes", framework="torch", processes=n, kind="fsdp") for n in (2, 4)),
    *(
        Division(name=f"rows divided among {n} processes", framework="torch", processes=n, kind="space", space=n)
        for n in (2, 4)
    ),
    Division(name="data=8, one process", framework="flax", devices=8),
    Division(name="space=8, one process", framework="flax", devices=8, kind="space", space=8),
    Division(name="data=4,space=2, one process", framework="flax", devices=8, kind="space", space=2),
    *(Division(name=f"data={n}, {n} processes", framework="flax", processes=n) for n in (2, 4)),
    Division(name="space=2, 2 processes", framework="flax", processes=2, kind="space", space=2),
    Division(
        name="data=2,space=4, 2 processes of 4 devices",
        framework="flax",
        processes=2,
        devices=4,
        kind="space",
        space=4,
    ),
    *(Division(name=f"{n} processes", framework="mlx", processes=n) for n in (2, 4)),
]
"""What is compared with one process."""

SCALING = [
    *(Division(name="DDP", framework="torch", processes=n) for n in (1, 2, 4)),
    *(Division(name="FSDP", framework="torch", processes=n, kind="fsdp") for n in (2, 4)),
    *(Division(name="independent", framework="torch", processes=n, kind="independent") for n in (2, 4)),
    *(Division(name="JAX", framework="flax", processes=n) for n in (1, 2, 4)),
]
"""What is timed."""
