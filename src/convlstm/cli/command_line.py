"""The words of the command that runs, for the history in files and for the processes that it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_WORDS: ContextVar[tuple[str, ...]] = ContextVar("words", default=())


@contextmanager
def command_arguments(arguments: Sequence[str]) -> Iterator[None]:
    """Keep the arguments of the command that runs within the block."""
    token = _WORDS.set(tuple(arguments))
    try:
        yield
    finally:
        _WORDS.reset(token)


def command_line() -> list[str]:
    """Return the command that runs, with its arguments; a call from Python has other ones than `sys.argv`."""
    return ["convlstm", *_WORDS.get()]
