"""PyTorch against the reference: layers and forecasters called as a user calls them, over random configurations.

A sample of what `make parity` runs: seeds 0 to 2000 of every family hold the contract's targets.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
import torch

from convlstm.conformance.adapters.torch import gradients, run, run_tensors
from convlstm.conformance.compare import error, rounded
from convlstm.conformance.derivatives import COMPLEX_STEP, loss_weights
from convlstm.conformance.random_forecasters import random_forecast_case, reference_forecast
from convlstm.conformance.random_layers import SMALL, common_case, random_case, reference_arrays
from convlstm.engine.torch import fused as torch_fused

DETERMINISTIC = {"input_dropout": 0.0, "recurrent_dropout": 0.0, "zoneout_h": 0.0, "zoneout_c": 0.0}


# a norm over nearly equal values magnifies the rounding of its input without bound
WITHOUT_NORM = [s for s in range(30_000, 30_020) if random_forecast_case(s).spec.encoder.norm == "none"][:8]
LOW_PRECISION = [("bfloat16", 5e-2), ("float16", 1e-2)]


@pytest.mark.parametrize("seed", range(10_000, 10_120))
def test_layers_in_float64(hold, seed: int) -> None:
    hold(random_case(seed), run, "float64")


@pytest.mark.parametrize("seed", range(20_000, 20_040))
def test_layers_in_float32(hold, seed: int) -> None:
    hold(random_case(seed), run, "float32")


@pytest.mark.parametrize("seed", range(10_000, 10_050))
def test_forecasters_in_float64(hold, seed: int) -> None:
    hold(random_forecast_case(seed), run, "float64")


@pytest.mark.parametrize("seed", range(20_000, 20_015))
def test_forecasters_in_float32(hold, seed: int) -> None:
    hold(random_forecast_case(seed), run, "float32")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_fused_path(hold, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    quick = torch_fused.sequence
    monkeypatch.setattr(torch_fused, "sequence", lambda *a, **k: (calls.append(1), quick(*a, **k))[1])
    drawn = (common_case(seed) for seed in count(30_000))
    for case in islice((case for case in drawn if case.mask is None and case.arrays["x"].shape[1]), 30):
        before = len(calls)
        hold(case, run, dtype)
        assert len(calls) - before == case.spec.depth * len(case.spec.directions)


@pytest.mark.parametrize("strategy", ["none", "log", "scalar", "exp", "mlp"])
@pytest.mark.parametrize("seed", range(40_000, 40_004))
def test_gradients_element_by_element(strategy: str, seed: int) -> None:
    case = random_case(seed, duration_strategy=strategy, **SMALL)
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


@pytest.mark.parametrize(("dtype", "limit"), LOW_PRECISION)
@pytest.mark.parametrize("seed", range(50_000, 50_015))
def test_layers_in_low_precision(dtype: str, limit: float, seed: int) -> None:
    """Weights and inputs are rounded first; c stays in float32 (limits: CONTRACT, Precision)."""
    case = rounded(random_case(seed, norm="none", **DETERMINISTIC), dtype)
    case = replace(case, masks=None, dropout=None)
    expected = reference_arrays(case)
    results, leaves = run_tensors(case, getattr(torch, dtype))
    for name, value in results.items():
        assert value.dtype == (torch.float32 if name.startswith("c.") else getattr(torch, dtype))
        assert error(value.detach().double().numpy(), expected[name]) <= limit, name
    sum(value.float().sum() for value in results.values()).backward()
    for name, leaf in leaves.items():
        assert leaf.grad is None or (leaf.grad.dtype == leaf.dtype and leaf.grad.isfinite().all()), name


@pytest.mark.parametrize(("dtype", "limit"), LOW_PRECISION)
@pytest.mark.parametrize("seed", WITHOUT_NORM)
def test_forecasters_in_low_precision(dtype: str, limit: float, seed: int) -> None:
    case = rounded(random_forecast_case(seed), dtype)
    forecast = run_tensors(case, getattr(torch, dtype))[0]["forecast"]
    assert forecast.dtype == getattr(torch, dtype)
    assert error(forecast.detach().double().numpy(), reference_forecast(case)["forecast"]) <= limit


@pytest.mark.parametrize("seed", range(60_000, 60_030))
def test_nothing_behind_a_mask_has_a_gradient(seed: int) -> None:
    case = random_case(seed)
    if case.mask is None:
        case = replace(case, mask=np.zeros(case.arrays["x"].shape[:2], dtype=bool))
        for name in ("x", "durations", "gaps.forward", "gaps.reverse"):
            if name in case.arrays:
                case.arrays[name][...] = np.inf
    expected = reference_arrays(case)
    results, leaves = run_tensors(case, torch.float64)
    found = gradients(case, loss_weights(case, expected), results, leaves)
    for name, gradient in found.items():
        assert np.isfinite(gradient).all(), name
    for name in {"x", "durations", "gaps.forward", "gaps.reverse"} & found.keys():
        assert not found[name][~case.mask].any(), name
