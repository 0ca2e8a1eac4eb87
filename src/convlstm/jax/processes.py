"""The processes of a training in JAX, connected by `jax.distributed`.

The place of a process comes from the variables of `convlstm train --devices`, or from those of SLURM.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import ConfigError, ConvLSTMError, LostProcessError
from convlstm.frontend.processes import Processes, lost_process, refuse_torchrun

_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
"""The variables of a process that srun has started, from which JAX finds the others."""

_CONNECTION_ERRORS = ("gloo", "nccl", "coordination", "deadline_exceeded", "unavailable:")
"""Words of the messages of JAX about a lost connection, for which it has no class."""


def process_rank(processes: Processes, device: str | None) -> int | None:
    """Return the number of this process, or None if no launcher has started the processes yet."""
    refuse_torchrun(
        "processes that `convlstm train` or srun has started, with JAX",
        "Run `convlstm train` once on each node, with MASTER_ADDR, MASTER_PORT and NODE_RANK set.",
    )
    if processes.count > 1:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA reads it when it is loaded
    if _is_in_slurm(os.environ):
        started = int(os.environ["SLURM_NTASKS"])
        if started != processes.count:
            raise ConfigError(
                "devices",
                expected=f"devices × nodes = {started}, the number of processes that srun started",
                received=f"{processes.devices} × {processes.nodes}",
                hint="Pass `--devices` and `--nodes` as in the launcher.",
            )
        return int(os.environ["SLURM_PROCID"])
    if "LOCAL_RANK" not in os.environ:
        return None
    return _number("NODE_RANK") * processes.devices + _number("LOCAL_RANK")


def connect(processes: Processes, devices: int) -> None:
    """Connect to the other processes of a training, each of which computes on a number of devices."""
    import jax

    rank = process_rank(processes, None)
    if rank is None:
        raise ConfigError(
            "processes",
            expected="processes that a launcher has started",
            received=f"{processes.count} processes, and no variable LOCAL_RANK",
            hint="Use `convlstm train --framework flax --devices N`.",
        )
    os.environ.setdefault("NPROC", str(max((os.cpu_count() or 1) // processes.devices, 1)))  # threads on a CPU
    with suppress(AttributeError):  # JAX's own handler of SIGTERM, which an older version does not have
        jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # type: ignore[no-untyped-call]
    address: dict[str, Any] = {}
    if not _is_in_slurm(os.environ):
        address = {
            "coordinator_address": f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            "num_processes": processes.count,
            "process_id": rank,
            "cluster_detection_method": "deactivate",
        }
    if address and rank == 0:
        _check_port(_number("MASTER_PORT"))
    _keep_standard_output()
    with lost_connections(processes):
        jax.distributed.initialize(**address, local_device_ids=local_devices(os.environ, devices))


def local_devices(environment: Mapping[str, str], devices: int) -> list[int]:
    """Return the numbers of this process's GPUs among those that it can see.

    Example:
        >>> local_devices({"LOCAL_RANK": "1"}, 2)
        [2, 3]
        >>> local_devices({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 2)
        [2, 3]
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    count = None if visible is None else len(visible.split(","))
    if _is_in_slurm(environment):
        # srun --gpus-per-task shows each process its GPUs alone
        first = 0 if count == devices else int(environment["SLURM_LOCALID"]) * devices
    else:
        first = int(environment["LOCAL_RANK"]) * devices
    if count is not None and first + devices > count:
        raise ConfigError(
            "devices",
            expected=f"at least {first + devices} GPUs in CUDA_VISIBLE_DEVICES",
            received=f"{count}",
            hint="Show more GPUs, or pass fewer `--devices`.",
        )
    return list(range(first, first + devices))


@contextmanager
def lost_connections(processes: Processes) -> Iterator[None]:
    """Raise an error of a connection within the block as a `LostProcessError`; a port in use is a `ConfigError`."""
    try:
        yield
    except ConvLSTMError:
        raise
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if "must be called before any JAX" in text:
            raise ConfigError(
                "processes",
                expected="a new process for a training in several processes",
                received="one that has used JAX",
                hint="Start the training in a new process, before any other use of JAX.",
            ) from error
        if "Failed to start RPC server" in text:
            raise _port_in_use() from error
        if not any(word in text.lower() for word in _CONNECTION_ERRORS):
            raise
        atexit.register(_leave)
        raise lost_process(processes, text.rpartition("failed: ")[2]) from error


def _number(name: str) -> int:
    """Return the number in an environment variable of a launcher."""
    try:
        return int(os.environ[name])
    except (KeyError, ValueError) as error:
        raise ConfigError(
            name,
            expected="a number in this environment variable",
            received=os.environ.get(name, "none"),
            hint="Set it on each node: 0 on the first, 1 on the second.",
        ) from error


def _check_port(port: int) -> None:
    """Raise an error for a port in use, at which JAX can end with a segmentation fault."""
    family, place = (socket.AF_INET6, "::") if socket.has_ipv6 else (socket.AF_INET, "")
    try:
        with socket.create_server((place, port), family=family):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _port_in_use() from error


def _port_in_use() -> ConfigError:
    return ConfigError(
        "MASTER_PORT",
        expected="a free port",
        received=f"{os.environ.get('MASTER_PORT')}, which another program uses",
        hint="Run the command again. With several nodes, set `MASTER_PORT` to another port.",
    )


def gather(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values of all processes along a new first axis, to the bit."""
    from jax.experimental import multihost_utils

    words = np.ascontiguousarray(values).reshape(-1).view(np.uint32)  # JAX would round float64 to float32
    gathered = np.ascontiguousarray(multihost_utils.process_allgather(words))
    return gathered.view(np.float64).reshape(-1, *values.shape)


def _is_in_slurm(environment: Mapping[str, str]) -> bool:
    return all(name in environment for name in _SLURM)


def _keep_standard_output() -> None:
    """Let only Python write to standard output, where Gloo announces its connections."""
    with suppress(OSError, ValueError):  # a standard output without a descriptor
        if sys.stdout.fileno() != 1:
            return
        sys.stdout.flush()
        own = os.dup(1)
        sys.stdout = open(own, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, buffering=1)  # noqa: SIM115
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)


def _leave() -> None:
    """End this process at its exit, where JAX would wait for the lost one."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(LostProcessError.exit_code)
