"""A sample of the random cases on the active backend, against the reference (`convlstm.conformance.compare`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convlstm.conformance import compare as comparison
from convlstm.conformance.adapters.keras import run
from convlstm.conformance.narrow_layers import SMOOTH, family_of, narrow_case
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import random_case
from convlstm.keras.engines import BACKEND

# JAX compiles each case for seconds; its engine is held to the reference in tests of its own
MANY, FEW = (3, 2) if BACKEND == "jax" else (30, 10)


def hold(found: comparison.CaseErrors, dtype: str) -> None:
    assert not found.misses(dtype), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"


@pytest.mark.parametrize("seed", range(10_000, 10_000 + MANY))
def test_float64(seed: int) -> None:
    hold(comparison.compare(random_case(seed), run), "float64")


@pytest.mark.parametrize("seed", range(20_000, 20_000 + FEW))
def test_float32(seed: int) -> None:
    hold(comparison.compare(random_case(seed), run, "float32"), "float32")


@pytest.mark.parametrize("seed", range(30_000, 30_000 + FEW))
def test_forecasters(seed: int) -> None:
    hold(comparison.compare(random_forecast_case(seed), run), "float64")


@pytest.mark.parametrize("seed", range(40_000, 40_000 + FEW))
def test_held_outputs(seed: int) -> None:
    case = random_case(seed, masked_output="hold", duration_strategy="none", memory_decay=False, num_layers=1)
    steps = case.arrays["x"].shape[1]
    mask = np.random.default_rng(seed).random((len(case.arrays["x"]), steps)) < 0.5
    x = np.nan_to_num(case.arrays["x"])
    hold(comparison.compare(replace(case, mask=mask, arrays={**case.arrays, "x": x}), run), "float64")


@pytest.mark.parametrize("seed", [s for s in range(100, 105 if BACKEND == "jax" else 150) if family_of(s) != "any"])
def test_narrow_layers_in_bfloat16(seed: int) -> None:
    found = comparison.compare(narrow_case(seed, **SMOOTH), run, "bfloat16")
    assert found.value <= 5e-2, found.label
    assert found.derivative <= 1e-1, found.label


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_forecasters_in_low_precision(dtype: str) -> None:
    limit = {"bfloat16": 5e-2, "float16": 1e-2}[dtype]
    drawn = [case for case in map(random_forecast_case, range(30_000, 30_020)) if case.spec.encoder.norm == "none"]
    for case in drawn[:FEW]:
        assert comparison.compare(case, run, dtype).value <= limit
