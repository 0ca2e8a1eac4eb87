"""MLX in low precision and with groups against the reference; the other random cases are in `tests/conformance`."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest

from convlstm.conformance.adapters.mlx import build, leaves_of, run, run_arrays
from convlstm.conformance.compare import AnyCase, compare, error, reference_of, rounded
from convlstm.conformance.derivatives import loss_weights
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import random_case, reference_arrays

DETERMINISTIC = {"input_dropout": 0.0, "recurrent_dropout": 0.0, "zoneout_h": 0.0, "zoneout_c": 0.0}
# a norm over nearly equal values magnifies the rounding of its input without bound
WITHOUT_NORM = list(islice((s for s in range(99) if random_forecast_case(s).spec.encoder.norm == "none"), 4))


def hold(case: AnyCase, dtype: str) -> None:
    found = compare(case, run, dtype)
    assert not found.misses(dtype), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_groups(dims: int, groups: int, dtype: str) -> None:
    hold(random_case(7, spatial_dims=dims, in_channels=6, hidden_channels=[6], groups=[groups], norm="none"), dtype)


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 5e-2), ("float16", 1e-2)])
@pytest.mark.parametrize("seed", range(50_000, 50_006))
def test_low_precision(dtype: str, limit: float, seed: int) -> None:
    """Weights and inputs are rounded first; c stays in float32 (limits: docs/contract.md, Precision)."""
    case = rounded(random_case(seed, norm="none", **DETERMINISTIC), dtype)
    case = replace(case, masks=None, dropout=None)
    kind = getattr(mx, dtype)
    results = run_arrays(case, build(case, kind), leaves_of(case, kind))
    assert {name: value.dtype for name, value in results.items()} == {
        name: mx.float32 if name.startswith("c.") else kind for name in results
    }
    expected = reference_arrays(case)
    found, gradients = run(case, dtype, loss_weights(case, expected))
    for name, value in expected.items():
        assert error(found[name], value) <= limit, name
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 5e-2), ("float16", 1e-2)])
@pytest.mark.parametrize("seed", WITHOUT_NORM)
def test_low_precision_of_a_forecaster(dtype: str, limit: float, seed: int) -> None:
    case = rounded(random_forecast_case(seed), dtype)
    expected = reference_of(case)(case)
    found, _ = run(case, dtype, loss_weights(case, expected))
    assert error(found["forecast"], expected["forecast"]) <= limit


def test_float64_is_exact_beside_float32() -> None:
    """MLX's own float64 convolution, exp and sigmoid would show here: they are right to 1e-6 or so."""
    case = random_case(3, norm="none", kernel_size=3)
    assert compare(case, run, "float64").value < 1e-13 < compare(case, run, "float32").value
