"""A sample of the random cases on the active backend, against the reference (`convlstm.contract.parity`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convlstm.contract import parity
from convlstm.contract.cases import random_case
from convlstm.contract.forecast_cases import random_forecast_case
from convlstm.keras.engines import BACKEND
from convlstm.keras.parity import run

# JAX compiles each case for seconds; its engine is held to the reference in tests of its own
MANY, FEW = (3, 2) if BACKEND == "jax" else (30, 10)


def hold(found: parity.Found, dtype: str) -> None:
    assert not found.misses(dtype), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"


@pytest.mark.parametrize("seed", range(10_000, 10_000 + MANY))
def test_float64(seed: int) -> None:
    hold(parity.compare(random_case(seed), run), "float64")


@pytest.mark.parametrize("seed", range(20_000, 20_000 + FEW))
def test_float32(seed: int) -> None:
    hold(parity.compare(random_case(seed), run, "float32"), "float32")


@pytest.mark.parametrize("seed", range(30_000, 30_000 + FEW))
def test_forecasters(seed: int) -> None:
    hold(parity.compare(random_forecast_case(seed), run), "float64")


@pytest.mark.parametrize("seed", range(40_000, 40_000 + FEW))
def test_held_outputs(seed: int) -> None:
    case = random_case(seed, masked_output="hold", duration_strategy="none", memory_decay=False, num_layers=1)
    steps = case.arrays["x"].shape[1]
    mask = np.random.default_rng(seed).random((len(case.arrays["x"]), steps)) < 0.5
    x = np.nan_to_num(case.arrays["x"])
    hold(parity.compare(replace(case, mask=mask, arrays={**case.arrays, "x": x}), run), "float64")
