"""The fused implementation and low precision of PyTorch against the reference, over random configurations."""

from __future__ import annotations

from dataclasses import replace
from itertools import count, islice

import pytest
import torch

from convlstm.conformance.adapters.torch import run, run_tensors
from convlstm.conformance.compare import error, rounded
from convlstm.conformance.random_forecasters import random_forecast_case, reference_forecast
from convlstm.conformance.random_layers import common_case, random_case, reference_arrays
from convlstm.engine.torch import fused as torch_fused

DETERMINISTIC = {"input_dropout": 0.0, "recurrent_dropout": 0.0, "zoneout_h": 0.0, "zoneout_c": 0.0}


# a norm over nearly equal values magnifies the rounding of its input without bound
WITHOUT_NORM = [s for s in range(30_000, 30_020) if random_forecast_case(s).spec.encoder.norm == "none"][:8]
LOW_PRECISION = [("bfloat16", 5e-2), ("float16", 1e-2)]


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


@pytest.mark.parametrize(("dtype", "limit"), LOW_PRECISION)
@pytest.mark.parametrize("seed", range(50_000, 50_015))
def test_layers_in_low_precision(dtype: str, limit: float, seed: int) -> None:
    """Weights and inputs are rounded first; c stays in float32 (limits: docs/contract.md, Precision)."""
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
