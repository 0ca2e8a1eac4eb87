"""Tables by case and by day, and the player of score maps."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.errors import DataError
from convlstm.report import case_tables
from convlstm.report.case_tables import case_table, day_table
from convlstm.report.results import read_results
from convlstm.report.score_map_player import score_player


def test_the_score_of_every_case_with_the_best_method_bold(make_results):
    table = case_table(make_results(parts=True))
    assert table.columns == ["ConvLSTM", "Optical flow", "Persistence", "1 mm/h or more observed in"]
    assert [row.label for row in table.rows] == ["2018-05-18 14:05", "2018-05-18 20:00", "2018-05-19 23:45"]
    assert [row.shown for row in table.rows] == [0, None, 1]
    assert [(cell.text, cell.best) for cell in table.rows[1].cells] == [
        ("0.35", True),
        ("0.31", False),
        ("0.20", False),
        ("8.0 %", False),
    ]


def test_errors_of_a_variable_that_is_no_rain(make_results):
    table = case_table(make_results(parts=True, units="K", rain=False))
    assert table.title == "RMSE (K), 30 minutes ahead, by case"
    assert [cell.text for cell in table.rows[0].cells] == ["0.550", "0.590", "0.700"]


def test_many_cases_are_thinned_but_those_with_maps_stay(make_results, monkeypatch):
    monkeypatch.setattr(case_tables, "MOST_ROWS", 1)
    table = case_table(make_results(parts=True))
    assert [row.shown for row in table.rows] == [0, 1]
    assert "Listed are 2 of 3 cases" in table.note


def test_days_are_listed_if_there_are_several(make_results):
    assert [row.label for row in day_table(make_results(parts=True)).rows] == ["2018-05-18", "2018-05-19"]


def test_a_folder_of_an_earlier_version_has_none_of_them(make_results):
    results = make_results()
    assert (case_table(results), day_table(results), score_player(results, 30.0)) == (None, None, None)


def test_the_main_score_is_the_first_map(make_results):
    player = score_player(make_results(parts=True), 30.0)
    labels = [choice.label for choice in player.choices]
    assert labels[0] == "CSI at 1 mm/h"
    assert set(labels) == {
        *(f"{score} at {threshold} mm/h" for score in ("CSI", "Frequency bias") for threshold in ("0.1", "1", "5")),
        "RMSE (mm/h)",
        "Mean error (mm/h)",
    }
    assert (player.inputs, player.first, player.shape) == (0, 2, (24, 24))
    assert player.labels == ["+5 min", "+15 min", "+30 min", "+60 min"]


def test_without_scripts_the_map_of_each_method_is_its_main_score(make_results, shows):
    results = make_results(parts=True)
    maps = results.score_maps
    maps["csi"] = maps["csi"] + 0.01 * maps["lead_time"] / maps["threshold"]
    player = score_player(results, 30.0)
    csi, scale = maps["csi"].sel(threshold=1.0, lead_time=30.0), player.roundings[0][0].scale
    fields = [csi.sel({"method": method}).isel(results.blocks).values for method in results.methods]
    assert len(player.stills) == 3
    for still, alt, field in zip(player.stills, player.alts, fields, strict=True):
        assert shows(still, field, scale)
        assert alt.endswith(": map of CSI at 1 mm/h, lead time 30 minutes")
    assert not shows(player.stills[0], fields[1], scale)


def test_a_case_without_a_common_pixel_has_a_dash_and_no_nan(make_evaluation):
    folder = make_evaluation(parts=True)
    table = pd.read_csv(folder / "cases.csv")
    is_first = table["init_time"] == "2018-05-18T14:05:00"
    table.loc[is_first, ["pixels", "hits", "misses", "false_alarms", "correct_negatives"]] = 0
    table.loc[is_first, ["csi", "rmse"]] = np.nan
    table.to_csv(folder / "cases.csv", index=False)
    rows = case_table(read_results(folder)).rows
    assert [cell.text for cell in rows[0].cells] == ["–"] * 4
    assert rows[1].cells[-1].text == "8.0 %"


def test_the_first_map_of_another_variable_is_its_error(make_results):
    player = score_player(make_results(parts=True, units="K", rain=False), 30.0)
    assert player.choices[0].label == "RMSE (K)"


@pytest.mark.parametrize("south_first", [True, False])
@pytest.mark.parametrize("largest", [400, 12])
def test_a_score_is_at_the_cells_of_its_block(make_evaluation, with_grid, south_first, largest, monkeypatch):
    """The grid has 24 cells along a side: with blocks of 5, the last one has 4."""
    monkeypatch.setattr("convlstm.report.results.LARGEST_MAP", largest)
    cases = with_grid("km")
    folder = make_evaluation(cases=cases if south_first else cases.isel(y=slice(None, None, -1)), parts=True)
    with xr.open_dataset(folder / "score_maps.nc") as opened:
        maps = opened.load().isel(y=slice(5), x=slice(5)).assign_attrs(block_width=5)
    maps["rmse"] = maps["rmse"] + 10 * xr.DataArray(np.arange(5), dims="y") + 100 * xr.DataArray(np.arange(5), dims="x")
    maps.to_netcdf(folder / "score_maps.nc")
    results = read_results(folder)
    shown = results.score_maps["rmse"].isel(method=0, lead_time=0).isel(results.blocks).values - 1
    step = 24 // min(largest, 24)
    rows = np.arange(24)[:: -1 if south_first else 1][::step] // 5
    np.testing.assert_array_equal(shown, 10 * rows[:, None] + 100 * (np.arange(24)[::step] // 5))


def test_score_maps_of_another_grid_are_refused(make_evaluation, refused):
    folder = make_evaluation(parts=True)
    with xr.open_dataset(folder / "score_maps.nc") as opened:
        maps = opened.load()
    maps.isel(x=slice(5)).to_netcdf(folder / "score_maps.nc")
    with refused(DataError, str(folder / "score_maps.nc")):
        read_results(folder)
