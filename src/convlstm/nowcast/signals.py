"""Stop between two pieces of work after SIGINT or SIGTERM, and at once after a second signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Yield a list that receives the numbers of SIGINT and SIGTERM within the block, which asks for a clean stop.

    A second signal ends the block at once: SIGINT by `KeyboardInterrupt`, SIGTERM by `SystemExit` with the code 143.
    """
    signals: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        signals.append(number)

    try:
        previous_handlers = {number: signal.signal(number, collect) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread, which alone receives signals
        yield signals
        return
    try:
        yield signals
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
