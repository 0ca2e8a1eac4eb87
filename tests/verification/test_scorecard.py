"""Scores against published examples, sums worked by hand, and the library's own pooled scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from scores.categorical import ThresholdEventOperator
from scores.continuous import mae, mean_error, rmse
from scores.spatial import fss_2d

from convlstm.errors import DataError
from convlstm.verification import score_forecasts, skill_table

EVENT_SCORES = ("csi", "hss", "ets", "pod", "far", "bias", "fss")
VALUE_SCORES = ("rmse", "mae", "mean_error")


def pair(forecast, observation, lead_times=None, init_times=None):
    """Arrays (init_time, lead_time, y, x) as the two arguments of score_forecasts, with one method."""
    forecast, observation = (np.array(a, np.float32, ndmin=4) for a in (forecast, observation))
    cases, leads = observation.shape[:2]
    coords = {
        "init_time": np.arange(cases) if init_times is None else init_times,
        "lead_time": 5.0 * np.arange(1, leads + 1) if lead_times is None else lead_times,
    }
    truth = xr.DataArray(observation, dims=("init_time", "lead_time", "y", "x"), coords=coords)
    return truth.copy(data=forecast).expand_dims({"method": ["model"]}), truth


def values(table):
    """The scores of a table with one method, lead time and threshold."""
    assert not table["score"].duplicated().any()
    return table.set_index("score")["value"].to_dict()


def table_of(hits, misses, false_alarms, correct_negatives, columns):
    """A pair of fields with these counts at threshold 1."""
    forecast = [2.0] * hits + [0.5] * misses + [1.0] * false_alarms + [0.0] * correct_negatives
    observation = [1.0] * hits + [3.0] * misses + [0.0] * false_alarms + [0.9] * correct_negatives
    return pair(np.reshape(forecast, (-1, columns)), np.reshape(observation, (-1, columns)))


def rainy(cases=6, leads=2, size=20, seed=1):
    """Random rain with gaps on both sides."""
    rng = np.random.default_rng(seed)
    shape = (cases, leads, size, size)
    observation = np.where(rng.random(shape) < 0.3, rng.gamma(1.0, 2.0, shape), 0.0)
    forecast = observation * rng.gamma(2.0, 0.5, shape) + rng.normal(0.0, 0.3, shape).clip(0)
    observation[rng.random(shape) < 0.05] = np.nan
    forecast[rng.random(shape) < 0.05] = np.nan
    return pair(forecast, observation)


def test_the_rain_example_of_the_wwrp_verification_site():
    """A year of rain forecasts, https://jwgfvr.github.io/forecastverification/: 82, 23, 38, 222."""
    table = score_forecasts(*table_of(82, 23, 38, 222, columns=73), thresholds=[1.0], fss_window=1)
    found = values(table)
    assert_allclose([found[name] for name in ("pod", "far", "csi", "bias")], [0.781, 0.317, 0.573, 1.143], atol=5e-4)
    assert_allclose([found["hss"], found["ets"]], [0.61, 0.44], atol=5e-3)
    row = table[table["score"] == "csi"].iloc[0]
    assert [row[c] for c in ("hits", "misses", "false_alarms", "correct_negatives")] == [82, 23, 38, 222]
    assert (row["cases"], row["pixels"]) == (1, 365)


def test_finley_s_tornado_forecasts():
    """The oldest example, Finley 1884: 28 hits, 23 misses, 72 false alarms, 2680 correct negatives."""
    found = values(score_forecasts(*table_of(28, 23, 72, 2680, columns=2803), thresholds=[1.0], fss_window=1))
    assert_allclose([found["pod"], found["far"], found["csi"]], [28 / 51, 72 / 100, 28 / 123], rtol=1e-12)
    assert found["bias"] == pytest.approx(100 / 51)
    # hits by chance: 100 · 51 / 2803; correct forecasts by chance: (100 · 51 + 2703 · 2752) / 2803
    by_chance, correct = 5100 / 2803, (5100 + 2703 * 2752) / 2803
    assert found["ets"] == pytest.approx((28 - by_chance) / (123 - by_chance))
    assert found["hss"] == pytest.approx((2708 - correct) / (2803 - correct))
    # With a window of one pixel, FSS = 1 − (misses + false alarms) / (forecast + observed events).
    assert found["fss"] == pytest.approx(1 - 95 / 151)


def test_errors_worked_by_hand():
    """Errors 1, −2, 2, 0, −4: squares sum to 25, absolutes to 9, signed to −3."""
    args = pair([[1.0, 0.0, 5.0, 4.0, 0.0]], [[0.0, 2.0, 3.0, 4.0, 4.0]])
    found = values(score_forecasts(*args, thresholds=[], fss_window=1))
    assert found == pytest.approx({"rmse": 5**0.5, "mae": 1.8, "mean_error": -0.6})


@pytest.mark.parametrize(("window", "shift", "expected"), [(4, 1, 0.75), (4, 3, 0.25), (4, 4, 0.0), (1, 1, 0.0)])
def test_fss_of_a_displaced_point(window, shift, expected):
    """Each point lies in w² windows; w·d of them miss the other point, so FSS = 1 − 2wd / 2w² = 1 − d/w."""
    forecast, observation = np.zeros((2, 20, 24))
    forecast[9, 10], observation[9, 10 + shift] = 7.0, 1.0
    table = score_forecasts(*pair(forecast, observation), thresholds=[1.0], fss_window=window)
    assert values(table)["fss"] == pytest.approx(expected)


def test_fss_worked_by_hand():
    """2×2 windows on 3×3 pixels.

    Forecast counts 2 1 / 1 1 and observed counts 1 1 / 1 2, of 4 pixels each:
    Σ(f − o)² = 1 + 0 + 0 + 1 = 2, Σf² = 7, Σo² = 7, FSS = 1 − 2/14.
    """
    forecast = [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    observation = [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    table = score_forecasts(*pair(forecast, observation), thresholds=[1.0], fss_window=2)
    assert values(table)["fss"] == pytest.approx(1 - 2 / 14)


def test_a_perfect_forecast():
    _, truth = rainy()
    table = score_forecasts(truth.expand_dims({"method": ["model"]}), truth, thresholds=[0.5, 2.0], fss_window=5)
    wanted = dict.fromkeys(("csi", "hss", "ets", "pod", "bias", "fss"), 1.0) | dict.fromkeys(
        ("far", *VALUE_SCORES), 0.0
    )
    assert_allclose(table["value"], table["score"].map(wanted), atol=1e-12)
    assert_allclose(table["lower"], table["value"], atol=1e-12)
    assert_allclose(table["upper"], table["value"], atol=1e-12)


def test_without_rain_every_score_of_events_is_undefined():
    dry = np.zeros((3, 1, 8, 8))
    table = score_forecasts(*pair(dry, dry), thresholds=[0.1], fss_window=3)
    events = table[table["score"].isin(EVENT_SCORES)]
    assert events[["value", "lower", "upper"]].isna().all(axis=None)
    assert (events["correct_negatives"] == 192).all()
    assert (table.loc[table["score"].isin(VALUE_SCORES), "value"] == 0).all()


def test_pod_and_bias_are_undefined_without_an_event():
    found = values(score_forecasts(*pair(np.ones((8, 8)), np.zeros((8, 8))), thresholds=[1.0], fss_window=3))
    assert np.isnan(found["pod"])
    assert np.isnan(found["bias"])
    assert (found["csi"], found["far"], found["fss"]) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("pixels", [7, 49, 192, 1000, 4171])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_skill_against_chance_is_undefined_if_nothing_varies(pixels, value):
    """The library's Heidke score is 1 for some of these sizes, where rounding makes 0/0 a ratio."""
    field = np.full((1, pixels), value)
    found = values(score_forecasts(*pair(field, field), thresholds=[1.0], fss_window=1))
    assert np.isnan([found["hss"], found["ets"]]).all()


def test_missing_pairs_count_nowhere():
    forecast = np.array([[1.0, 9.0, 9.0, 0.0], [np.nan, 3.0, np.nan, 0.0]])
    observation = np.array([[2.0, np.nan, 9.0, 0.0], [9.0, np.nan, np.nan, 1.0]])
    table = score_forecasts(*pair(forecast, observation), thresholds=[1.0], fss_window=1)
    row = table[table["score"] == "csi"].iloc[0]
    assert [row[c] for c in ("hits", "misses", "false_alarms", "correct_negatives", "pixels")] == [2, 1, 0, 1, 4]
    found = values(table)
    assert found["mae"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert found["fss"] == pytest.approx(1 - 1 / 5)


def test_nothing_but_missing():
    empty = np.full((2, 1, 8, 8), np.nan)
    table = score_forecasts(*pair(empty, empty), thresholds=[1.0], fss_window=3)
    assert table[["value", "lower", "upper"]].isna().all(axis=None)
    assert (table[["cases", "pixels"]] == 0).all(axis=None)


def test_cases_are_those_with_a_pair():
    forecast, truth = rainy(cases=4)
    truth[1] = np.nan
    table = score_forecasts(forecast, truth, thresholds=[1.0], fss_window=3)
    assert (table["cases"] == 3).all()
    others = [0, 2, 3]
    without = score_forecasts(forecast[:, others], truth[others], thresholds=[1.0], fss_window=3)
    assert_allclose(table["value"], without["value"], rtol=1e-12)


@pytest.mark.parametrize("threshold", [0.0, 0.7, 2.0])
def test_equal_to_the_library_s_own_pooled_scores(threshold):
    forecast, truth = rainy()
    # A value of single precision at a threshold that it cannot hold exactly is still an event.
    forecast[:, 0, :, 0, 0] = truth[0, :, 0, 0] = 0.7
    table = score_forecasts(forecast, truth, thresholds=[threshold], fss_window=6)
    operator = ThresholdEventOperator(default_event_threshold=threshold)
    for lead, lead_time in enumerate(truth["lead_time"].values):
        f, o = forecast[0, :, lead], truth[:, lead]
        found = values(table[table["lead_time"] == lead_time])
        manager = operator.make_contingency_manager(f, o).transform(reduce_dims="all")
        both = f.notnull() & o.notnull()
        wanted = {
            "csi": manager.critical_success_index(),
            "hss": manager.heidke_skill_score(),
            "ets": manager.gilberts_skill_score(),
            "pod": manager.probability_of_detection(),
            "far": manager.false_alarm_ratio(),
            "bias": manager.frequency_bias(),
            "fss": fss_2d(
                f.where(both, -1),
                o.where(both, -1),
                event_threshold=threshold,
                window_size=(6, 6),
                spatial_dims=("y", "x"),
                reduce_dims="all",
                threshold_operator=np.greater_equal,
            ),
            "rmse": rmse(f.astype(float), o.astype(float)),
            "mae": mae(f.astype(float), o.astype(float)),
            "mean_error": mean_error(f.astype(float), o.astype(float)),
        }
        assert found == pytest.approx({name: float(score) for name, score in wanted.items()}, rel=1e-9, nan_ok=True)


def test_the_interval_of_two_cases_runs_from_one_to_the_other():
    """Of the draws of two cases a quarter holds only the first, a quarter only the second."""
    args = pair([[[[1.0, 1.0]]], [[[3.0, 3.0]]]], np.zeros((2, 1, 1, 2)))
    row = score_forecasts(*args, thresholds=[], fss_window=1).set_index("score").loc["mae"]
    assert (row["lower"], row["value"], row["upper"]) == (1.0, 2.0, 3.0)


def test_one_case_has_no_interval():
    table = score_forecasts(*pair(np.eye(8), np.eye(8) * 2), thresholds=[1.0], fss_window=3)
    assert table["value"].notna().all()
    assert table[["lower", "upper"]].isna().all(axis=None)


def test_the_order_of_cases_does_not_matter():
    forecast, truth = rainy(cases=7)
    mixed = [4, 0, 6, 2, 5, 1, 3]
    first = score_forecasts(forecast, truth, thresholds=[1.0], fss_window=4)
    second = score_forecasts(forecast[:, mixed], truth[mixed], thresholds=[1.0], fss_window=4)
    pd.testing.assert_frame_equal(first, second, rtol=1e-12)


def test_the_seed_moves_the_interval_and_nothing_else():
    first, same, other = (score_forecasts(*rainy(), thresholds=[1.0], fss_window=4, seed=s) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(first, same)
    pd.testing.assert_frame_equal(first.drop(columns=["lower", "upper"]), other.drop(columns=["lower", "upper"]))
    assert not np.allclose(first["upper"], other["upper"])


def test_methods_and_lead_times_are_kept_apart():
    good, truth = rainy()
    bad = good.assign_coords(method=["nearest"]) * 0 + 9.0
    both = xr.concat([bad, good], "method", join="exact")
    table = score_forecasts(both, truth, thresholds=[1.0, 2.0], fss_window=3)
    assert len(table) == 2 * 2 * (2 * len(EVENT_SCORES) + len(VALUE_SCORES))
    alone = score_forecasts(good, truth, thresholds=[1.0, 2.0], fss_window=3)
    ours = table[table["method"] == "model"].reset_index(drop=True)
    pd.testing.assert_frame_equal(ours, alone, rtol=1e-12)


def test_skill_table(tmp_path):
    good, truth = rainy()
    both = xr.concat([good, good.assign_coords(method=["again"]) * 2], "method", join="exact")
    scores = score_forecasts(both, truth, thresholds=[0.1, 1.0], fss_window=3)
    scores.to_csv(tmp_path / "scores.csv", index=False)
    for source in (scores, pd.read_csv(tmp_path / "scores.csv")):
        table = skill_table(source, "csi", 0.1)
        assert table.columns.tolist() == ["model", "again"]
        assert table.index.tolist() == [5.0, 10.0]
        row = scores.query("method == 'again' and lead_time == 10 and score == 'csi' and threshold == 0.1")
        assert table.loc[10.0, "again"] == pytest.approx(row["value"].item())
        assert skill_table(source, "rmse").shape == (2, 2)
    with pytest.raises(DataError, match=r"^score: expected one of csi at 0.1, .*mean_error, got csi at 3\."):
        skill_table(scores, "csi", 3.0)


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (lambda f, o: (f[0], o), {}, "forecast"),
        (lambda f, o: (f.transpose(..., "x", "y"), o), {}, "forecast"),
        (lambda f, o: (f, o[:0]), {}, "observation"),
        (lambda f, o: (f[:, :, :1], o), {}, "lead_time"),
        (lambda f, o: (f, o.assign_coords(init_time=o["init_time"] + 1)), {}, "init_time"),
        (lambda f, o: (f.drop_vars("method"), o), {}, "forecast"),
        (lambda f, o: (f.drop_vars("lead_time"), o), {}, "forecast"),
        (
            lambda f, o: tuple(a.assign_coords(lead_time=a["lead_time"].astype("m8[ns]")) for a in (f, o)),
            {},
            "forecast",
        ),
        (lambda f, o: (f, o), {"thresholds": [np.nan]}, "thresholds"),
        (lambda f, o: (f, o), {"fss_window": 21}, "fss_window"),
        (lambda f, o: (f, o), {"fss_window": 0}, "fss_window"),
    ],
)
def test_a_bad_argument_is_named(change, options, named):
    with pytest.raises(DataError, match=f"^{named}: expected"):
        score_forecasts(*change(*rainy()), **({"thresholds": [1.0]} | options))
