"""The processes of a training in MLX, connected by `mx.distributed`.

`convlstm train --devices` starts the processes of one machine. `mlx.launch` starts those of several.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from convlstm.errors import ConfigError, DependencyError
from convlstm.frontend.processes import Processes, lost_process, refuse_torchrun

_HOSTS = "MLX_HOSTFILE"
_RANK = "MLX_RANK"


def process_rank(processes: Processes, device: str | None) -> int | None:
    """Return the number of this process, or None if no launcher has started the processes yet."""
    if not mx.distributed.is_available():
        raise DependencyError(
            "devices",
            expected="a build of MLX that can connect processes",
            received="one without a distributed backend",
            hint="Install another build of MLX, or leave `--devices` out.",
        )
    refuse_torchrun(
        "processes that `convlstm train` or mlx.launch has started, with MLX", "Run `convlstm train` with `--devices`."
    )
    if _RANK in os.environ:  # of mlx.launch
        return int(os.environ[_RANK])
    if processes.nodes > 1:
        raise ConfigError(
            "nodes",
            expected="processes that mlx.launch has started, with MLX on several machines",
            received=f"{processes.nodes} nodes, and no variable {_RANK}",
            hint="Start the same command by mlx.launch.",
        )
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None


def connect(processes: Processes) -> mx.distributed.Group:
    """Return the group of the processes of a training."""
    with _local_hosts(processes):
        try:
            group = mx.distributed.init(strict=True)
        except RuntimeError as error:
            raise ConfigError(
                "MASTER_PORT",
                expected=f"{processes.count} free ports from {os.environ.get('MASTER_PORT')}, and all processes",
                received=str(error).strip().partition("\n")[0][:120],
                hint="Run the command again.",
            ) from error
    if group.size() != processes.count:
        raise ConfigError(
            "devices",
            expected=f"devices × nodes = {group.size()}, the number of processes that the launcher started",
            received=f"{processes.devices} × {processes.nodes}",
            hint="Pass `--devices` and `--nodes` as in the launcher.",
        )
    return group


@contextmanager
def _local_hosts(processes: Processes) -> Iterator[None]:
    """Describe the processes of `convlstm train` to MLX, in a file that it reads when it connects."""
    if _RANK in os.environ:
        yield
        return
    if "LOCAL_RANK" not in os.environ or "MASTER_PORT" not in os.environ:
        raise ConfigError(
            "processes",
            expected="processes that a launcher has started",
            received=f"{processes.count} processes, and no variable LOCAL_RANK",
            hint="Use `convlstm train --framework mlx --devices N`, or mlx.launch.",
        )
    first = int(os.environ["MASTER_PORT"])
    hosts = [[f"127.0.0.1:{first + number}"] for number in range(processes.count)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "hosts.json"
        file.write_text(json.dumps(hosts), encoding="utf-8")
        place = {_HOSTS: str(file), _RANK: os.environ["LOCAL_RANK"]}
        os.environ.update(place)
        try:
            yield
        finally:
            for name in place:
                with suppress(KeyError):
                    del os.environ[name]


_CALLS = count(1)
"""Number of each call of `gather`, which all processes make in the same order."""


@contextmanager
def lost_connections(processes: Processes) -> Iterator[None]:
    """Raise an error of a connection within the block as a `LostProcessError`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if text.startswith(("[ring]", "[mpi]", "[nccl]", "[jaccl]")):
            raise lost_process(processes, text) from error
        raise


def gather(values: NDArray[np.float64], group: mx.distributed.Group) -> NDArray[np.float64]:
    """Return values of all processes along a new first axis, to the bit.

    After a lost connection MLX may return any values instead of an error. So each process adds its number and that of
    the call.

    Raises:
        RuntimeError: if these numbers are others.
    """
    call = float(next(_CALLS))
    sent = np.concatenate([[float(group.rank()), call], np.ravel(values)])
    words = np.ascontiguousarray(sent).reshape(1, -1).view(np.uint32)  # Metal has no float64
    gathered = np.array(mx.distributed.all_gather(mx.array(words), group=group, stream=mx.Device(mx.cpu)))
    received = np.ascontiguousarray(gathered).view(np.float64)
    expected = np.stack([np.arange(group.size()), np.full(group.size(), call)], axis=1)
    if not np.array_equal(received[:, :2], expected):
        raise RuntimeError("[ring] the values of the other processes are missing")
    return np.ascontiguousarray(received[:, 2:]).reshape(-1, *values.shape)
