"""The fractions skill score for windows of several widths, against the library's own and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scores.spatial import fss_2d

from convlstm.verification import case_sums, fss_table, score_forecasts

DIMS = ("init_time", "lead_time", "y", "x")


def rain(seed: int, shape: tuple[int, ...] = (5, 2, 24, 44)) -> xr.DataArray:
    values = np.random.default_rng(seed).gamma(0.4, 2.0, size=shape)
    return xr.DataArray(values, dims=DIMS, coords={"init_time": np.arange(5), "lead_time": [5.0, 10.0]})


def test_every_width_is_that_of_the_library() -> None:
    forecast, observation = rain(0), rain(1) + 0.3 * rain(0)
    table = fss_table(case_sums(forecast.expand_dims(method=["m"]), observation, thresholds=[1.0], fss_window=7))
    assert table["window"].unique().tolist() == [1, 5, 7, 10, 20]  # 40 is wider than the 24 rows
    for row in table.itertuples():
        expected = fss_2d(
            forecast.sel(lead_time=row.lead_time),
            observation.sel(lead_time=row.lead_time),
            event_threshold=1.0,
            window_size=(row.window, row.window),
            spatial_dims=("y", "x"),
            reduce_dims="all",
            threshold_operator=np.greater_equal,
        )
        assert row.value == pytest.approx(float(expected), rel=1e-12)
        assert row.lower <= row.value <= row.upper
        assert row.cases == 5


def test_the_width_of_the_score_is_a_row_of_the_table() -> None:
    forecast, observation = rain(0).expand_dims(method=["m"]), rain(1)
    options = {"thresholds": [0.5, 1.0], "fss_window": 7}
    table = fss_table(case_sums(forecast, observation, **options)).query("window == 7")
    scores = score_forecasts(forecast, observation, **options).query("score == 'fss'")
    columns = ["method", "lead_time", "threshold", "value", "lower", "upper", "cases"]
    assert table[columns].values.tolist() == scores[columns].values.tolist()


def test_a_displaced_point_is_found_by_wide_windows() -> None:
    """Each point is in w² windows, of which w·d miss the other: FSS = 1 − d/w, and 0 for w ≤ d."""
    fields = np.zeros((2, 1, 1, 99, 99))
    fields[0, 0, 0, 49, 49] = fields[1, 0, 0, 49, 53] = 1.0
    forecast, observation = (xr.DataArray(f, dims=DIMS, coords={"lead_time": [5.0]}) for f in fields)
    table = fss_table(case_sums(forecast.expand_dims(method=["m"]), observation, thresholds=[1.0]))
    found = dict(zip(table["window"], table["value"], strict=True))
    assert found == pytest.approx({1: 0.0, 5: 1 - 4 / 5, 10: 1 - 4 / 10, 20: 1 - 4 / 20, 40: 1 - 4 / 40})


def test_counts_of_a_large_grid_are_exact() -> None:
    """More than 2³¹ in the sum of the squares, and 1600 events in every window."""
    ones = xr.DataArray(np.ones((1, 1, 400, 400)), dims=DIMS, coords={"lead_time": [5.0]})
    sums = case_sums(ones.expand_dims(method=["m"]), ones, thresholds=[1.0])[0].fractions[1.0][40]
    assert float(sums["fss_error"].item()) == 0.0
    assert float(sums["fss_reference"].item()) == 2 * 361 * 361


def test_without_thresholds_the_table_has_its_columns_and_no_rows() -> None:
    observation = rain(1)
    table = fss_table(case_sums(rain(0).expand_dims(method=["m"]), observation, thresholds=[]))
    assert table.empty
    assert "window" in table.columns
