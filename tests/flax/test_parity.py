"""A sample of what `make parity` runs in full: pure functions, as every face calls them, against the reference.

Each case is compiled for about a second, so there are few, and those in float64 are chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from convlstm.conformance import compare as parity
from convlstm.conformance.adapters.flax import run
from convlstm.conformance.derivatives import COMPLEX_STEP, loss_weights
from convlstm.conformance.narrow_layers import SMOOTH, family_of, narrow_case
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import SMALL, random_case, reference_arrays
from convlstm.flax import State, from_canonical, functional
from convlstm.spec import options as vocabulary

pytestmark = pytest.mark.usefixtures("x64")

DETERMINISTIC = {"input_dropout": 0.0, "recurrent_dropout": 0.0, "zoneout_h": 0.0, "zoneout_c": 0.0}


CHOSEN = (10_067, 10_070, 10_080, 10_087, 10_136, 10_185, 10_187, 10_200, 10_247)
"""Seeds whose layers take between them every value of every option."""

VALUES: dict[str, tuple[Any, ...]] = {
    "spatial_dims": (1, 2, 3),
    "num_layers": (1, 2, 3),
    "bias": (False, True),
    "memory_decay": (False, True),
    "activation": vocabulary.ACTIVATIONS,
    "recurrent_activation": vocabulary.RECURRENT_ACTIVATIONS,
    "peephole": vocabulary.PEEPHOLES,
    "norm": vocabulary.NORMS,
    "direction": vocabulary.DIRECTIONS,
    "merge": vocabulary.MERGES,
    "masked_output": vocabulary.MASKED_OUTPUTS,
    "duration_strategy": vocabulary.DURATION_STRATEGIES,
    "duration_activation": vocabulary.DURATION_ACTIVATIONS,
    "duration_features": (1, "channel"),
}


def hold(found: parity.Found, dtype: str) -> None:
    assert not found.misses(dtype), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"


def test_the_chosen_layers_take_every_value_of_every_option() -> None:
    cases = [random_case(seed) for seed in CHOSEN]
    for name, values in VALUES.items():
        assert {getattr(case.spec, name) for case in cases} == set(values), name
    for rate in ("dropout", "input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c"):
        assert any(case.masks is not None and getattr(case.spec, rate) for case in cases), rate
    assert {mode for case in cases for mode in case.spec.boundary} == {"zeros", "replicate", "reflect", "circular"}
    assert {case.arrays["x"].shape[1] for case in cases} >= {0, 1}
    assert any(case.mask is not None and np.isnan(case.arrays["x"]).any() for case in cases)


@pytest.mark.parametrize("seed", CHOSEN)
def test_layer_in_float64(seed: int) -> None:
    hold(parity.compare(random_case(seed), run, "float64"), "float64")


@pytest.mark.parametrize("seed", range(20_000, 20_004))
def test_layer_in_float32(seed: int) -> None:
    hold(parity.compare(random_case(seed), run, "float32"), "float32")


@pytest.mark.parametrize("seed", range(10_000, 10_004))
def test_forecaster_in_float64(seed: int) -> None:
    hold(parity.compare(random_forecast_case(seed), run, "float64"), "float64")


@pytest.mark.parametrize("seed", range(20_000, 20_002))
def test_forecaster_in_float32(seed: int) -> None:
    hold(parity.compare(random_forecast_case(seed), run, "float32"), "float32")


@pytest.mark.parametrize("strategy", ["none", "exp", "mlp"])
def test_gradients_element_by_element(strategy: str) -> None:
    case = random_case(40_000, duration_strategy=strategy, **SMALL)
    expected = reference_arrays(case)
    factors = loss_weights(case, expected)
    _, found = run(case, "float64", factors)
    for name, array in case.arrays.items():
        for place in np.ndindex(array.shape):
            moved = np.array(array, dtype=complex)
            moved[place] += 1j * COMPLEX_STEP
            again = reference_arrays(case, {**case.arrays, name: moved})
            wanted = sum(np.sum(factors[key] * value.imag) for key, value in again.items()) / COMPLEX_STEP
            assert found[name][place] == pytest.approx(wanted, abs=1e-12, rel=1e-12), f"{name}{place}"


@pytest.mark.parametrize(("dtype", "limit"), [(jnp.bfloat16, 5e-2), (jnp.float16, 1e-2)], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("seed", range(50_000, 50_003))
def test_low_precision(dtype: jnp.dtype, limit: float, seed: int) -> None:
    """Weights and inputs are rounded first; c stays in float32 (limits: CONTRACT, Precision)."""
    case = random_case(
        seed, norm="none", direction="forward", duration_strategy="none", memory_decay=False, **DETERMINISTIC
    )
    rounded = {name: np.float64(jnp.asarray(array, dtype)) for name, array in case.arrays.items()}
    case = replace(case, arrays=rounded, masks=None, dropout=None)
    expected = reference_arrays(case)
    params = from_canonical(case.spec, parity.weights_of(case), dtype)
    states = State(
        *(
            tuple(jnp.asarray(np.moveaxis(rounded[f"{part}.{n}"], 1, -1), dtype) for n in range(case.spec.depth))
            for part in "hc"
        )
    )
    x = jnp.asarray(np.moveaxis(rounded["x"], 2, -1), dtype)
    carry, output = functional.layer(case.spec, params, x, states, mask=case.mask)
    assert output.dtype == dtype
    assert parity.error(np.moveaxis(np.float64(output), -1, 2), expected["output"]) <= limit
    for n in range(case.spec.depth):
        assert carry[0][n].dtype == dtype
        assert carry[1][n].dtype == jnp.float32
        assert parity.error(np.moveaxis(np.float64(carry[1][n]), -1, 1), expected[f"c.{n}"]) <= limit


@pytest.mark.parametrize("seed", range(60_000, 60_003))
def test_nothing_behind_a_mask_has_a_gradient(seed: int) -> None:
    case = random_case(seed)
    case = replace(case, mask=np.zeros(case.arrays["x"].shape[:2], dtype=bool))
    for name in ("x", "durations", "gaps.forward", "gaps.reverse"):
        if name in case.arrays:
            case.arrays[name][...] = np.inf
    expected = parity.expect(case)
    results, gradients = run(expected.case, "float64", expected.factors)
    assert parity.judge(expected, results, gradients).value == 0.0
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
    for name in {"x", "durations", "gaps.forward", "gaps.reverse"} & gradients.keys():
        assert not gradients[name].any(), name


@pytest.mark.parametrize("seed", [seed for seed in range(100, 105) if family_of(seed) != "any"])
def test_narrow_layers_in_bfloat16(seed: int) -> None:
    found = parity.compare(narrow_case(seed, **SMOOTH), run, "bfloat16")
    assert found.value <= 5e-2, found.label
    assert found.derivative <= 1e-1, found.label
