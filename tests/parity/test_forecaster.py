"""Forecasters against the reference: both roll-outs, residual, peepholes, durations, decay, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convlstm.contract.forecast_cases import random_forecast_case, reference_forecast

# a norm over nearly equal values magnifies the rounding of its input without bound
WITHOUT_NORM = [s for s in range(30_000, 30_020) if random_forecast_case(s).spec.encoder.norm == "none"][:8]


@pytest.mark.parametrize("seed", range(10_000, 10_050))
def test_float64(parity, seed: int) -> None:
    found = parity.compare(random_forecast_case(seed), torch.float64, "forecaster")
    assert not found.misses(torch.float64), f"{found.value:.1e} {found.derivative:.1e}: {found.label}"


@pytest.mark.parametrize("seed", range(20_000, 20_015))
def test_float32(parity, seed: int) -> None:
    found = parity.compare(random_forecast_case(seed), torch.float32, "forecaster")
    assert not found.misses(torch.float32), f"{found.value:.1e} {found.derivative:.1e}: {found.label}"


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)], ids=str)
@pytest.mark.parametrize("seed", WITHOUT_NORM)
def test_low_precision(parity, dtype: torch.dtype, limit: float, seed: int) -> None:
    case = parity.rounded(random_forecast_case(seed), dtype)
    expected = reference_forecast(case)["forecast"]
    forecast = parity.forecaster_results(case, dtype)[0]["forecast"]
    assert forecast.dtype == dtype
    assert parity.error(forecast.detach().double().numpy(), expected) <= limit


def test_the_script_ends_well(parity, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["parity.py", "--cases", "5", "--start", "70000"])
    assert parity.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("layer,", "fused,", "forecaster,"))]
    monkeypatch.setattr(parity, "TARGETS", {torch.float64: (0.0, 0.0), torch.float32: (0.0, 0.0)})
    assert parity.main() == 1
    assert np.isfinite(parity.compare(random_forecast_case(1), torch.float64).derivative)
