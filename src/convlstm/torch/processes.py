"""The processes of a training in PyTorch: Lightning Fabric with DDP, or with FSDP by `fully_shard`.

Fabric reads the place of this process from the environment of torchrun, SLURM or `convlstm train --devices`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.parallel import ParallelStrategy
from torch import nn

from convlstm.errors import ConfigError, DependencyError
from convlstm.frontend.processes import Processes, lost_process

Precision = Literal["32-true", "bf16-mixed"]

_RELEASE_SECONDS = 0.1


def build_fabric(device: str | None, processes: Processes, precision: Precision) -> Fabric:
    """Return the Fabric of one process, or of this one among several; `connect` starts the connection to the others."""
    if processes.count == 1:
        accelerator, devices = _one_device(device)
        return Fabric(accelerator=accelerator, devices=devices, precision=precision)
    accelerator = _accelerator(device, processes)
    strategy: Any = "ddp"
    if processes.strategy == "fsdp":
        strategy = ModelParallelStrategy(_shard, data_parallel_size=processes.count, tensor_parallel_size=1)
    return Fabric(
        accelerator=accelerator,
        devices=processes.devices,
        num_nodes=processes.nodes,
        strategy=strategy,
        precision=precision,
    )


def process_rank(processes: Processes, device: str | None) -> int | None:
    """Return the number of this process, or None if no launcher has started the processes yet."""
    if processes.count == 1:
        started = int(os.environ["WORLD_SIZE"]) if torch.distributed.is_torchelastic_launched() else 1
        _check_count(processes, started)
        return 0
    strategy = build_fabric(device, processes, "32-true").strategy
    assert isinstance(strategy, ParallelStrategy)
    environment = strategy.cluster_environment
    assert environment is not None
    if not environment.creates_processes_externally:
        return None
    _check_count(processes, environment.world_size())
    return int(environment.global_rank())


def connect(fabric: Fabric, processes: Processes) -> None:
    """Connect to the other processes of a training."""
    with lost_connections(processes):
        try:
            fabric.launch()
        except ValueError as error:  # the environment of SLURM describes other numbers of nodes or devices
            raise ConfigError(
                "devices",
                expected="the processes that the launcher started",
                received=f"{processes.devices} devices on {processes.nodes} nodes ({error})",
                hint="Pass `--devices` and `--nodes` as in the launcher.",
            ) from error


def disconnect() -> None:
    """Leave the process group."""
    # A thread of Gloo takes Python's lock to free the tensors of the last sum. The group, which may end in this thread
    # with its model, holds the lock while it waits for that thread, so that both would wait for ever.
    time.sleep(_RELEASE_SECONDS)
    torch.distributed.destroy_process_group()


@contextmanager
def lost_connections(processes: Processes) -> Iterator[None]:
    """Raise an error of a connection within the block as a `LostProcessError`; a port in use is a `ConfigError`."""
    try:
        yield
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise ConfigError(
                "MASTER_PORT",
                expected="a free port",
                received=f"{os.environ.get('MASTER_PORT')}, which another program uses",
                hint="Run the command again. With several nodes, set `MASTER_PORT` to another port.",
            ) from error
        # Gloo has no error class; its messages begin with the path of its source file
        if isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error):
            raise lost_process(processes, str(error)) from error
        raise


def _check_count(processes: Processes, started: int) -> None:
    if started != processes.count:
        raise ConfigError(
            "devices",
            expected=f"devices × nodes = {started}, the number of processes that the launcher started",
            received=f"{processes.devices} × {processes.nodes}",
            hint="Pass `--devices` and `--nodes` as in the launcher.",
        )


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Shard a module in place as one group, because every parameter is used at every time step."""
    from torch.distributed.fsdp import fully_shard  # slow to load

    sharded: Any = fully_shard(module, mesh=mesh["data_parallel"], reshard_after_forward=False)
    if mesh.device_type == "cpu":  # Gloo has no mean
        if not hasattr(sharded, "set_force_sum_reduction_for_comms"):
            raise DependencyError(
                "strategy",
                expected="a version of PyTorch whose fully_shard supports CPUs",
                received=torch.__version__,
                hint="Install a newer version of PyTorch, or pass `--strategy ddp`.",
            )
        sharded.set_force_sum_reduction_for_comms(True)
    return module


def _accelerator(device: str | None, processes: Processes) -> str:
    """Return the accelerator of several processes: cuda or cpu, one device each."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen not in ("cpu", "cuda"):
        raise ConfigError(
            "device",
            expected="cpu or cuda for a training in several processes",
            received=repr(device),
            hint="Pass `--device cuda`, and select GPUs with the variable CUDA_VISIBLE_DEVICES.",
        )
    if chosen == "cuda" and processes.devices > torch.cuda.device_count():
        raise ConfigError(
            "devices",
            expected=f"at most {torch.cuda.device_count()}, the number of GPUs of this machine",
            received=processes.devices,
            hint="Decrease `--devices`, or pass `--device cpu`.",
        )
    return chosen


def _one_device(name: str | None) -> tuple[str, int | list[int]]:
    """Return a device such as cpu, cuda or cuda:1 as the accelerator and devices of Fabric."""
    if name is None:
        return "auto", 1
    available = {"cpu": ("cpu", 1)} | {f"cuda:{n}": ("cuda", [n]) for n in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        available["mps"] = ("mps", 1)
    chosen = available.get("cuda:0" if name == "cuda" else name)
    if chosen is None:
        raise ConfigError(
            "device",
            expected=f"a device of this machine ({', '.join(available)})",
            received=repr(name),
            hint="Pass one of these, or leave `--device` out.",
        )
    return chosen
