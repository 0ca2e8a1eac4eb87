"""Scores of ensembles: equations in plain NumPy, forecasts with a known answer, and missing values."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.errors import DataError
from convlstm.verification import ensemble_sums, ensemble_table, member_share, rank_table
from convlstm.verification.ensembles import ENSEMBLE_DIMS, _is_flat, _rank_scores, case_ensemble_sums, join_cases


def arrays(members, observed, leads=(5.0,)):
    """Name the axes of members (case, lead, member, y, x) and observations (case, lead, y, x)."""
    coords = {"lead_time": list(leads)}
    dims = [dim for dim in ENSEMBLE_DIMS if dim != "realization"]
    return xr.DataArray(members, dims=ENSEMBLE_DIMS, coords=coords), xr.DataArray(observed, dims=dims, coords=coords)


def reliable(spread=1.0, shift=0.0, members=9, cases=24, seed=0):
    """Draw the observation and the members of each case from one normal distribution, which varies by cell."""
    random = np.random.default_rng(seed)
    mean = random.normal(size=(cases, 1, 1, 12, 12)) * 3
    ensemble = mean + shift + spread * random.normal(size=(cases, 1, members, 12, 12))
    return arrays(ensemble, (mean + random.normal(size=mean.shape))[:, :, 0])


def scores_of(pair, **options):
    return ensemble_table({"m": ensemble_sums(*pair, **options)}).set_index("score")


def test_scores_are_those_of_their_equations():
    ensemble, truth = reliable(spread=0.7, shift=0.4, members=5, cases=3)
    x, y = ensemble.values[:, 0], truth.values[:, 0]  # (case, member, y, x), (case, y, x)
    pairs = abs(x[:, :, None] - x[:, None]).sum(axis=(1, 2))
    crps = (abs(x - y[:, None]).mean(axis=1) - pairs / (2 * 5 * 4)).mean()
    error = np.sqrt(((x.mean(axis=1) - y) ** 2).mean())
    spread = np.sqrt(6 / 5 * x.var(axis=1, ddof=1).mean())
    found = scores_of((ensemble, truth))["value"]
    assert found["crps"] == pytest.approx(crps)
    assert found["error"] == pytest.approx(error)
    assert found["spread"] == pytest.approx(spread)
    assert found["spread_error_ratio"] == pytest.approx(spread / error)
    assert found["mean_error"] == pytest.approx((x.mean(axis=1) - y).mean())
    rank = (x < y[:, None]).sum(axis=1)
    place = 2 * rank / 5 - 1
    assert found["rank_bias"] == pytest.approx(place.mean())
    assert found["rank_convexity"] == pytest.approx((place**2).mean() / np.mean([1, 0.36, 0.04] * 2) - 1)
    table = rank_table({"m": ensemble_sums(ensemble, truth)})
    assert table["share"].tolist() == pytest.approx((6 * np.bincount(rank.ravel(), minlength=6) / rank.size).tolist())


def test_a_reliable_ensemble_has_a_flat_histogram_and_a_spread_equal_to_its_error():
    found = scores_of(reliable(members=4, cases=60))
    assert found.loc["spread_error_ratio", "value"] == pytest.approx(1, abs=0.03)
    # for M members the expected fair CRPS of normal distributions with one variance is σ / √π
    assert found.loc["crps", "value"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.03)
    for name in ("rank_bias", "rank_convexity"):
        assert found.loc[name, "lower"] < 0 < found.loc[name, "upper"], name
    shares = rank_table({"m": ensemble_sums(*reliable(members=4, cases=60))})
    assert (abs(shares["share"] - 1) < 0.08).all()


def test_few_reliable_ensembles_are_called_not_flat():
    random = np.random.default_rng(1)
    shares = np.full(6, 1 / 6)
    verdicts = []
    for _ in range(200):
        ranks = xr.DataArray(random.multinomial(100, shares, size=60).astype(float), dims=("init_time", "rank"))
        verdicts.append(_is_flat(_rank_scores(ranks, seed=0), 60))
    assert 0.05 < 1 - np.mean(verdicts) < 0.2  # about 0.15; with 90 % intervals 0.25


def test_the_verdict_on_flatness_is_in_the_table():
    assert scores_of(reliable(members=4, cases=60)).loc["rank_flat", "value"] == 1
    assert scores_of(reliable(spread=0.5)).loc["rank_flat", "value"] == 0
    assert np.isnan(scores_of(reliable(cases=1)).loc["rank_flat", "value"])


def test_correlated_cases_have_wider_intervals_in_every_score():
    random = np.random.default_rng(2)
    scale = np.exp(np.convolve(random.normal(size=139), np.ones(20) / np.sqrt(20), "valid") / 2)  # 120 cases, in spells
    ensemble, truth = reliable(cases=120)
    ensemble, truth = (array * scale.reshape(-1, *[1] * (array.ndim - 1)) for array in (ensemble, truth))
    mixed = random.permutation(120)
    names = ["crps", "spread", "error"]
    widths = []
    for order in (np.arange(120), mixed):
        table = scores_of((ensemble[order], truth[order])).loc[names]
        widths.append(table["upper"] - table["lower"])
    assert (widths[0] > 1.5 * widths[1]).all()


@pytest.mark.parametrize(("spread", "sign"), [(0.5, 1), (2.0, -1)])
def test_too_little_spread_makes_a_u_shape_and_too_much_a_dome(spread, sign):
    found = scores_of(reliable(spread=spread))
    assert sign * found.loc["rank_convexity", "value"] > 0.1
    assert found.loc["rank_convexity", "lower"] * found.loc["rank_convexity", "upper"] > 0
    assert sign * (1 - found.loc["spread_error_ratio", "value"]) > 0.1


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_an_ensemble_that_is_too_low_has_a_positive_rank_bias(shift):
    found = scores_of(reliable(shift=shift))
    assert np.sign(found.loc["rank_bias", "value"]) == -np.sign(shift)
    assert found.loc["rank_bias", "lower"] * found.loc["rank_bias", "upper"] > 0


def test_fair_crps_does_not_depend_on_the_number_of_members():
    few, many = (scores_of(reliable(members=m, cases=80)).loc["crps", "value"] for m in (2, 30))
    assert few == pytest.approx(many, rel=0.03)


def test_ranks_among_equal_values_are_drawn_evenly_and_by_the_seed():
    pair = arrays(np.zeros((4, 1, 3, 50, 50)), np.zeros((4, 1, 50, 50)))
    counts = [ensemble_sums(*pair, seed=seed)["ranks"] for seed in (0, 0, 1)]
    assert counts[0].identical(counts[1])
    assert not counts[0].equals(counts[2])
    assert counts[0].sum(("init_time", "lead_time")).values == pytest.approx([2500] * 4, rel=0.1)


def test_cells_with_less_than_the_smallest_rain_are_not_ranked():
    members = np.array([[0.0, 0.05, 0.0], [0.02, 0.0, 3.0]], np.float32).reshape(1, 1, 2, 1, 3)
    observed = np.array([0.09, 0.1, 1.0], np.float32).reshape(1, 1, 1, 3)
    sums = ensemble_sums(*arrays(members, observed), ranked_from=0.1)
    # cell 0 is dry; in cell 1 the observation is above both, in cell 2 between them
    assert sums["ranks"].values.ravel().tolist() == [0.0, 1.0, 1.0]
    assert sums["pixels"].item() == 3


def test_missing_values_are_left_out():
    ensemble, truth = reliable(cases=2)
    kept = ensemble_sums(ensemble[..., 2:, :], truth[..., 2:, :])
    spoilt, holes = ensemble.copy(), truth.copy()
    spoilt[:, :, 3, 0] = np.nan
    holes[:, :, 1] = np.nan
    found = ensemble_sums(spoilt, holes)
    xr.testing.assert_allclose(found, kept)
    nothing = scores_of((ensemble * np.nan, truth))
    assert nothing["value"].isna().all()
    assert set(nothing["cases"]) == {0}


def test_cases_can_be_computed_apart_in_any_order():
    ensemble, truth = reliable(cases=3)
    whole = ensemble_sums(ensemble, truth, seed=7)
    parts = {k: case_ensemble_sums(ensemble.values[k], truth.values[k], seed=(7, k)) for k in (2, 0, 1)}
    xr.testing.assert_identical(join_cases([parts[k] for k in range(3)], np.array([5.0])), whole)


def test_many_cells_are_scored_in_blocks(monkeypatch):
    pair = reliable(cases=2)
    whole = ensemble_sums(*pair)
    monkeypatch.setattr("convlstm.verification.ensembles._BLOCK", 7)
    xr.testing.assert_allclose(ensemble_sums(*pair), whole)


def test_the_share_of_members_counts_the_known_ones_at_or_above_a_threshold():
    members = np.array([[1.0, 0.5, np.nan], [3.0, np.nan, np.nan]], np.float32).reshape(2, 1, 1, 3)
    share = member_share(members, [1.0, 2.0])
    np.testing.assert_array_equal(share[0, :, 0], [[1.0, 0.0, np.nan], [0.5, 0.0, np.nan]])


def test_ensembles_that_do_not_fit_are_refused():
    ensemble, truth = reliable(cases=2)
    with pytest.raises(DataError, match="at least 2 members"):
        ensemble_sums(ensemble[:, :, :1], truth)
    with pytest.raises(DataError, match="ensemble: expected dimensions"):
        ensemble_sums(ensemble.transpose("realization", ...), truth)
    with pytest.raises(DataError, match="lead_time"):
        ensemble_sums(ensemble, truth.assign_coords(lead_time=[10.0]))


def test_tables_have_a_row_for_each_method_lead_time_and_score():
    ensemble, truth = reliable(cases=3)
    two = [xr.concat([array, array], "lead_time").assign_coords(lead_time=[5.0, 10.0]) for array in (ensemble, truth)]
    two[0] = two[0].transpose(*ENSEMBLE_DIMS)
    two[1] = two[1].transpose("init_time", "lead_time", "y", "x")
    sums = ensemble_sums(*two)
    table = ensemble_table({"a": sums, "b": sums})
    assert len(table) == 2 * 2 * 8
    assert set(table["members"]) == {9}
    assert set(table["pixels"]) == {3 * 144}
    values = table.set_index(["method", "lead_time", "score"])["value"]
    pd.testing.assert_series_equal(values["a"], values["b"])
    assert values[("a", 5.0, "crps")] == pytest.approx(values[("a", 10.0, "crps")])
    assert len(rank_table({"a": sums})) == 2 * 10
