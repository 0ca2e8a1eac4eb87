"""ROC, performance diagram and economic value: counts by hand, known forecasts, and the library `scores`."""

import numpy as np
import pytest
import xarray as xr

from convlstm.verification import (
    case_sums,
    cut_table,
    event_decisions,
    member_share,
    probability_decisions,
    roc_table,
    value_table,
)
from convlstm.verification.decisions import CUTS, economic_value

DIMS = ("init_time", "lead_time", "y", "x")


def arrays(chance, truth, thresholds=(1.0,)):
    """Name the axes of probabilities (case, y, x) and of events (case, y, x) of one lead time and threshold."""
    coords = {"lead_time": [5.0]}
    probability = xr.DataArray(chance[:, None, None], dims=(*DIMS[:2], "threshold", *DIMS[2:]), coords=coords)
    return probability.assign_coords(threshold=list(thresholds)), xr.DataArray(truth[:, None], dims=DIMS, coords=coords)


def calibrated(cases=20, size=30, seed=0):
    """Probabilities, and events that occur with them; the value of an event is 3, without one 0."""
    random = np.random.default_rng(seed)
    chance = random.beta(0.4, 1.5, (cases, size, size))
    return arrays(chance, np.where(random.random(chance.shape) < chance, 3.0, 0.0))


def test_counts_and_rates_by_hand():
    chance = np.array([[[0.0, 0.3, 0.3, 0.8, np.nan, 0.9]]])
    truth = np.array([[[0.0, 0.0, 2.0, 2.0, 2.0, np.nan]]])
    table = cut_table(probability_decisions("m", *arrays(chance, truth))).set_index("cut")
    assert table.loc[0.3, ["hits", "misses", "false_alarms", "correct_negatives"]].tolist() == [2, 0, 1, 1]
    assert table.loc[0.35, ["hits", "misses", "false_alarms", "correct_negatives"]].tolist() == [1, 1, 0, 2]
    assert table.loc[0.3, ["pod", "pofd", "success_ratio"]].tolist() == pytest.approx([1, 0.5, 2 / 3])
    assert table.loc[0.85, "pod"] == 0
    assert np.isnan(table.loc[0.85, "success_ratio"])
    assert set(table["pixels"]) == {4}


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_probability_at_a_cut_forecasts_the_event_in_every_precision(kind):
    chance = np.array(CUTS, kind)[None, None]  # half precision holds 0.1 as 0.09998
    table = cut_table(probability_decisions("m", *arrays(chance, np.full(chance.shape, 2.0))))
    assert table["hits"].tolist() == list(range(len(CUTS), 0, -1))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("members", [3, 24, 51])
def test_shares_of_members_are_at_their_cuts_in_every_precision(kind, members):
    chance = (np.arange(members + 1) / members).astype(kind)[None, None]
    probability, truth = arrays(chance, np.full(chance.shape, 2.0))
    table = cut_table(probability_decisions("m", probability, truth, members=members))
    assert table["hits"].tolist() == list(range(members, 0, -1))


def test_the_area_is_the_probability_of_the_right_order():
    probability, truth = calibrated()
    value = roc_table(probability_decisions("m", probability, truth))
    events = truth.values.ravel() >= 1
    chance = probability.values.ravel()
    order = np.empty(len(chance))
    order[np.argsort(chance)] = np.arange(len(chance))
    exact = (order[events].sum() - events.sum() * (events.sum() - 1) / 2) / (events.sum() * (~events).sum())
    assert value["value"].item() == pytest.approx(exact, abs=0.003)
    assert value["lower"].item() < exact < value["upper"].item()


def test_the_area_of_an_ensemble_is_exact_and_that_of_chance_is_a_half():
    random = np.random.default_rng(1)
    members = random.normal(size=(8, 1, 60, 60)) + (signal := random.normal(size=(1, 1, 60, 60)))
    truth = np.where(signal[0] + random.normal(size=(1, 60, 60)) > 0.5, 3.0, 0.0)
    share = member_share(members, [0.5])[0]
    table = roc_table(probability_decisions("m", *arrays(share, truth), members=8))
    events, chance = truth.ravel() > 0, share.ravel()
    pairs = chance[events][:, None] - chance[~events]
    assert table["value"].item() == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
    shuffled = random.permutation(share.ravel()).reshape(share.shape)
    table = roc_table(probability_decisions("m", *arrays(shuffled, truth), members=8))
    assert table["value"].item() == pytest.approx(0.5, abs=0.03)


def test_economic_value_is_that_of_the_library_scores():
    plotdata = pytest.importorskip("scores.plotdata")
    probability, truth = calibrated()
    decisions = probability_decisions("m", probability, truth)
    cuts = cut_table(decisions)
    pod, pofd = (xr.DataArray(cuts[name].to_numpy(), dims="cut") for name in ("pod", "pofd"))
    frequency = xr.DataArray(float((truth >= 1).mean()))
    ratios = [0.05, 0.2, 0.5, 0.9]
    expected = plotdata.relative_economic_value_from_rates(pod, pofd, frequency, ratios, cost_loss_dim="ratio")
    ours = economic_value(pod, pofd, frequency, xr.DataArray(ratios, dims="ratio"))
    np.testing.assert_allclose(ours.transpose("cut", "ratio"), expected.transpose("cut", "ratio"))
    table = value_table(decisions, ratios=ratios).set_index("cost_loss_ratio")
    np.testing.assert_allclose(table["value"], np.maximum(expected.max("cut"), 0))
    assert table.loc[0.2, "cut"] == 0.2
    at_ratio = expected.sel(ratio=0.2).values[list(CUTS).index(0.2)]
    assert table.loc[0.2, "value_at_ratio"] == pytest.approx(float(at_ratio))


def test_a_user_of_reliable_probabilities_needs_no_cut_chosen_afterwards():
    probability, truth = calibrated(cases=40)
    table = value_table(probability_decisions("m", probability, truth))
    assert (table["value"] - table["value_at_ratio"]).max() < 0.02
    halved = value_table(probability_decisions("m", 0.4 * probability, truth)).set_index("cost_loss_ratio")
    # the order of the cells is the same, so that the best cut has the same value
    assert halved.loc[0.2, "value"] == pytest.approx(table.set_index("cost_loss_ratio").loc[0.2, "value"], abs=0.01)
    assert halved.loc[0.2, "value_at_ratio"] < table.set_index("cost_loss_ratio").loc[0.2, "value"] - 0.05


@pytest.mark.parametrize("members", [5, 24])
def test_the_cut_of_an_ensemble_is_the_lowest_share_at_or_above_the_ratio(members):
    random = np.random.default_rng(3)
    share = random.integers(0, members + 1, (20, 40, 40)) / members
    # as many events as the shares say: with each cut, the value at the ratio is the best one
    probability, truth = arrays(share, np.where(random.random(share.shape) < share, 3.0, 0.0))
    ratios = [0.01, 0.05, 0.2, 0.25, 0.3, 0.41, 0.6, 0.9, 1 - 1e-3]
    table = value_table(probability_decisions("m", probability, truth, members=members), ratios=ratios)
    assert table["cut"].tolist() == pytest.approx([np.ceil(ratio * members - 1e-9) / members for ratio in ratios])
    best = np.maximum(table["value_at_ratio"], 0)
    assert best.tolist() == pytest.approx(table["value"].tolist(), abs=0.002)


def test_a_ratio_above_all_cuts_has_the_last_one():
    probability, truth = calibrated(cases=2)
    assert value_table(probability_decisions("m", probability, truth), ratios=[0.995])["cut"].item() == CUTS[-1]


def test_a_perfect_forecast_has_value_one_and_chance_none():
    truth = np.where(np.random.default_rng(2).random((4, 20, 20)) < 0.1, 3.0, 0.0)
    perfect = value_table(probability_decisions("m", *arrays((truth > 0).astype(float), truth)))
    assert perfect["value"].tolist() == pytest.approx([1.0] * len(perfect))
    constant = value_table(probability_decisions("m", *arrays(np.full(truth.shape, 0.1), truth)))
    assert constant["value"].tolist() == [0.0] * len(constant)


def test_an_event_that_never_occurs_has_no_area_and_no_value():
    decisions = probability_decisions("m", *arrays(np.full((2, 3, 3), 0.5), np.zeros((2, 3, 3))))
    assert roc_table(decisions)["value"].isna().all()
    assert value_table(decisions)["value"].isna().all()


def test_a_field_has_one_decision_with_the_counts_of_its_events():
    _, truth = calibrated(cases=3)
    shifted = truth.roll(x=1).expand_dims(method=["shifted"])
    sums = case_sums(shifted, truth, thresholds=[1.0, 2.0], fss_window=2)
    decisions = event_decisions(sums, ["shifted"])
    table = cut_table(decisions)
    assert table[["threshold", "cut"]].values.tolist() == [[1.0, 1.0], [2.0, 1.0]]
    hits = ((shifted[0] >= 1) & (truth >= 1)).sum().item()
    assert table["hits"].tolist() == [hits, hits]
    assert event_decisions(sums, ["another"]) == []
    pod, pofd = table.loc[0, ["pod", "pofd"]]
    assert roc_table(decisions)["value"][0] == pytest.approx((1 + pod - pofd) / 2)
