"""Stop between two pieces of work after a signal that asks for it, and at once after a second one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# a terminal that is closed sends SIGHUP, which Windows does not have
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""The signals that ask for a clean stop."""


@contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Yield a list that receives the numbers of the signals that ask for a clean stop: SIGINT, SIGTERM and SIGHUP.

    A second signal ends the block at once: SIGINT by `KeyboardInterrupt`, the others by `SystemExit` with 128 plus
    their number. A signal that is ignored stays so, as SIGHUP does under `nohup`.
    """
    signals: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        if signals:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        signals.append(number)

    handled = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    try:
        previous_handlers = {number: signal.signal(number, collect) for number in handled}
    except ValueError:  # not in the main thread, which alone receives signals
        yield signals
        return
    try:
        yield signals
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
