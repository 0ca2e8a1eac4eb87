"""The `convlstm` command.

Exit codes: 0 done; 1 an error inside convlstm; 2 wrong usage; 3 configuration or spec; 4 data; 5 model or weights;
6 output cannot be written; 7 training failed; 8 a package is missing; 130 and 143 interrupted.
"""

from __future__ import annotations

import os
import sys

from convlstm.errors import ConvLSTMError

DEBUG = "CONVLSTM_DEBUG"
"""Environment variable that, when set, shows tracebacks."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code.

    Args:
        arguments: Words after `convlstm`; None means those of the process.
    """
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command and return its exit code; every error is one line on standard error.

    Args:
        arguments: Words after `convlstm`.

    Returns:
        The exit code.
    """
    try:
        from convlstm.cli.app import invoke
    except ImportError as error:
        print(f"error: the command line needs {error.name}; pip install 'convlstm[nowcast]'.", file=sys.stderr)
        return 8
    try:
        return invoke(arguments)
    except ConvLSTMError as error:
        if os.environ.get(DEBUG):
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output went away, as `head` does; nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("error: memory: expected room for the data, got none; use fewer frames or cases.", file=sys.stderr)
        return 4
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        text = " ".join(str(error).split())
        print(f"error: inside convlstm: {type(error).__name__}: {text} ({DEBUG}=1 shows where)", file=sys.stderr)
        return 1
