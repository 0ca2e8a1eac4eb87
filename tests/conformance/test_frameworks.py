"""A sample of the random cases in each framework against the reference, called as a user calls them.

`make conformance` runs many more. JAX compiles each case for about a second, so it takes few, and those in float64
are chosen.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from convlstm.conformance.compare import Run, compare
from convlstm.conformance.derivatives import COMPLEX_STEP, loss_weights
from convlstm.conformance.narrow_layers import SMOOTH, family_of, narrow_case
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import SMALL, random_case, reference_arrays
from convlstm.spec import choices

LIBRARIES = {"torch": "torch", "mlx": "mlx.core", "flax": "flax"}
CHOSEN = (10_004, 10_011, 10_019, 10_023, 10_060, 10_083, 10_095, 10_194, 10_295)
"""Seeds whose layers take between them every value of every option."""

VALUES: dict[str, tuple[Any, ...]] = {
    "spatial_dims": (1, 2, 3),
    "num_layers": (1, 2, 3),
    "bias": (False, True),
    "memory_decay": (False, True),
    "activation": choices.ACTIVATIONS,
    "recurrent_activation": choices.RECURRENT_ACTIVATIONS,
    "peephole": choices.PEEPHOLES,
    "norm": choices.NORMS,
    "direction": choices.DIRECTIONS,
    "merge": choices.MERGES,
    "masked_output": choices.MASKED_OUTPUTS,
    "duration_strategy": choices.DURATION_STRATEGIES,
    "duration_activation": choices.DURATION_ACTIVATIONS,
    "duration_features": (1, "channel"),
}

Seeds = dict[tuple[str, str], Any]
LAYERS: Seeds = {
    ("torch", "float64"): range(10_000, 10_120),
    ("torch", "float32"): range(20_000, 20_040),
    ("mlx", "float64"): range(10_000, 10_040),
    ("mlx", "float32"): range(10_000, 10_040),
    ("flax", "float64"): CHOSEN,
    ("flax", "float32"): range(20_000, 20_004),
}
FORECASTERS: Seeds = {
    ("torch", "float64"): range(10_000, 10_050),
    ("torch", "float32"): range(20_000, 20_015),
    ("mlx", "float64"): range(10_000, 10_015),
    ("mlx", "float32"): range(10_000, 10_015),
    ("flax", "float64"): range(10_000, 10_004),
    ("flax", "float32"): range(20_000, 20_002),
}
STRATEGIES = ("none", "log", "scalar", "exp", "mlp")
ELEMENTS = {
    "torch": [(strategy, seed) for strategy in STRATEGIES for seed in range(40_000, 40_004)],
    "mlx": [(strategy, 40_000) for strategy in STRATEGIES],
    "flax": [(strategy, 40_000) for strategy in ("none", "exp", "mlp")],
}
MASKED = {"torch": range(60_000, 60_030), "mlx": range(60_000, 60_010), "flax": range(60_000, 60_003)}
NARROW = {"mlx": range(100, 130), "flax": range(100, 105)}


def cases(seeds: Seeds) -> list[tuple[str, str, int]]:
    return [(framework, dtype, seed) for (framework, dtype), chosen in seeds.items() for seed in chosen]


def run_in(framework: str) -> Run:
    """Return how a case runs in a framework; skip where it is not installed."""
    pytest.importorskip(LIBRARIES[framework])
    run: Run = import_module(f"convlstm.conformance.adapters.{framework}").run
    return run


def test_chosen_layers_take_every_value_of_every_option() -> None:
    chosen = [random_case(seed) for seed in CHOSEN]
    for name, values in VALUES.items():
        assert {getattr(case.spec, name) for case in chosen} == set(values), name
    for rate in ("dropout", "input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c"):
        assert any(case.masks is not None and getattr(case.spec, rate) for case in chosen), rate
    assert {mode for case in chosen for mode in case.spec.boundary} == {"zeros", "replicate", "reflect", "circular"}
    assert {case.arrays["x"].shape[1] for case in chosen} >= {0, 1}
    assert any(case.mask is not None and np.isnan(case.arrays["x"]).any() for case in chosen)
    assert any(case.spec.in_channels == 0 for case in chosen)
    assert any(size > 1 for case in chosen for layer in case.spec.layers for size in layer.recurrent_dilation)


@pytest.mark.parametrize(("framework", "dtype", "seed"), cases(LAYERS))
def test_layers(framework: str, dtype: str, seed: int, hold) -> None:
    hold(random_case(seed), run_in(framework), dtype)


@pytest.mark.parametrize(("framework", "dtype", "seed"), cases(FORECASTERS))
def test_forecasters(framework: str, dtype: str, seed: int, hold) -> None:
    hold(random_forecast_case(seed), run_in(framework), dtype)


@pytest.mark.parametrize(
    ("framework", "strategy", "seed"), [(framework, *case) for framework, some in ELEMENTS.items() for case in some]
)
def test_gradients_element_by_element(framework: str, strategy: str, seed: int) -> None:
    run, case = run_in(framework), random_case(seed, duration_strategy=strategy, **SMALL)
    factors = loss_weights(case, reference_arrays(case))
    _, gradients = run(case, "float64", factors)
    for name, array in case.arrays.items():
        for place in np.ndindex(array.shape):
            moved = np.array(array, dtype=complex)
            moved[place] += 1j * COMPLEX_STEP
            again = reference_arrays(case, {**case.arrays, name: moved})
            wanted = sum(np.sum(factors[key] * value.imag) for key, value in again.items()) / COMPLEX_STEP
            assert gradients[name][place] == pytest.approx(wanted, abs=1e-12, rel=1e-12), f"{name}{place}"


@pytest.mark.parametrize(("framework", "seed"), [(one, seed) for one, seeds in MASKED.items() for seed in seeds])
def test_masked_steps_have_no_gradient(framework: str, seed: int) -> None:
    run, case = run_in(framework), random_case(seed)
    names = {"x", "durations", "gaps.forward", "gaps.reverse"} & case.arrays.keys()
    if case.mask is None or framework == "flax":
        case = replace(case, mask=np.zeros(case.arrays["x"].shape[:2], dtype=bool))
        for name in names:
            case.arrays[name][...] = np.inf
    expected = reference_arrays(case)
    results, gradients = run(case, "float64", loss_weights(case, expected))
    for name, array in expected.items():
        np.testing.assert_allclose(results[name], array, rtol=0, atol=1e-12, err_msg=name)
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
    for name in names & gradients.keys():
        assert not gradients[name][~case.mask].any(), name


@pytest.mark.parametrize(
    ("framework", "seed"), [(one, seed) for one, seeds in NARROW.items() for seed in seeds if family_of(seed) != "any"]
)
def test_narrow_layers_in_bfloat16(framework: str, seed: int) -> None:
    found = compare(narrow_case(seed, **SMOOTH), run_in(framework), "bfloat16")
    assert found.value <= 5e-2, found.label
    assert found.derivative <= 1e-1, found.label
