"""How many processes or devices train one model together, and what each of them stores."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import ConfigError, DataError, LostProcessError

Strategy = Literal["ddp", "fsdp"]
"""`ddp` keeps the whole model in each process, `fsdp` shards weights, gradients and optimiser state."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a training, with one device each.

    Args:
        devices: Processes on each machine.
        nodes: Machines.
        strategy: `ddp` or `fsdp`.

    Raises:
        ConfigError: for an unknown strategy, and for `fsdp` with one process.

    Example:
        >>> Processes(devices=4, nodes=2).count
        8
    """

    devices: int = 1
    nodes: int = 1
    strategy: Strategy = "ddp"

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise ConfigError(
                "strategy",
                expected=f"one of {', '.join(get_args(Strategy))}",
                received=repr(self.strategy),
                hint="Choose one of these.",
            )
        if self.strategy == "fsdp" and self.count == 1:
            raise ConfigError(
                "strategy",
                expected="ddp with one process, which has nothing to shard",
                received="'fsdp'",
                hint="Increase `--devices`, or leave `--strategy` out.",
            )

    @property
    def count(self) -> int:
        """Number of all processes."""
        return self.devices * self.nodes

    def rows(self, batch_size: int, rank: int) -> slice:
        """Return the rows of a batch that the process with this number computes."""
        size = batch_size // self.count
        return slice(rank * size, (rank + 1) * size)

    def check_batch(self, batch_size: int, accumulate: int) -> None:
        """Raise an error for a batch that cannot be divided among the processes and the parts of `accumulate`."""
        parts = self.count * accumulate
        if batch_size % parts:
            raise ConfigError(
                "training.batch_size",
                expected=f"a multiple of {parts} ({self.count} processes × training.accumulate={accumulate})",
                received=batch_size,
                hint="Change `training.batch_size`, `training.accumulate` or the number of processes.",
            )


@dataclass(frozen=True, kw_only=True)
class DeviceMesh:
    """The devices that train together in JAX: each has some windows of a batch and some rows of the grid.

    The devices are numbered along the rows first. Several processes have equal numbers of them, in this order.

    Args:
        data: Parts of the batch.
        space: Parts of the rows.

    Raises:
        ConfigError: for a number below 1.
    """

    data: int = 1
    space: int = 1

    def __post_init__(self) -> None:
        if min(self.data, self.space) < 1:
            raise _mesh_error(f"data={self.data},space={self.space}")

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.data * self.space

    def devices_per_process(self, processes: Processes) -> int:
        """Return the number of devices of each process, or raise an error if they cannot be divided equally.

        Example:
            >>> DeviceMesh(data=4, space=2).devices_per_process(Processes(devices=2))
            4
        """
        count = self.count // processes.count
        if self.count % processes.count or (count % self.space and self.space % count):
            raise ConfigError(
                "mesh",
                expected=f"equal parts for {processes.count} processes, whose devices have either all rows of their "
                "windows or the same windows",
                received=f"data={self.data},space={self.space}",
                hint="Change the mesh, `--devices` or `--nodes`.",
            )
        return count

    def data_parts(self, processes: Processes, rank: int) -> tuple[int, int]:
        """Return the first part of the batch that a process has, and the number of its parts.

        Example:
            >>> DeviceMesh(data=4, space=2).data_parts(Processes(devices=2), 1)
            (2, 2)
        """
        devices = self.devices_per_process(processes)
        return rank * devices // self.space, max(devices // self.space, 1)

    @classmethod
    def of_text(cls, text: str) -> DeviceMesh:
        """Return a mesh from a text.

        Example:
            >>> DeviceMesh.of_text("data=4,space=2")
            DeviceMesh(data=4, space=2)
        """
        numbers: dict[str, int] = {}
        for part in text.split(","):
            name, _, number = part.strip().partition("=")
            if name not in ("data", "space") or name in numbers or not number.isdecimal():
                raise _mesh_error(text)
            numbers[name] = int(number)
        return cls(**numbers)


def _mesh_error(received: str) -> ConfigError:
    return ConfigError(
        "mesh",
        expected="numbers from 1 such as data=4,space=2",
        received=repr(received)[:60],
        hint="Pass the parts of the batch (data) and of the rows of the grid (space).",
    )


ONE_PROCESS = Processes()
"""A training in this process alone."""


def check_parts(batch_size: int, accumulate: int, processes: Processes, mesh: DeviceMesh | None) -> None:
    """Raise an error for a batch that cannot be divided among the processes, or the devices of a mesh."""
    if mesh is None:
        processes.check_batch(batch_size, accumulate)
        return
    mesh.devices_per_process(processes)
    if batch_size % mesh.data:
        raise ConfigError(
            "mesh",
            expected=f"data that divides training.batch_size={batch_size}",
            received=f"data={mesh.data},space={mesh.space}",
            hint="Change the mesh or `training.batch_size`.",
        )


def check_same(gather: Callable[[float], NDArray[np.float64]], value: Any) -> None:
    """Raise an error unless a JSON value is the same in all processes; `gather` is that of the trainer."""
    text = json.dumps(value, sort_keys=True)
    digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])  # exact as a float64
    if len(np.unique(gather(digest))) > 1:
        raise DataError(
            "processes",
            expected="the same configuration, data and saved state in all of them",
            received="different ones",
            hint="Run the same command on each node, with data and an `--output` that all nodes share.",
        )


def refuse_torchrun(expected: str, hint: str) -> None:
    """Raise an error for processes of torchrun, which start PyTorch's training only."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError("nodes", expected=expected, received="processes of torchrun", hint=hint)


def lost_process(processes: Processes, reason: str) -> LostProcessError:
    """Return the error of a training in which another process has ended."""
    first_line = re.sub(r"^\[[^]]*\] ", "", reason.strip().partition("\n")[0])  # without Gloo's source file
    return LostProcessError(
        "processes",
        expected=f"all {processes.count} processes of the training",
        received=f"a lost connection ({first_line[:120]})",
        hint="Continue with `convlstm train --resume`, with any number of processes.",
    )


def refuse_mesh(mesh: DeviceMesh | None, framework: str) -> None:
    """Raise an error for a mesh with a framework other than Flax."""
    if mesh is not None:
        raise ConfigError(
            "mesh",
            expected=f"none with {framework}",
            received=f"data={mesh.data},space={mesh.space}",
            hint="Pass `--framework flax`, or leave the option out.",
        )


def refuse_processes(processes: Processes, accumulate: int, framework: str, *, has_processes: bool) -> None:
    """Raise an error for options of a training in PyTorch that this framework does not support."""
    supported: dict[str, Any] = {"training.accumulate": 1, "strategy": "ddp"}
    received: dict[str, Any] = {"training.accumulate": accumulate, "strategy": processes.strategy}
    if not has_processes:
        supported |= {"devices": 1, "nodes": 1}
        received |= {"devices": processes.devices, "nodes": processes.nodes}
    for name, value in received.items():
        if value != supported[name]:
            raise ConfigError(
                name,
                expected=f"{supported[name]} with {framework}",
                received=value,
                hint="Pass `--framework torch`, or leave the option out.",
            )
