"""Reading a folder: what is accepted, and the one line for each thing that is not."""

import json

import cftime
import numpy as np
import pytest
import xarray as xr

from convlstm.errors import DataError
from convlstm.report.results import read_results


def test_methods_stand_in_reading_order_whatever_the_file_says(make_results):
    assert make_results().methods == ["convlstm", "optical flow", "persistence"]


def test_select_takes_one_score_threshold_and_method_in_order_of_lead_time(make_results, synthetic_scores):
    results = make_results(scores=synthetic_scores.sample(frac=1, random_state=3))
    rows = results.select("csi", 1.0, "convlstm")
    assert rows["lead_time"].tolist() == [5, 15, 30, 60]
    assert rows.loc[30.0, "value"] == 0.45
    assert results.select("rmse", None, "persistence").loc[30.0, "value"] == 0.7


def test_numbers_of_a_row_that_is_not_there_are_undefined(make_results):
    row = make_results().numbers("csi", 1.0, "convlstm", 45.0)
    assert np.isnan(list(row.values())).all()
    assert make_results().numbers("csi", 1.0, "convlstm", 30.0)["hits"] == 60


@pytest.mark.parametrize("name", ["evaluation.json", "scores.csv", "cases.nc"])
@pytest.mark.parametrize("content", [None, b"", b"\x00\xff no such format"])
def test_each_file_missing_or_broken_is_one_line_with_its_name(make_evaluation, name, content):
    folder = make_evaluation()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        read_results(folder)
    assert "\n" not in str(caught.value)
    assert "`convlstm evaluate` or `convlstm verify`" in caught.value.hint
    if content is None:
        assert caught.value.received == "no such file"


def test_a_damaged_map_is_one_line_whatever_the_library_raises(make_evaluation, monkeypatch):
    def damaged(*arguments, **options):
        raise RuntimeError("NetCDF: HDF error")

    folder = make_evaluation()
    monkeypatch.setattr(xr, "open_dataset", damaged)
    with pytest.raises(DataError, match=r"cases\.nc: expected a NetCDF file, got NetCDF: HDF error"):
        read_results(folder)


def test_a_folder_of_a_stranger_reads_no_other_file(make_evaluation, tmp_path):
    h5py = pytest.importorskip("h5py")
    folder = make_evaluation()
    with h5py.File(folder / "cases.nc", "r+") as file:
        file["secret"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
    with pytest.raises(DataError, match=r"cases\.nc: expected groups and data of this file only, got the link secret"):
        read_results(folder)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"methods": []}, "methods"),
        ({"rain": "perhaps"}, "rain"),
        ({"training": [{"loss": 1.0}]}, "training.0.step"),
        ({"title": None}, "title"),
    ],
)
def test_a_wrong_description_names_the_key(make_evaluation, change, found):
    with pytest.raises(DataError, match=rf"evaluation\.json.*{found}"):
        read_results(make_evaluation(**change))


def test_a_missing_key_is_named(make_evaluation):
    folder = make_evaluation()
    path = folder / "evaluation.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "units"}))
    with pytest.raises(DataError, match="units: Field required"):
        read_results(folder)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda t: t.drop(columns="hits"), "column 'hits'"),
        (lambda t: t[t["method"] != "convlstm"], "method 'convlstm'"),
        (lambda t: t[t["threshold"] != 5.0], "threshold '5.0'"),
        (lambda t: t[t["score"] != "rmse"], "score 'rmse'"),
        (lambda t: t.astype({"value": str}).replace({"value": "0.45"}, "high"), "high"),
        (lambda t: t.iloc[[0, 0, *range(1, len(t))]], "twice"),
    ],
)
def test_a_wrong_table_of_scores_is_named(make_evaluation, synthetic_scores, spoil, found):
    with pytest.raises(DataError, match=rf"scores\.csv.*{found}"):
        read_results(make_evaluation(scores=spoil(synthetic_scores)))


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda c: c.drop_vars("inputs"), "variable 'inputs'"),
        (lambda c: c.drop_vars("init_time"), "coordinate 'init_time'"),
        (lambda c: c.assign_coords(method=["a", "b", "c"]), "method 'persistence'"),
        (lambda c: c.rename(y="row"), "observation|forecast on"),
        (lambda c: c.assign_coords(init_time=("case", [1, 2])), "init_time as times"),
        (lambda c: c.isel(case=slice(0, 0)), "forecast with values"),
    ],
)
def test_wrong_cases_are_named(make_evaluation, synthetic_cases, spoil, found):
    with pytest.raises(DataError, match=rf"cases\.nc.*{found}"):
        read_results(make_evaluation(cases=spoil(synthetic_cases)))


def test_north_is_up_where_the_file_tells_it(make_results, synthetic_cases):
    stored = synthetic_cases["observation"].values
    assert np.array_equal(make_results().cases["observation"].values, stored)

    northing = xr.DataArray(np.arange(24) * 1000.0, dims="y", attrs={"units": "m"})
    turned = make_results(cases=synthetic_cases.assign_coords(y=northing)).cases
    assert np.array_equal(turned["observation"].values, stored[..., ::-1, :])
    southward = make_results(cases=synthetic_cases.assign_coords(y=northing[::-1])).cases
    assert np.array_equal(southward["observation"].values, stored)

    latitude = np.repeat(np.linspace(50.0, 52.0, 24)[:, None], 24, axis=1)
    turned = make_results(cases=synthetic_cases.assign_coords(latitude=(("y", "x"), latitude))).cases
    assert np.array_equal(turned["observation"].values, stored[..., ::-1, :])


def test_a_row_number_without_units_says_nothing_about_north(make_results, synthetic_cases):
    numbered = make_results(cases=synthetic_cases.assign_coords(y=np.arange(24))).cases
    assert np.array_equal(numbered["observation"].values, synthetic_cases["observation"].values)


def test_dimensions_may_stand_in_any_order(make_results, synthetic_cases):
    shuffled = synthetic_cases.transpose("x", "lead_time", "method", "case", "y", "input_time")
    assert np.array_equal(make_results(cases=shuffled).cases["forecast"].values, synthetic_cases["forecast"].values)


def test_very_large_maps_become_means_of_cells(make_results, synthetic_cases):
    large = synthetic_cases.isel(case=[0], lead_time=[0], input_time=[0]).pad(x=(0, 386), constant_values=4.0)
    large["observation"][0, 0, :2, :2] = np.array([[1.0, 2.0], [np.nan, 6.0]])
    results = make_results(cases=large)
    assert results.cells_per_pixel == 2
    assert results.cases.sizes["x"] == 205
    assert results.cases["observation"].values[0, 0, 0, 0] == 3.0
    assert results.cases["observation"].values[0, 0, 5, 200] == 4.0


def test_lead_times_with_a_unit_of_time_stay_numbers(make_results, synthetic_cases):
    for name in ("lead_time", "input_time"):
        synthetic_cases[name].attrs["units"] = "minutes"
    cases = make_results(cases=synthetic_cases).cases
    assert cases["lead_time"].values.tolist() == [5, 15, 30, 60]
    assert cases["input_time"].values.tolist() == [-10, -5, 0]


def test_other_calendars_are_read(make_results, synthetic_cases):
    times = [cftime.Datetime360Day(2001, 2, 30), cftime.Datetime360Day(2001, 3, 1)]
    results = make_results(cases=synthetic_cases.assign_coords(init_time=("case", times)))
    assert results.cases["init_time"].values[0] == times[0]
