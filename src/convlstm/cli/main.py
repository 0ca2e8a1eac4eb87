"""The `convlstm` command.

Exit codes: 0 done; 1 an error inside convlstm, or `doctor` or `health` found a fault; 2 wrong usage; 3 configuration or
spec; 4 data; 5 model or weights; 6 output cannot be written; 7 training failed; 8 a package is missing; 9 another
process of a training has ended; 130 (Ctrl-C), 143 (SIGTERM) and 129 (SIGHUP) interrupted.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from contextlib import suppress

from convlstm.errors import ConvLSTMError, install, printable

DEBUG = "CONVLSTM_DEBUG"
"""Environment variable that shows tracebacks if it is set."""

_HANGUP = 128 + 1  # SIGHUP, which Windows does not have


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its exit code."""
    if hasattr(signal, "SIGPIPE"):
        # if the reader of the output exits, as `head` does, exit at once and without a message
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal without a character such as ≥ shows a question mark instead of raising an error
            stream.reconfigure(errors="replace")
    code = run(sys.argv[1:] if arguments is None else arguments)
    if code == _HANGUP:
        _leave_terminal()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code; an error is one line on standard error."""
    try:
        from convlstm.cli.app import invoke

        return invoke(arguments)
    except KeyboardInterrupt:
        return fail(128 + signal.SIGINT, "interrupted.")
    except SystemExit as stopped:  # a second signal, or a text by a library, which Python prints
        if isinstance(stopped.code, str):
            return fail(1, stopped.code)
        return fail(stopped.code or 0, "interrupted.")
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return fail(*explain(error))


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code of an error and its message."""
    if isinstance(error, OSError) and error.errno == errno.EIO and isinstance(error.__context__, ConvLSTMError):
        error = error.__context__  # the display of the progress met a closed terminal after this error
    if isinstance(error, ConvLSTMError):
        return error.exit_code, str(error)
    if isinstance(error, ModuleNotFoundError):
        return 8, f"{error.name}: expected it installed, got no such module. Run: {install('nowcast,torch')}."
    if isinstance(error, MemoryError):
        return 4, "memory: expected enough memory, got too little. Use a smaller model, batch or crop, or fewer cases."
    if isinstance(error, OSError) and error.filename is not None:
        return (
            4,
            f"{error.filename}: expected a readable file, got: {error.strerror}. Check the path and its permissions.",
        )
    return 1, f"inside convlstm: {type(error).__name__}: {error} ({DEBUG}=1 shows where)"


def fail(code: int, text: str) -> int:
    """Print an error line, add it to the log file, and return the exit code."""
    line = printable(" ".join(text.split()))
    with suppress(OSError):  # a terminal that was closed
        print("error:", line, file=sys.stderr)
    output = sys.modules.get("convlstm.cli.output")  # not loaded before a command has begun
    if output is not None:
        output.log("ERROR", line)
    return code


def _leave_terminal() -> None:
    """Send output that a closed terminal did not take to nowhere, so that Python does not change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
