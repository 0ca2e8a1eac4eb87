"""Scores by case, by day and by place: against sums by hand, and against the table of scores."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.errors import DataError
from convlstm.verification.grouped_scores import grouped_table
from convlstm.verification.main_score import main_lead_time, main_threshold
from convlstm.verification.score_maps import block_sums, block_width, score_maps
from convlstm.verification.scorecard import case_sums, score_table

DIMS = ("method", "init_time", "lead_time", "y", "x")
LEADS = [5.0, 10.0]


@pytest.fixture
def pair():
    """Random forecasts of two methods for four cases, with missing values."""
    random = np.random.default_rng(3)
    forecast = random.gamma(0.5, 2.0, (2, 4, 2, 7, 9)).astype(np.float32)
    observation = random.gamma(0.5, 2.0, (4, 2, 7, 9)).astype(np.float32)
    observation[1, 0, :2] = np.nan
    forecast[0, 2, 1, :, 3] = np.nan
    coords = {"lead_time": LEADS}
    return (
        xr.DataArray(forecast, dims=DIMS, coords=coords | {"method": ["a", "b"]}),
        xr.DataArray(observation, dims=DIMS[1:], coords=coords),
    )


@pytest.fixture
def sums(pair):
    return case_sums(*pair, thresholds=[0.5, 2.0], fss_window=3)


def test_one_group_of_all_cases_has_the_scores_of_the_table(sums):
    whole = score_table(sums).set_index(["method", "lead_time", "threshold", "score"])["value"]
    table = grouped_table(sums, ["all"] * 4, "group").set_index(["method", "lead_time", "threshold"])
    assert len(table) == 2 * 2 * 3
    for (*key, score), value in whole.items():
        assert table.loc[tuple(key), score] == pytest.approx(value, nan_ok=True)


def test_the_scores_of_a_case_are_those_of_this_case_alone(pair, sums):
    forecast, observation = pair
    table = grouped_table(sums, ["00:00", "00:05", "00:10", "00:15"], "init_time")
    assert list(table.columns[:4]) == ["init_time", "method", "lead_time", "threshold"]
    assert table["init_time"].is_monotonic_increasing
    one = forecast.isel(init_time=[1]), observation.isel(init_time=[1])
    alone = grouped_table(case_sums(*one, thresholds=[0.5, 2.0], fss_window=3), ["00:05"], "init_time")
    part = table[table["init_time"] == "00:05"].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, alone, check_dtype=False)
    row = part[(part["method"] == "a") & (part["lead_time"] == 5.0) & (part["threshold"] == 2.0)].iloc[0]
    predicted, observed = forecast[0, 1, 0].values, observation[1, 0].values
    assert row["hits"] == ((predicted >= 2) & (observed >= 2)).sum()
    assert row["pixels"] == np.isfinite(observed).sum() == 5 * 9


def test_counts_of_days_add_up(sums):
    days = grouped_table(sums, ["1", "1", "2", "2"], "day")
    whole = grouped_table(sums, ["all"] * 4, "day")
    key = ["method", "lead_time", "threshold"]
    added = days.groupby(key, dropna=False)[["hits", "false_alarms", "cases", "pixels"]].sum()
    expected = whole.set_index(key)[["hits", "false_alarms", "cases", "pixels"]]
    pd.testing.assert_frame_equal(added.sort_index().fillna(0), expected.sort_index().fillna(0), check_dtype=False)


def test_a_group_for_each_case_is_needed(sums):
    with pytest.raises(DataError, match="groups: expected 4, one for each case, got 3"):
        grouped_table(sums, ["1", "2", "3"], "day")


def test_one_block_of_the_whole_grid_has_the_scores_of_the_table(pair, sums):
    maps = score_maps(block_sums(*pair, thresholds=[0.5, 2.0], block=9))
    assert maps.sizes == {"method": 2, "lead_time": 2, "threshold": 2, "y": 1, "x": 1}
    table = {
        (method, lead, score, None if np.isnan(threshold) else threshold): value
        for method, lead, score, threshold, value in score_table(sums)[
            ["method", "lead_time", "score", "threshold", "value"]
        ].itertuples(index=False)
    }
    for method in ("a", "b"):
        for lead in LEADS:
            here = maps.sel({"method": method, "lead_time": lead}).squeeze()
            for score in ("csi", "bias"):
                for threshold in (0.5, 2.0):
                    assert here[score].sel(threshold=threshold) == pytest.approx(table[method, lead, score, threshold])
            for score in ("rmse", "mean_error"):
                assert here[score] == pytest.approx(table[method, lead, score, None])


def test_blocks_have_their_own_cells_and_sums_of_cases_can_be_added(pair):
    forecast, observation = pair
    sums = block_sums(forecast, observation, thresholds=[2.0], block=4)
    assert (sums.sizes["y"], sums.sizes["x"]) == (2, 3)
    corner = {"y": slice(4, None), "x": slice(8, None)}
    error = (forecast - observation).isel(corner)
    np.testing.assert_allclose(sums["squared"][..., 1, 2], (error**2).sum(("init_time", "y", "x")), rtol=1e-6)
    np.testing.assert_array_equal(sums["pixels"][..., 1, 2], error.notnull().sum(("init_time", "y", "x")))
    parts = [
        block_sums(forecast.isel(init_time=part), observation.isel(init_time=part), thresholds=[2.0], block=4)
        for part in (slice(0, 1), slice(1, 4))
    ]
    xr.testing.assert_allclose(parts[0] + parts[1], sums)


def test_blocks_with_few_events_have_no_score_of_events():
    rain = xr.DataArray(np.zeros((1, 1, 8, 8)), dims=DIMS[1:], coords={"lead_time": [5.0]})
    rain[0, 0, :3, :3] = 5.0  # nine cells
    rain[0, 0, 4:, 4:] = 5.0
    maps = score_maps(block_sums(rain.expand_dims(method=["perfect"]), rain, thresholds=[1.0], block=4))
    np.testing.assert_array_equal(maps["csi"][0, 0, 0], [[np.nan, np.nan], [np.nan, 1.0]])
    np.testing.assert_array_equal(maps["rmse"][0, 0], np.zeros((2, 2)))


def test_errors_of_a_method_with_a_mean_are_those_of_its_mean(pair):
    forecast, observation = pair
    maps = score_maps(block_sums(forecast, observation, thresholds=[2.0], block=9, means={"a": observation}))
    assert (maps["rmse"][0] == 0).all()
    assert (maps["csi"][0] < 1).all()
    assert (maps["rmse"][1] > 0).all()


@pytest.mark.parametrize(("size", "width"), [((96, 96), 4), ((24, 10), 1), ((25, 10), 2), ((1100, 900), 46)])
def test_at_most_24_blocks_along_a_side(size, width):
    assert block_width(*size) == width
    assert -(-max(size) // width) <= 24


def test_the_main_score_of_rain_is_csi_and_of_all_else_rmse():
    assert main_threshold([0.5, 1.0, 5.0], "mm/h", rain=True) == 1.0
    assert main_threshold([5.0, 0.1, 2.0], "mm/h", rain=True) == 2.0
    assert main_threshold([7.0, 23.0, 34.2], "dBZ", rain=False) == 23.0
    assert main_threshold([270.0, 280.0], "K", rain=False) is None
    assert main_threshold([], "mm/h", rain=True) is None
    assert main_lead_time([5.0, 15.0, 30.0, 60.0]) == 30.0
