"""Differences of scores between methods: their values by hand, their intervals, and their blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.verification import case_sums, difference_table, score_forecasts

DIMS = ("init_time", "lead_time", "y", "x")


def rain(seed: int, cases: int = 24) -> xr.DataArray:
    values = np.random.default_rng(seed).gamma(0.5, 2.0, size=(cases, 2, 12, 12))
    return xr.DataArray(values, dims=DIMS, coords={"init_time": np.arange(cases), "lead_time": [5.0, 10.0]})


def methods(**forecasts: xr.DataArray) -> xr.DataArray:
    return xr.concat(list(forecasts.values()), pd.Index(list(forecasts), name="method"))


def noisy(observation: xr.DataArray, noise: float, seed: int) -> xr.DataArray:
    factor = np.exp(noise * np.random.default_rng(seed).standard_normal(observation.shape))
    return observation * factor


def differences(forecast: xr.DataArray, observation: xr.DataArray, method: str) -> pd.DataFrame:
    return difference_table(case_sums(forecast, observation, thresholds=[1.0], fss_window=3), method)


def test_values_are_those_of_the_table_of_scores() -> None:
    observation = rain(0)
    forecast = methods(model=noisy(observation, 0.2, 1), flow=noisy(observation, 0.8, 2), last=rain(3))
    table = differences(forecast, observation, "model")
    scores = score_forecasts(forecast, observation, thresholds=[1.0], fss_window=3)
    values = scores.fillna({"threshold": -1}).set_index(["method", "lead_time", "score", "threshold"])["value"]
    assert set(table["other"]) == {"flow", "last"}
    assert len(table) == 2 * 2 * 10
    for row in table.fillna({"threshold": -1}).itertuples():
        key = (row.lead_time, row.score, row.threshold)
        expected = values[("model", *key)] - values[(row.other, *key)]
        assert row.difference == pytest.approx(expected, abs=1e-12)
        assert row.lower <= row.difference <= row.upper


def test_a_paired_difference_is_surer_than_the_two_scores() -> None:
    observation = rain(0)
    forecast = methods(model=noisy(observation, 0.20, 1), flow=noisy(observation, 0.21, 1))
    table = differences(forecast, observation, "model").query("score == 'rmse' and lead_time == 5")
    scores = score_forecasts(forecast, observation, thresholds=[1.0], fss_window=3)
    rmse = scores.query("score == 'rmse' and lead_time == 5").set_index("method")
    assert table["upper"].item() < 0  # the better method, without doubt
    assert rmse.loc["model", "upper"] > rmse.loc["flow", "lower"]  # though the intervals of the scores overlap


def test_equal_methods_differ_by_nothing() -> None:
    observation = rain(0)
    forecast = noisy(observation, 0.4, 1)
    table = differences(methods(one=forecast, two=forecast), observation, "one")
    assert (table[["difference", "lower", "upper"]] == 0).all(axis=None)
    assert (table["block_length"] == 1).all()


def test_cases_with_errors_that_persist_are_drawn_in_blocks() -> None:
    observation = rain(0, cases=120)
    bias = np.repeat(np.random.default_rng(5).normal(0, 0.6, 6), 20)[:, None, None, None]
    forecast = methods(model=observation * np.exp(bias), flow=noisy(observation, 0.5, 2))
    table = differences(forecast, observation, "model").query("score == 'rmse'")
    assert (table["block_length"] > 5).all()
