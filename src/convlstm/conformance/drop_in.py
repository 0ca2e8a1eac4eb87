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
from convlstm.spec.stack import ConvLSTMSpec
from convlstm.spec.types import Array


@dataclass(frozen=True)
class UsageResult:
    """What a line gave.

    Args:
        shapes: Shapes of its results, in words.
        difference: Largest error of its results compared with the reference.
    """

    shapes: str
    difference: float


@dataclass(frozen=True)
class UsageExample:
    """One line of another project.

    Args:
        project: Where the line comes from.
        line: The line, as a user writes it.
        run: Runs it and compares it.
    """

    project: str
    line: str
    run: Callable[[], UsageResult]


@dataclass(frozen=True)
class CheckedExample:
    """A line after it ran.

    Args:
        example: The line.
        outcome: What it gave, or None if it failed.
        failure: The error's line, or "".
        seconds: How long it took, building included.
    """

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
    """Compare what a line gave with the reference.

    Args:
        spec: The stack of the layer.
        weights: Its canonical arrays.
        x: Frames (batch, time, channel, *space).
        results: Final (h, c) that the line returned, channels first; the last ones of layer · D + direction.
        shapes: Shapes by name as the user sees them, before anything was rearranged for the reference.
        durations: Δ (batch, time).
        states: Initial (h, c); None means zeros.
        output: The output (batch, time, channel, *grid), if the line returns one.

    Returns:
        The shapes, and the largest error.
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
