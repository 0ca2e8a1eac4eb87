"""Every strategy of the durations table by hand, memory decay, and gaps made from times."""

from __future__ import annotations

from math import exp, log, log1p, tanh
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.errors import ShapeError
from convlstm.reference.durations import retention, scale
from convlstm.spec.choices import DURATION_STRATEGIES
from convlstm.spec.durations import check_durations, durations_from_times
from convlstm.weights.canonical import initialise

R = (0.0, 1e-7, 1e-6, 0.2, 0.37, 0.5, 1.0, 2.0, 3.7, 50.0)
EPS = 1e-6


def layer(**options: Any) -> Any:
    return ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1, **options).layers[0]


def factors(weights: dict[str, np.ndarray] | None = None, *, r: Any = R, **options: Any) -> np.ndarray:
    spec = layer(**options)
    return scale(spec, weights or {}, np.array([r]) * spec.stack.reference_duration)[0]


@pytest.mark.parametrize("reference", [1.0, 300.0])
@pytest.mark.parametrize(
    ("strategy", "formula"),
    [
        ("none", lambda r: 1.0),
        ("linear", lambda r: r),
        ("log", lambda r: log(r + EPS) + 1),
        ("log1p", lambda r: log1p(r) / log(2)),
        ("scalar", lambda r: max(r, EPS) ** 0.7),
    ],
)
def test_the_table(strategy: str, formula: Any, reference: float) -> None:
    weights = {"duration.weight": np.array(0.7)}
    given = factors(weights, duration_strategy=strategy, reference_duration=reference)
    # r is made by a product and a quotient here: one rounding, seen through log's slope at r + ε
    np.testing.assert_allclose(given.ravel(), [formula(r) for r in R], rtol=1e-13)


@pytest.mark.parametrize("strategy", ["exp", "mlp"])
@pytest.mark.parametrize(
    ("activation", "phi"),
    [("tanh", tanh), ("relu", lambda x: max(x, 0.0)), ("sigmoid", lambda x: 1 / (1 + exp(-x))), ("identity", float)],
)
def test_the_network_by_hand(strategy: str, activation: str, phi: Any) -> None:
    weights = {
        "duration.0.weight": np.array([[0.5], [-1.5]]),
        "duration.0.bias": np.array([0.1, 0.2]),
        "duration.1.weight": np.array([[1.0, -2.0], [0.3, 0.4]]),
        "duration.1.bias": np.array([0.05, -0.06]),
    }
    damping = {"duration_damping": 0.3} if strategy == "exp" else {}
    given = factors(
        weights,
        duration_strategy=strategy,
        duration_hidden=2,
        duration_activation=activation,
        duration_features="channel",
        duration_eps=0.5,
        **damping,
    )
    for row, r in zip(given, R, strict=True):
        ell = log(max(r, 0.5))
        a, b = phi(0.5 * ell + 0.1), phi(-1.5 * ell + 0.2)
        s = (a - 2 * b + 0.05, 0.3 * a + 0.4 * b - 0.06)
        expected = [exp(0.3 * n) if strategy == "exp" else 1 + n for n in s]
        np.testing.assert_allclose(row, expected, rtol=1e-14)


@pytest.mark.parametrize("strategy", DURATION_STRATEGIES)
def test_neutral_at_the_reference_duration_when_training_starts(strategy: str) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1, duration_strategy=strategy)
    own = {key.split(".", 3)[3]: array for key, array in initialise(spec, 0).items()}
    at_one = scale(spec.layers[0], own, np.array([[1.0]])).ravel()
    if strategy == "log":
        assert at_one == pytest.approx([1.0 + 1e-6], abs=1e-12)  # neutral to ε, as the contract says
    else:
        assert (at_one == 1.0).all()


def test_learned_strategies_start_neutral() -> None:
    for strategy in ("scalar", "exp", "mlp"):
        spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1, duration_strategy=strategy)
        own = {key.split(".", 3)[3]: array for key, array in initialise(spec, 0).items()}
        assert (scale(spec.layers[0], own, np.array([R])) == 1.0).all()


def test_a_function_of_the_relative_duration() -> None:
    given = factors(duration_strategy=np.sqrt, reference_duration=4.0)
    np.testing.assert_allclose(given.ravel(), np.sqrt(R), rtol=1e-15)


def test_row_alone_has_the_factor_it_has_in_a_batch() -> None:
    spec = layer(duration_strategy="mlp", duration_hidden=3)
    random = np.random.default_rng(0)
    shapes = {"duration.0.weight": (3, 1), "duration.0.bias": 3, "duration.1.weight": (1, 3), "duration.1.bias": 1}
    weights = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    batch = np.array([[1.0], [2.0], [4.0], [8.0]])
    together = scale(spec, weights, batch)
    for n in range(4):
        np.testing.assert_allclose(scale(spec, weights, batch[n : n + 1]), together[n : n + 1], rtol=1e-15)


def test_retention_by_hand() -> None:
    spec = layer(memory_decay=True, reference_duration=2.0)
    w = np.array([-3.0, 0.5])
    kept = retention(spec, {"memory_decay": w}, np.array([[0.0, 2.0, 4.0, 7.0]]))[0]
    for row, q in zip(kept, (0.0, 1.0, 2.0, 3.5), strict=True):
        expected = [exp(-log(1 + exp(x)) * max(q - 1, 0)) for x in w]
        np.testing.assert_allclose(row, expected, rtol=1e-14)
    assert (kept[:2] == 1).all()


@pytest.mark.parametrize(
    ("mask", "reverse", "previous", "expected"),
    [
        (None, False, None, [5, 5, 10, 5]),
        (None, True, None, [5, 10, 5, 5]),
        (None, False, -7.0, [7, 5, 10, 5]),
        (None, True, 26.0, [5, 10, 5, 6]),
        ([1, 0, 1, 1], False, None, [5, None, 15, 5]),  # gaps add up over masked steps
        ([1, 0, 1, 1], True, None, [15, None, 5, 5]),
        ([0, 1, 1, 0], False, None, [None, 5, 10, None]),  # Δ0 at the first valid step
        ([0, 1, 1, 0], False, -7.0, [None, 12, 10, None]),
        ([0, 1, 1, 0], True, None, [None, 10, 5, None]),
    ],
)
def test_gaps_from_times(mask: Any, reverse: bool, previous: float | None, expected: list) -> None:
    valid = None if mask is None else np.array([mask], dtype=bool)
    gaps = durations_from_times(
        np.array([[0.0, 5.0, 15.0, 20.0]]),
        valid,
        reverse=reverse,
        previous=None if previous is None else np.array([previous]),
        reference_duration=5.0,
    )
    for gap, wanted in zip(gaps[0], expected, strict=True):
        assert wanted is None or gap == wanted


def test_gaps_of_a_stream_continue_those_of_its_first_part() -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(1, 9, (2, 6)), axis=1)
    whole = durations_from_times(times)
    parts = [durations_from_times(times[:, :4]), durations_from_times(times[:, 4:], previous=times[:, 3])]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_times_of_other_axes_are_refused(refused) -> None:
    for times, mask in ((np.zeros(3), None), (np.zeros((1, 3)), np.ones((1, 2), dtype=bool))):
        with refused(ShapeError, "times"):
            durations_from_times(times, mask)


def test_bad_values_are_named_with_their_place(refused) -> None:
    check_durations("gaps", np.array([[-1.0, 2.0]]), np.array([[False, True]]))
    for bad in (-1e-9, np.nan, np.inf, -np.inf):
        with refused(ShapeError, "gaps"):
            check_durations("gaps", np.array([[1.0, bad]]))
    with pytest.raises(ShapeError, match=r"got -3 at \(1, 0\)"):
        check_durations("durations", np.array([[1.0], [-3.0]]))
