"""Brier scores and reliability: by hand, against the library, and for calibrated and uncalibrated forecasts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scores.probability import brier_score

from convlstm.errors import DataError
from convlstm.verification import case_sums, difference_table, reliability_table, score_forecasts, score_probabilities

DIMS = ("init_time", "lead_time", "threshold", "y", "x")


def arrays(chance, observation, thresholds=(1.0,), lead_times=None):
    """Probabilities and observations with coordinates."""
    chance, observation = np.asarray(chance), np.asarray(observation)
    lead_times = 5.0 * np.arange(1, observation.shape[1] + 1) if lead_times is None else lead_times
    coords = {"init_time": np.arange(len(observation)), "lead_time": lead_times}
    truth = xr.DataArray(observation, dims=("init_time", "lead_time", "y", "x"), coords=coords)
    return xr.DataArray(chance, dims=DIMS, coords=coords | {"threshold": list(thresholds)}), truth


def calibrated(seed=0, cases=30):
    """Draw observed events with exactly the forecast probabilities, at two thresholds and two lead times."""
    rng = np.random.default_rng(seed)
    lower = rng.beta(0.6, 0.8, size=(cases, 2, 1, 12, 14)).astype(np.float32)
    chance = np.concatenate([lower, lower / 3], axis=2)
    draw = rng.random((cases, 2, 12, 14))
    observation = np.where(draw < chance[:, :, 1], 5.0, np.where(draw < chance[:, :, 0], 2.0, 0.0))
    return arrays(chance, observation.astype(np.float32), thresholds=(1.0, 4.0))


def values(table):
    return table.set_index("score")["value"].to_dict()


def test_brier_scores_by_hand():
    """Errors² 0.04, 0.09, 0.25, 1: mean 0.345; two of four events: climatology 0.25."""
    chance, truth = arrays([[[[[0.8, 0.3, 0.5, 0.0]]]]], [[[[1.0, 0.0, 0.0, 3.0]]]])
    found = values(score_probabilities(chance, truth))
    assert found == pytest.approx({"brier": 0.345, "bss": 1 - 0.345 / 0.25})


def test_missing_values_count_nowhere():
    chance, truth = arrays([[[[[0.8, np.nan, 0.5, 0.4]]]]], [[[[1.0, 0.0, np.nan, 0.0]]]])
    table = score_probabilities(chance, truth)
    assert values(table) == pytest.approx({"brier": (0.04 + 0.16) / 2, "bss": 1 - 0.1 / 0.25})
    assert (table["pixels"] == 2).all()
    points = reliability_table({"m": chance}, truth)
    assert points["pixels"].sum() == 2


def test_climatology_as_a_forecast_has_no_skill():
    truth = np.zeros((4, 1, 5, 5))
    truth[::2, :, :3] = 1.0
    chance, truth = arrays(np.full((4, 1, 1, 5, 5), 0.3), truth)
    found = values(score_probabilities(chance, truth))
    assert found == pytest.approx({"brier": 0.21, "bss": 0.0})


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_without_variation_there_is_no_skill_score(value):
    table = score_probabilities(*arrays(np.full((2, 1, 1, 3, 3), 0.5), np.full((2, 1, 3, 3), value)))
    assert values(table)["brier"] == 0.25
    assert np.isnan(values(table)["bss"])


def test_equal_to_the_library():
    chance, truth = calibrated()
    table = score_probabilities(chance, truth).query("score == 'brier'")
    for row in table.itertuples():
        forecast = chance.sel(lead_time=row.lead_time, threshold=row.threshold).astype(float)
        events = (truth.sel(lead_time=row.lead_time) >= row.threshold).astype(float)
        assert row.value == pytest.approx(float(brier_score(forecast, events)), rel=1e-12)
        assert row.lower < row.value < row.upper


def test_reliability_by_hand():
    """Edges belong to the upper bin, and 1 to the last one."""
    chance = [0.0, 0.05, 0.1, 0.7, 0.75, 0.7, 1.0, 0.95]
    observed = [0, 1, 0, 1, 0, 1, 1, 1]
    table = reliability_table(
        {"m": arrays([[[[chance]]]], [[[observed]]])[0]}, arrays([[[[chance]]]], [[[observed]]])[1]
    )
    points = table.set_index("bin_start")
    assert points["pixels"].tolist() == [2, 1, 0, 0, 0, 0, 0, 3, 0, 2]
    assert points.loc[0.0, ["probability", "frequency"]].tolist() == pytest.approx([0.025, 0.5])
    assert points.loc[0.7, ["probability", "frequency"]].tolist() == pytest.approx([2.15 / 3, 2 / 3])
    assert points.loc[0.9, ["probability", "frequency"]].tolist() == pytest.approx([0.975, 1.0])
    assert points.loc[0.2, ["probability", "frequency"]].isna().all()
    assert points[["lower", "upper"]].isna().all(axis=None)  # a single case


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_every_edge_is_in_the_upper_bin(kind):
    edges = (np.arange(10) / 10).astype(kind)  # half precision holds 0.1 as 0.09998
    args = arrays(edges[None, None, None, None], np.zeros((1, 1, 1, 10)))
    assert reliability_table({"m": args[0]}, args[1])["pixels"].tolist() == [1] * 10


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("members", [5, 10, 20, 24])
def test_every_share_of_members_is_in_its_bin_in_every_precision(kind, members):
    number = np.arange(members + 1)
    args = arrays((number / members).astype(kind)[None, None, None, None], np.zeros((1, 1, 1, members + 1)))
    expected = np.bincount(np.minimum(10 * number // members, 9), minlength=10)
    assert reliability_table({"m": args[0]}, args[1])["pixels"].tolist() == expected.tolist()


def test_a_calibrated_forecast_is_on_the_diagonal():
    chance, truth = calibrated(cases=60)
    table = reliability_table({"m": chance}, truth)
    assert len(table) == 2 * 2 * 10
    filled = table[table["pixels"] > 300]
    assert len(filled) > 20
    assert (abs(filled["probability"] - filled["frequency"]) < 4 * np.sqrt(0.25 / filled["pixels"])).all()
    # 90 % intervals hold the mean forecast of most bins
    held = (filled["lower"] <= filled["probability"]) & (filled["probability"] <= filled["upper"])
    assert held.mean() > 0.75


def test_overconfidence_is_seen_as_a_flat_curve():
    chance, truth = calibrated(cases=60)
    sure = (0.5 + 1.6 * (chance - 0.5)).clip(0, 1)
    table = reliability_table({"m": sure}, truth).query("threshold == 1 and lead_time == 5").set_index("bin_start")
    assert table.loc[0.1, "frequency"] > table.loc[0.1, "probability"] + 0.05
    assert table.loc[0.8, "frequency"] < table.loc[0.8, "probability"] - 0.05
    assert sure.shape == chance.shape
    better, worse = (score_probabilities(c, truth).query("score == 'bss'")["value"] for c in (chance, sure))
    assert (better.values > worse.values).all()


def test_scores_of_forecasts_get_brier_scores_of_every_method():
    chance, truth = calibrated()
    values_ = xr.concat([truth * 0.9, truth.roll(x=1, roll_coords=False)], "method").assign_coords(
        method=["model", "shifted"]
    )
    table = score_forecasts(values_, truth, thresholds=[1.0, 4.0, 9.0], fss_window=3, probabilities={"model": chance})
    alone = score_probabilities(chance, truth)
    keys = ["lead_time", "threshold", "score"]
    ours = table.query("method == 'model' and score in ('brier', 'bss') and threshold < 9")
    pd.testing.assert_series_equal(ours.set_index(keys)["value"], alone.set_index(keys)["value"])
    pd.testing.assert_series_equal(ours.set_index(keys)["upper"], alone.set_index(keys)["upper"])
    # a method without probabilities, and a threshold without: the errors of 0/1 events
    for row in table[table["score"] == "brier"].itertuples():
        if row.method == "shifted" or row.threshold == 9.0:
            pixels = row.hits + row.misses + row.false_alarms + row.correct_negatives
            assert row.value == pytest.approx((row.misses + row.false_alarms) / pixels)
    assert "brier" not in set(score_forecasts(values_, truth, thresholds=[1.0])["score"])


def test_differences_have_the_brier_score_too():
    chance, truth = calibrated()
    both = xr.concat([truth * 0.9, truth.roll(x=1, roll_coords=False)], "method").assign_coords(
        method=["model", "shifted"]
    )
    sums = case_sums(both, truth, thresholds=[1.0], fss_window=3, probabilities={"model": chance})
    table = difference_table(sums, "model").query("score == 'brier'")
    assert (table["upper"] < 0).all()  # calibrated probabilities against unrelated events


def test_the_order_of_cases_does_not_matter():
    chance, truth = calibrated(cases=6)
    mixed = [3, 0, 5, 1, 4, 2]
    forecast = truth.expand_dims(method=["m"]) * 0.5
    options = {"thresholds": [1.0], "fss_window": 3}
    first = score_forecasts(forecast, truth, probabilities={"m": chance}, **options)
    second = score_forecasts(forecast[:, mixed], truth[mixed], probabilities={"m": chance[mixed]}, **options)
    pd.testing.assert_frame_equal(first, second, rtol=1e-12)


def test_no_method_with_probabilities_gives_an_empty_table():
    _, truth = calibrated(cases=2)
    table = reliability_table({}, truth)
    assert table.empty
    assert table.columns[:3].tolist() == ["method", "lead_time", "threshold"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c, o: (c.transpose(..., "x", "y"), o), "probability"),
        (lambda c, o: (c[:, :, :0], o), "probability"),
        (lambda c, o: (c, o[..., :1, :, :]), "lead_time"),
        (lambda c, o: (c, o.assign_coords(init_time=o["init_time"] + 1)), "init_time"),
        (lambda c, o: (c.drop_vars("threshold"), o), "probability"),
        (lambda c, o: (c.drop_vars("lead_time"), o), "probability"),
        (lambda c, o: (c * 100, o), "probability"),
        (lambda c, o: (c - 1, o), "probability"),
    ],
)
def test_a_bad_argument_is_named(change, named):
    with pytest.raises(DataError, match=f"^{named}: expected"):
        score_probabilities(*change(*calibrated(cases=2)))


@pytest.mark.parametrize("dims", [("time", "lead_time", "y", "x"), ("init_time", "lead_time", "y", "column")])
def test_an_observation_of_other_dimensions_is_a_data_error(dims):
    observation = xr.DataArray(np.zeros((2, 1, 3, 3)), dims=dims, coords={"lead_time": [5.0]})
    chance = xr.DataArray(
        np.zeros((2, 1, 1, 3, 3)),
        dims=("init_time", "lead_time", "threshold", "y", "x"),
        coords={"lead_time": [5.0], "threshold": [1.0]},
    )
    for score in (
        lambda: score_probabilities(chance, observation),
        lambda: reliability_table({"a": chance}, observation),
    ):
        with pytest.raises(DataError, match="observation: expected dimensions"):
            score()


def test_means_of_other_cases_are_a_data_error():
    coords = {"init_time": [0, 1], "lead_time": [5.0]}
    rain = xr.DataArray(np.zeros((2, 1, 4, 4)), dims=("init_time", "lead_time", "y", "x"), coords=coords)
    other = rain.assign_coords(init_time=[1, 2])
    with pytest.raises(DataError, match="init_time: expected the same entries in mean and observation"):
        score_forecasts(rain.expand_dims(method=["a"]), rain, thresholds=[1.0], fss_window=2, means={"a": other})
