"""Start the processes of a training on this machine, pass signals on to them, and end them together."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from threading import Thread

from convlstm.errors import ConfigError, LostProcessError
from convlstm.frontend.processes import Processes, lost_process
from convlstm.nowcast.signals import STOPPING, collected_signals

GRACE = 10.0
"""Seconds for the other processes to end after one has failed; then they are killed."""

_POLL = 0.1
_INTERRUPTED = [128 + number for number in STOPPING]


def launch(command: Sequence[str], processes: Processes) -> int:
    """Run a command once for each device of this machine, and return the exit code of the first error, else 0.

    The environment tells each process its place, as Lightning Fabric and `convlstm.jax.processes` read it. Standard
    output is that of the first process. Of all error lines only the first is printed, because the others are its copies
    or its consequences.
    """
    environment = os.environ | _address(processes) | {"PYTHONSAFEPATH": "1"}  # no modules of the working folder
    started: list[subprocess.Popen[bytes]] = []
    readers: list[Thread] = []
    errors: list[str] = []
    with collected_signals() as signals:
        try:
            for rank in range(processes.devices):
                started.append(_start(command, environment, rank))
                readers.append(Thread(target=_read_errors, args=(started[-1], errors), daemon=True))
                readers[-1].start()
            _wait(started, signals)
        finally:
            for process in started:
                process.kill()
            for process in started:
                process.wait()
    for reader in readers:
        reader.join()
    code = _exit_code(process.returncode for process in started)
    if code == LostProcessError.exit_code and not errors:
        raise lost_process(processes, "a process was killed")
    with suppress(OSError):  # a terminal that was closed
        sys.stderr.writelines(_causes(errors)[:1])
    return code


def _start(command: Sequence[str], environment: Mapping[str, str], rank: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        env={**environment, "LOCAL_RANK": str(rank)},
        stdout=None if rank == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
    )


def _address(processes: Processes) -> dict[str, str]:
    """Return the variables with the address at which the processes meet."""
    if processes.nodes == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(
            "nodes",
            expected=f"processes that torchrun or srun has started, or the variables {', '.join(names)}",
            received=f"no {missing[0]}",
            hint="Set these variables on each node, or start the command with srun, or torchrun in PyTorch.",
        )
    return {}


def _wait(processes: Sequence[subprocess.Popen[bytes]], signals: Sequence[int]) -> None:
    """Wait until all processes have ended, or until some time after one has failed; pass on the first signal."""
    is_passed_on, deadline = False, None
    while None in [process.poll() for process in processes]:
        if signals and not is_passed_on:
            is_passed_on = True
            for process in processes:
                process.send_signal(signals[0])
        has_failed = any(process.returncode not in (None, 0, *_INTERRUPTED) for process in processes)
        if deadline is None and has_failed:
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(_POLL)


def _exit_code(codes: Iterable[int]) -> int:
    """Return the exit code of the processes: that of an error, else that of a lost process, else 0."""
    # a signal before the training, which saves its state first, ends a process by the signal itself
    failed = [128 - code if -code in STOPPING else code for code in codes if code]
    errors = [code for code in failed if code > 0 and code != LostProcessError.exit_code]
    if errors:
        return errors[0]
    return LostProcessError.exit_code if failed else 0


def _read_errors(process: subprocess.Popen[bytes], errors: list[str]) -> None:
    """Print what a process writes to standard error, and keep its lines with errors."""
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            text = line.decode("utf-8", errors="replace")
            if text.startswith("error:"):
                errors.append(text)
            else:
                with suppress(OSError):  # a terminal that was closed; the process must not wait for a reader
                    sys.stderr.write(text)


def _causes(errors: list[str]) -> list[str]:
    """Return the lines that tell why a process ended; if there are none, those of the lost connections."""
    return [line for line in errors if not line.startswith("error: processes:")] or errors
