"""What every proof has: a name, a count, a time limit, and a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MOST_FAILURES = 20  # kept as text; all are counted


@dataclass(frozen=True)
class Options:
    """The options of one proof.

    Args:
        work: An empty folder.
        count: How many kills, calls, flips or inputs; what is counted depends on the proof.
        seed: Seed of everything random.
        end: Time of `time.monotonic()` after which the proof begins nothing new.
    """

    work: Path
    count: int
    seed: int = 0
    end: float = float("inf")

    @property
    def random(self) -> np.random.Generator:
        """A generator of the seed."""
        return np.random.default_rng(self.seed)

    def numbers(self) -> Iterator[int]:
        """Yield 0, 1, … up to the count, or until the time is over."""
        for number in range(self.count):
            if self.is_over:
                return
            yield number

    @property
    def is_over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.end


@dataclass
class Result:
    """The result of one proof.

    Args:
        count: What was done, in the unit of the proof.
        failed: Number of failures.
        failures: The first of them, as text.
        figures: Further numbers by name.
        skipped: Why the proof was not run.
    """

    count: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str | None = None

    def fail(self, text: str) -> None:
        """Count a failure, and keep its text if it is one of the first."""
        self.failed += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(text)

    def add(self, name: str, number: int = 1) -> None:
        """Increase a figure."""
        self.figures[name] = self.figures.get(name, 0) + number


Run = Callable[[Options], Result]


@dataclass(frozen=True)
class Proof:
    """One proof.

    Args:
        run: Its function.
        count: The full count.
        unit: What is counted.
    """

    run: Run
    count: int
    unit: str
