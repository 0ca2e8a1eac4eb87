"""Call forms that people come from, each run as it was written and held to the reference.

A face lists its own in `convlstm/<face>/forms.py`; `convlstm doctor --seeds` runs them all.
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

DOCUMENTS = {
    "000": "Duration-Aware ConvLSTM (PyTorch, Keras, JAX)",
    "001": "ConvLSTM for MLX",
    "002": "Bidirectional-Conv-LSTM-PyTorch",
    "003": "ConvLSTM notebook (PyTorch)",
    "004": "ConvLSTM for MLX, with its wishes",
}
"""What each document is, by its number."""


@dataclass(frozen=True)
class Outcome:
    """What a form gave.

    Args:
        shapes: Of its results, in words.
        difference: Largest error of its results against the reference.
    """

    shapes: str
    difference: float


@dataclass(frozen=True)
class Form:
    """One call form.

    Args:
        document: Number of the document it stands in.
        line: The line, as a user writes it.
        run: Runs it and compares it.
    """

    document: str
    line: str
    run: Callable[[], Outcome]


@dataclass(frozen=True)
class Checked:
    """A form after it ran.

    Args:
        form: The form.
        outcome: What it gave, or None if it failed.
        failure: The error's line, or "".
        seconds: How long it took, building included.
    """

    form: Form
    outcome: Outcome | None
    failure: str
    seconds: float


def check(form: Form) -> Checked:
    """Run a form, and keep its error as a line."""
    began = time.perf_counter()
    try:
        outcome, failure = form.run(), ""
    except Exception as error:  # a report on every form, whatever it raises
        outcome, failure = None, f"{type(error).__name__}: {error}".splitlines()[0]
    return Checked(form, outcome, failure, time.perf_counter() - began)


def against_reference(
    spec: ConvLSTMSpec,
    weights: Mapping[str, Array],
    x: Array,
    results: Sequence[tuple[Array, Array]],
    *,
    came: Mapping[str, Sequence[int]],
    durations: Array | None = None,
    states: Sequence[tuple[Array, Array]] | None = None,
    output: Array | None = None,
) -> Outcome:
    """Compare what a form gave with the reference.

    Args:
        spec: The stack behind the form.
        weights: Its canonical arrays.
        x: Frames (batch, time, channel, *space).
        results: Final (h, c) that the form returned, channels first; the last ones of layer · D + direction.
        came: Shapes by name as the user of the form sees them, before anything was rearranged for the reference.
        durations: Δ (batch, time).
        states: Initial (h, c); None means zeros.
        output: The form's output (batch, time, channel, *grid), if it returns one.

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
    shapes = ", ".join(f"{name} {tuple(shape)}" for name, shape in came.items())
    return Outcome(shapes, max(error(np.asarray(a, np.float64), b) for a, b in pairs))
