"""The same scores as pysteps, where it is installed. The other tests do not need it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from convlstm.verification import case_sums, fss_table, reliability_table, score_forecasts
from convlstm.verification.spectra import make_grid, radial_power, transform

DIMS = ("init_time", "lead_time", "y", "x")


@pytest.fixture(scope="module", autouse=True)
def pysteps():
    """Import pysteps, which prints the path of its configuration and may warn about optional parts."""
    return pytest.importorskip("pysteps")


@pytest.fixture(scope="module")
def rain():
    """One forecast and observation on 48 × 48 cells, as arrays with one case and one lead time."""
    rng = np.random.default_rng(0)
    observation = np.where(rng.random((48, 48)) < 0.4, rng.gamma(1.0, 2.0, (48, 48)), 0.0)
    forecast = observation * rng.gamma(2.0, 0.5, (48, 48)) + rng.normal(0, 0.4, (48, 48)).clip(0)
    coords = {"init_time": [0], "lead_time": [5.0]}
    return [xr.DataArray(field[None, None], dims=DIMS, coords=coords) for field in (forecast, observation)]


@pytest.mark.parametrize("threshold", [0.1, 1.0, 5.0])
def test_categorical_scores(rain, threshold):
    from pysteps.verification.detcatscores import det_cat_fct

    forecast, observation = rain
    table = score_forecasts(forecast.expand_dims(method=["m"]), observation, thresholds=[threshold])
    found = table.set_index("score")["value"]
    names = {"csi": "CSI", "hss": "HSS", "ets": "ETS", "pod": "POD", "far": "FAR", "bias": "BIAS"}
    # pysteps takes an event as a value above the threshold; no value here equals one
    expected = det_cat_fct(forecast.values[0, 0], observation.values[0, 0], threshold, list(names.values()))
    assert {name: found[name] for name in names} == pytest.approx({n: expected[theirs] for n, theirs in names.items()})


@pytest.mark.parametrize("window", [1, 5])
def test_fractions_skill_score_away_from_edges(window):
    """pysteps pads the edges with zeros, so events are kept away from them; even widths differ by half a cell."""
    from pysteps.verification.spatialscores import fss

    rng = np.random.default_rng(1)
    fields = np.zeros((2, 64, 64))
    fields[:, 8:-8, 8:-8] = rng.gamma(0.4, 2.0, (2, 48, 48))
    forecast, observation = (xr.DataArray(f[None, None], dims=DIMS, coords={"lead_time": [5.0]}) for f in fields)
    table = fss_table(case_sums(forecast.expand_dims(method=["m"]), observation, thresholds=[1.0]))
    value = table.query("window == @window")["value"].item()
    assert value == pytest.approx(fss(fields[0], fields[1], 1.0, window), rel=1e-9)


def test_reliability_diagram():
    from pysteps.verification.probscores import reldiag_accum, reldiag_compute, reldiag_init

    rng = np.random.default_rng(2)
    chance = rng.beta(0.7, 0.9, size=(5, 1, 1, 40, 40))
    observation = np.where(rng.random((5, 1, 40, 40)) < chance[:, :, 0], 3.0, 0.0)
    observation[1, 0, :4] = np.nan
    diagram = reldiag_init(1.0, n_bins=10, min_count=0)
    for case in range(5):
        reldiag_accum(diagram, chance[case, 0, 0], observation[case, 0])
    probability, frequency = reldiag_compute(diagram)
    coords = {"lead_time": [5.0]}
    table = reliability_table(
        {"m": xr.DataArray(chance, dims=(*DIMS[:2], "threshold", *DIMS[2:]), coords=coords | {"threshold": [1.0]})},
        xr.DataArray(observation, dims=DIMS, coords=coords),
    )
    assert table["probability"].tolist() == pytest.approx(probability.tolist())
    assert table["frequency"].tolist() == pytest.approx(frequency.tolist())
    assert table["pixels"].tolist() == diagram["sample_size"].tolist()


@pytest.mark.parametrize("size", [48, 49])
def test_radially_averaged_spectrum(size):
    from pysteps.utils.spectral import rapsd

    field = np.random.default_rng(3).gamma(0.5, size=(size, size))
    grid = make_grid(size, size)
    windowed = (field - field.mean()) * grid.window
    expected, frequency = rapsd(windowed, fft_method=np.fft, return_freq=True)
    found = radial_power(np.abs(transform(field, grid)) ** 2, grid)
    assert found.tolist() == pytest.approx(expected[1:].tolist())
    assert (1 / grid.wavelengths).tolist() == pytest.approx(frequency[1:].tolist())
