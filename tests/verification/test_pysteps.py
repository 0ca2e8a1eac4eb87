"""The same scores as pysteps, where it is installed. The other tests do not need it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from convlstm.verification import (
    case_sums,
    cut_table,
    fss_table,
    probability_decisions,
    reliability_table,
    roc_table,
    score_forecasts,
)
from convlstm.verification.ensembles import case_ensemble_sums
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


@pytest.fixture(scope="module")
def ensemble():
    """Five members (lead_time, realization, y, x) with ties at zero, and the observation (lead_time, y, x)."""
    rng = np.random.default_rng(4)
    signal = rng.gamma(0.5, 2.0, (1, 1, 48, 48))
    members = np.where(rng.random((1, 5, 48, 48)) < 0.6, signal * rng.gamma(2.0, 0.5, (1, 5, 48, 48)), 0.0)
    observed = np.where(rng.random((1, 48, 48)) < 0.6, signal[:, 0] * rng.gamma(2.0, 0.5, (1, 48, 48)), 0.0)
    members[0, 2, :3], observed[0, 10:12] = np.nan, np.nan
    return members, observed


def test_crps(ensemble):
    from pysteps.verification.probscores import CRPS

    members, observed = ensemble[0], ensemble[1] + 1e-9  # no observation equals a member: see the next test
    sums = case_ensemble_sums(members, observed)
    # the fair score of M members is that of the ensemble minus the mean distance of two members / (2 M)
    known = np.isfinite(observed[0]) & np.isfinite(members[0]).all(axis=0)
    inside = members[0][:, known]
    distance = abs(inside[:, None] - inside[None]).sum(axis=(0, 1)).mean() / 20
    crps = (sums["crps"] / sums["pixels"]).item()
    assert crps + distance / 10 == pytest.approx(CRPS(members[0], observed[0]))


def test_crps_of_pysteps_is_too_low_where_a_member_equals_the_observation():
    from pysteps.verification.probscores import CRPS

    # the distribution of 0 and 1 is 1/2 between them, so that the score is 1/4
    assert CRPS(np.array([[[0.0]], [[1.0]]]), np.array([[1e-9]])) == pytest.approx(0.25)
    assert CRPS(np.array([[[0.0]], [[1.0]]]), np.array([[0.0]])) == 0.0
    assert case_ensemble_sums(np.array([[[[0.0]], [[1.0]]]]), np.array([[[0.0]]]))["crps"].item() == pytest.approx(0.0)


def test_rank_histogram_without_ties():
    from pysteps.verification.ensscores import rankhist

    rng = np.random.default_rng(6)
    members, observed = rng.gamma(0.5, 2.0, (1, 5, 48, 48)) + 0.2, rng.gamma(0.5, 2.0, (1, 48, 48)) + 0.2
    counts = case_ensemble_sums(members, observed, ranked_from=0.1)["ranks"].values[0]
    assert counts.tolist() == rankhist(members[0], observed[0], X_min=0.1, normalize=False).tolist()


def test_rank_histogram(ensemble):
    from pysteps.verification.ensscores import rankhist

    members, observed = ensemble
    counts = case_ensemble_sums(members, observed, ranked_from=0.1)["ranks"].values[0]
    np.random.seed(0)  # pysteps draws the ranks among ties from the global generator
    expected = rankhist(members[0], observed[0], X_min=0.1, normalize=False)
    assert counts.sum() == expected.sum()
    # the ranks without ties are the same; those among ties are drawn
    assert (abs(counts - expected) < 4 * np.sqrt(expected)).all()


def test_roc_curve():
    from pysteps.verification.probscores import ROC_curve

    rng = np.random.default_rng(5)
    chance = rng.integers(0, 11, (1, 1, 1, 40, 40)) / 10
    observation = np.where(rng.random((1, 1, 40, 40)) < chance[:, :, 0], 3.0, 0.0)
    coords = {"lead_time": [5.0]}
    probability = xr.DataArray(chance, dims=(*DIMS[:2], "threshold", *DIMS[2:]), coords=coords | {"threshold": [1.0]})
    decisions = probability_decisions("m", probability, xr.DataArray(observation, dims=DIMS, coords=coords), members=10)
    # pysteps divides 0 to 1 into 10 cuts; its event is a probability at or above the cut
    # (0.30000000000000004 is one of its cuts)
    pofd, pod, area = ROC_curve(chance[0, 0, 0] + 1e-9, observation[0, 0], 1.0, n_prob_thrs=11, compute_area=True)
    table = cut_table(decisions)
    assert table["pod"].tolist() == pytest.approx(pod[1:])
    assert table["pofd"].tolist() == pytest.approx(pofd[1:])
    assert roc_table(decisions)["value"].item() == pytest.approx(area)
