"""The random cases draw the whole option space, and complex steps give the derivatives."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.derivatives import directional_derivatives, directions, loss_weights
from convlstm.conformance.random_forecasters import random_forecast_case, reference_forecast
from convlstm.conformance.random_layers import Case, random_case, reference_arrays
from convlstm.spec import choices
from convlstm.spec.forecaster import OUTPUT_ACTIVATIONS, ROLLOUTS
from convlstm.spec.geometry import BOUNDARIES

SMOOTH = {"activation": "tanh", "recurrent_activation": "sigmoid"}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [random_case(seed) for seed in range(200)]


def test_every_word_is_drawn(cases: list[Case]) -> None:
    words = {
        "peephole": choices.PEEPHOLES,
        "activation": choices.ACTIVATIONS,
        "recurrent_activation": choices.RECURRENT_ACTIVATIONS,
        "norm": choices.NORMS,
        "direction": choices.DIRECTIONS,
        "merge": choices.MERGES,
        "masked_output": choices.MASKED_OUTPUTS,
        "duration_strategy": choices.DURATION_STRATEGIES,
        "duration_activation": choices.DURATION_ACTIVATIONS,
        "duration_features": (1, "channel"),
        "spatial_dims": (1, 2, 3),
        "num_layers": (1, 2, 3),
    }
    for name, allowed in words.items():
        assert {getattr(case.spec, name) for case in cases} == set(allowed), name
    assert {rule for case in cases for rule in case.spec.boundary} == set(BOUNDARIES)
    assert {type(p) for case in cases for p in case.spec.padding} == {str, tuple}


def test_every_option_departs_from_its_default(cases: list[Case]) -> None:
    plain = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1)
    for item in fields(ConvLSTMSpec):
        assert any(getattr(case.spec, item.name) != getattr(plain, item.name) for case in cases), item.name


def test_data_of_every_kind_is_drawn(cases: list[Case]) -> None:
    steps = {case.arrays["x"].shape[1] for case in cases}
    assert {0, 1, 12} <= steps
    assert {case.arrays["x"].shape[0] for case in cases} == {1, 2, 3}
    assert any(1 in case.arrays["x"].shape[3:] for case in cases)
    masks = [case.mask for case in cases if case.mask is not None and case.mask.size]
    assert any((~mask.any(axis=1)).any() and mask.any() for mask in masks)  # one row without a valid step among others
    assert any(not mask.any() for mask in masks)
    assert any(mask.all() for mask in masks)
    assert any(np.isnan(case.arrays["x"]).any() for case in cases)
    assert any((case.arrays["durations"] == 0).any() for case in cases if "durations" in case.arrays)
    assert any(case.masks is None for case in cases)
    assert any(not case.spec.in_channels and case.spec.depth > 1 for case in cases)
    assert any(case.masks is not None and case.dropout is not None for case in cases)


def test_nothing_masked_reaches_a_result_and_h_stays_small(cases: list[Case]) -> None:
    for case in cases[:60]:
        for name, value in reference_arrays(case).items():
            assert np.isfinite(value).all()
            assert name.startswith("c.") or np.abs(value).max(initial=0.0) < 10.0


def test_forecasters_of_every_kind_are_drawn() -> None:
    specs = [random_forecast_case(seed).spec for seed in range(200)]
    plain = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1))
    for item in fields(ForecasterSpec):
        assert any(getattr(spec, item.name) != getattr(plain, item.name) for spec in specs), item.name
    assert {spec.rollout for spec in specs} == set(ROLLOUTS)
    assert {spec.output_activation for spec in specs} == set(OUTPUT_ACTIVATIONS)
    assert {spec.encoder.duration_strategy for spec in specs} == set(choices.DURATION_STRATEGIES)
    assert {spec.encoder.peephole for spec in specs} == set(choices.PEEPHOLES)


def central_differences(case: Any, run: Any) -> list[float]:
    factors = loss_weights(case, run(case))
    found = []
    for direction in directions(case):
        losses = []
        for sign in (1, -1):
            moved = {name: a + sign * 1e-6 * direction[name] for name, a in case.arrays.items()}
            losses.append(sum(np.sum(factors[name] * value) for name, value in run(case, moved).items()))
        found.append((losses[0] - losses[1]) / 2e-6)
    return found


def _shifted(case: Any) -> Any:
    """Move durations away from 0 and gaps away from their kink at Δ0, where no difference quotient holds."""
    arrays = {name: a + 0.1 if name.startswith(("durations", "gaps", "lead")) else a for name, a in case.arrays.items()}
    return type(case)(**{item.name: getattr(case, item.name) for item in fields(case)} | {"arrays": arrays})


@pytest.mark.parametrize("seed", range(20))
def test_complex_steps_equal_central_differences(seed: int) -> None:
    case = _shifted(random_case(seed, **SMOOTH))
    # a central difference of step 1e-6 is right to about 1e-12 of its third derivative and 1e-10 of the loss
    np.testing.assert_allclose(
        directional_derivatives(case, reference_arrays),
        central_differences(case, reference_arrays),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize("seed", range(8))
def test_complex_steps_through_a_forecaster(seed: int) -> None:
    case = _shifted(random_forecast_case(seed))
    np.testing.assert_allclose(
        directional_derivatives(case, reference_forecast),
        central_differences(case, reference_forecast),
        rtol=1e-6,
        atol=1e-6,
    )


def test_a_sum_exactly_at_a_kink_has_derivative_zero() -> None:
    spec = ConvLSTMSpec(
        in_channels=1, hidden_channels=1, kernel_size=1, spatial_dims=1, activation="relu", duration_strategy="linear"
    )
    shape = (1, 1, 1)
    arrays = {f"layers.0.forward.{name}": np.zeros((4, 1, 1, 1)) for name in ("weight_ih", "weight_hh")}
    arrays |= {"layers.0.forward.bias": np.array([[1.0], [1.0], [2.0], [1.0]])}
    arrays |= {"x": np.ones((1, 1, *shape[1:])), "h.0": np.ones(shape), "c.0": np.zeros(shape)}
    arrays["durations"] = np.zeros((1, 1))  # c is exactly 0, and moves with the duration; h = o · relu(c)
    gate, seen = 1 / (1 + np.exp(-1.0)), []
    for seed in range(5):
        case = Case(seed, spec, arrays)
        factor = loss_weights(case, reference_arrays(case))["c.0"].item()
        slopes = [gate * (2.0 * d["durations"].item() + d["c.0"].item()) for d in directions(case)]
        np.testing.assert_allclose(
            directional_derivatives(case, reference_arrays), np.multiply(factor, slopes), rtol=1e-13
        )
        seen += slopes
    assert min(seen) < 0 < max(seen)
