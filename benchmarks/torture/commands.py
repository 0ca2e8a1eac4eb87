"""Commands of `convlstm` in processes of their own, with a fault or a kill at the n-th file-system call.

A server loads the libraries once and forks for every command, because starting Python and PyTorch takes seconds. The
library of `shim.c` is preloaded into the server, where there is a C compiler.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_MODES = {"count": 0, "fail": 1, "kill": 2, "flip": 3}
DOCUMENTED_CODES = {0, 2, 3, 4, 5, 6, 7, 8, 9}
"""Exit codes of docs/cli.md that a fault may have; 1 is an error inside convlstm."""


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th call that changes a folder: `fail` with an error, `kill`, or `flip` a written bit."""

    call: int = 0
    mode: str = "count"
    error: int = 0  # an `errno`


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int  # negative: the number of the signal
    out: str
    err: str
    calls: int = 0  # that changed the folder
    hit: str = ""  # the call that failed, and its file

    @property
    def problems(self) -> list[str]:
        """What is wrong with exit code and standard error: an undocumented code, or not exactly one line."""
        if self.code == -signal.SIGKILL:
            return []
        found = []
        if self.code not in DOCUMENTED_CODES:
            found.append(f"exit code {self.code}")
        lines = self.err.count("\n")
        if lines != (self.code != 0) or (lines and not self.err.startswith("error: ")):
            found.append(f"standard error {self.err[:300]!r}")
        return found


def compiler() -> str | None:
    """Return the C compiler, or None."""
    return shutil.which("cc")


def build_shim(folder: Path) -> Path:
    """Compile the preloaded library into a folder, and return its path."""
    program = compiler()
    if program is None or sys.platform != "linux":
        raise OSError("no C compiler, or another system than Linux")
    target = folder / "faults.so"
    source = Path(__file__).parent / "shim.c"
    subprocess.run([program, "-O1", "-fPIC", "-shared", "-o", str(target), str(source), "-ldl"], check=True)
    return target


class Commands:
    """The server, seen from the process that uses it."""

    def __init__(self, work: Path, modules: Sequence[str], *, faults: bool, environment: dict[str, str] | None = None):
        work.mkdir(parents=True, exist_ok=True)
        values = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | (environment or {})
        if faults:
            values["LD_PRELOAD"] = str(build_shim(work))
        self._output = work
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torture.commands", *modules],
            env=values,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        words: Sequence[object],
        folder: Path,
        fault: Fault | None = None,
        *,
        kill_after: float | None = None,
        limit: float = 600.0,
    ) -> Outcome:
        """Run a command in a folder; a fault counts the calls that change it. `limit` seconds are a hang."""
        out, err = self._output / "out.txt", self._output / "err.txt"
        request = {
            "words": [str(word) for word in words],
            "folder": str(folder.resolve()),
            "fault": None if fault is None else asdict(fault),
            "kill_after": kill_after,
            "limit": limit,
            "out": str(out),
            "err": str(err),
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the server has ended")
        return Outcome(out=out.read_text(errors="replace"), err=err.read_text(errors="replace"), **json.loads(line))

    def close(self) -> None:
        """End the server."""
        self._server.kill()
        self._server.communicate()


@contextmanager
def serving(work: Path, *modules: str, faults: bool = True, **environment: str) -> Iterator[Commands]:
    """Start a server that has loaded these modules, and end it."""
    commands = Commands(work, modules, faults=faults, environment=environment)
    try:
        yield commands
    finally:
        commands.close()


def _serve(modules: Sequence[str]) -> None:
    """Read requests from standard input, and answer on standard output."""
    for name in modules:
        import_module(name)
    shim = ctypes.CDLL(None) if "LD_PRELOAD" in os.environ else None
    if shim is not None:
        shim.faults_calls.restype = ctypes.c_long
        shim.faults_name.restype = shim.faults_path.restype = ctypes.c_char_p
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _work(request, shim)
        code = _wait(child, request)
        answer: dict[str, Any] = {"code": code}
        if shim is not None and request["fault"] is not None:
            answer["calls"] = shim.faults_calls()
            answer["hit"] = f"{shim.faults_name().decode()} {shim.faults_path().decode()}".strip()
        print(json.dumps(answer), flush=True)


def _work(request: dict[str, Any], shim: ctypes.CDLL | None) -> None:
    """Run a command in the forked process, and end it."""
    os.chdir(request["folder"])
    for number, path in ((1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    from convlstm.cli.main import main

    if shim is not None and request["fault"] is not None:
        fault = request["fault"]
        place = request["folder"].encode()
        shim.faults_begin(place, ctypes.c_long(fault["call"]), _MODES[fault["mode"]], fault["error"])
    code = 1
    try:
        main(request["words"])
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, request: dict[str, Any]) -> int:
    """Return the exit code of the forked process, which is killed after some time."""
    started = time.monotonic()
    kill_after = request["kill_after"]
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        elapsed = time.monotonic() - started
        if kill_after is not None and elapsed > kill_after:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        if elapsed > request["limit"]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 124  # as `timeout` has it
        time.sleep(0.002)


if __name__ == "__main__":
    _serve(sys.argv[1:])
