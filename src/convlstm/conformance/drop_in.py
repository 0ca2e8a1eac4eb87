"""Lines of other projects' code, each run as it is written there and compared with the reference.

The lines of each framework are in `conformance/drop_in_lines`; `convlstm doctor --drop-in` runs them all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convlstm.conformance.compare import error
from convlstm.reference import recurrence as reference
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array

STRATEGIES = {"linear": "linear", "log": "log", "exponential damping": "exp", "learned scalar": "scalar", "MLP": "mlp"}
"""Duration strategies by the names in duration-aware ConvLSTM."""


@dataclass(frozen=True)
class UsageResult:
    """The shapes of a line's results in words, and their largest error compared with the reference."""

    shapes: str
    difference: float


@dataclass(frozen=True)
class UsageExample:
    """A line of another project as a user writes it, and the function that runs it and compares it."""

    project: str
    line: str
    run: Callable[[], UsageResult]


@dataclass(frozen=True)
class CheckedExample:
    """A line after it ran; `outcome` is None if it failed, and `seconds` include building the layer."""

    example: UsageExample
    outcome: UsageResult | None
    failure: str
    seconds: float


def check(example: UsageExample) -> CheckedExample:
    """Run a line, and keep its error as text."""
    began = time.perf_counter()
    try:
        outcome, failure = example.run(), ""
    except Exception as error:  # a report on every line, whatever it raises
        outcome, failure = None, f"{type(error).__name__}: {error}".splitlines()[0]
    return CheckedExample(example, outcome, failure, time.perf_counter() - began)


def against_reference(
    spec: ConvLSTMSpec,
    weights: Mapping[str, Array],
    x: Array,
    results: Sequence[tuple[Array, Array]],
    *,
    shapes: Mapping[str, Sequence[int]],
    durations: Array | None = None,
    states: Sequence[tuple[Array, Array]] | None = None,
    output: Array | None = None,
) -> UsageResult:
    """Compare the results of a line with the reference.

    `results` are the final (h, c), channels first, of the last layers and directions; `shapes` are those a user sees.
    """
    wide = {name: np.asarray(array, dtype=np.float64) for name, array in weights.items()}
    expected, final = reference.stack(spec, wide, np.asarray(x, np.float64), states, durations=durations)
    pairs = [
        (a, b)
        for got, want in zip(results, final[len(final) - len(results) :], strict=True)
        for a, b in zip(got, want, strict=True)
    ]
    if output is not None:
        assert isinstance(expected, np.ndarray)
        pairs.append((output, expected))
    described = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return UsageResult(described, max(error(np.asarray(a, np.float64), b) for a, b in pairs))
