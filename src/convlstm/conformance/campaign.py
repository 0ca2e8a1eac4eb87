"""Every installed framework compared with the reference and with every other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from convlstm.conformance.compare import error
from convlstm.conformance.environments import ENVIRONMENTS, Environment, run_task
from convlstm.conformance.expectations import keep_expectations
from convlstm.conformance.tolerances import TOLERANCES
from convlstm.errors import DependencyError

PAIR_TARGET = 2e-5
"""Largest float32 difference between two frameworks on one weights file (docs/contract.md, Precision)."""


@dataclass(frozen=True)
class Row:
    """One framework in one type, compared with the reference."""

    environment: str
    dtype: str
    count: int
    value: dict[str, Any]  # worst, median, judged and missed of the results
    derivative: dict[str, Any]  # the same of the derivatives
    problem: str = ""  # why nothing was compared

    @property
    def well(self) -> bool:
        """Whether it ran and met every target."""
        return not (self.problem or self.value["missed"] or self.derivative["missed"])


@dataclass(frozen=True)
class Pair:
    """Two frameworks on the same float32 weights: largest difference of any result."""

    first: str
    second: str
    difference: float

    @property
    def well(self) -> bool:
        """Whether they agree."""
        return self.difference <= PAIR_TARGET


def compare_all(
    count: int,
    start: int = 0,
    environments: Sequence[Environment] = ENVIRONMENTS,
    on_step: Callable[[str], None] = lambda line: None,
) -> tuple[list[Row], list[Pair]]:
    """Compare every framework with the reference in float64 and float32, and all pairs in float32.

    There are `count` random layers from the seed `start`, and a fifth as many common cells and forecasters. A framework
    that is not installed has a row with the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for dtype in TOLERANCES for row in _rows(folder, dtype, count, start, environments, on_step)]
        compared = [s.name for s in environments if (Path(folder) / f"{s.name}.npz").exists()]
        pairs = [Pair(a, b, _difference(folder, a, b)) for a, b in combinations(compared, 2)]
    return rows, pairs


def _rows(
    folder: str, dtype: str, count: int, start: int, environments: Sequence[Environment], on_step: Callable[[str], None]
) -> Iterator[Row]:
    on_step(f"reference, {dtype}")
    keep_expectations(folder, start, count, dtype)
    for environment in environments:
        on_step(f"{environment.name}, {dtype}")
        keep = f"{environment.name}.npz" if dtype == "float32" else None
        try:
            answer = run_task(
                environment, "compare_cases", dtype=dtype, start=start, count=count, folder=folder, keep=keep
            )
        except DependencyError as problem:
            yield Row(environment.name, dtype, 0, {}, {}, str(problem.received))
            continue
        yield Row(environment.name, dtype, answer["count"], answer["value"], answer["derivative"])


def _difference(folder: str, first: str, second: str) -> float:
    with (
        np.load(Path(folder) / f"{first}.npz", allow_pickle=False) as a,
        np.load(Path(folder) / f"{second}.npz", allow_pickle=False) as b,
    ):
        return max(error(a[name], b[name]) for name in a.files)
