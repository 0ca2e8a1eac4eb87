"""Ensembles in an evaluation: the numbers of its tables, the cells that are compared, and what the report shows."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.errors import ConfigError, DataError
from convlstm.nowcast import evaluation_forecasts as forecasts_module
from convlstm.nowcast import members as members_module
from convlstm.nowcast.evaluate import evaluate
from convlstm.nowcast.evaluation_cases import Selection
from convlstm.nowcast.evaluation_ensembles import Ensembles, check_shape, model_members
from convlstm.nowcast.forecast_files import open_forecasts
from convlstm.report import write_report
from convlstm.verification import ensemble_sums, ensemble_table
from convlstm.verification.ensembles import ENSEMBLE_DIMS

ENDS = [*range(3 * 14 + 2, 3 * 14 + 10)]
LEADS = np.arange(1, 5) * 300.0
SELECTION = Selection(min_wet=0.0, thresholds=(0.1, 1.0, 5.0))


def members_of(frames, end, count=5):
    """Return members (realization, lead_time, y, x): the observation, times numbers that depend on the case."""
    random = np.random.default_rng(end)
    truth = frames.read(slice(end + 1, end + 5))[:, 0]
    return (truth[None] * random.gamma(4.0, 0.25, (count, 4, 1, 1))).astype(np.float32)


@pytest.fixture
def forecast_file(rain_frames, tmp_path):
    """A file of another tool with five members, for six of the eight cases; one cell is missing in one member."""
    members = np.stack([members_of(rain_frames, end) for end in ENDS[1:7]])
    members[:, 2, :, 3, 4] = np.nan
    path = tmp_path / "other.nc"
    xr.Dataset(
        {"rain": (("init_time", "number", "lead_time", "y", "x"), members, {"units": "mm/h"})},
        coords={
            "init_time": rain_frames.time.values[ENDS[1:7]],
            "lead_time": ("lead_time", LEADS / 60, {"units": "minutes"}),
        },
    ).to_netcdf(path)
    return open_forecasts(path, rain_frames, LEADS)


def test_an_ensemble_of_another_tool_is_scored_and_shown(make_nowcaster, rain_frames, forecast_file, tmp_path):
    folder = tmp_path / "e"
    scores = evaluate(make_nowcaster(), rain_frames, folder, SELECTION, files={"other": forecast_file})
    assert list(dict.fromkeys(scores["method"])) == ["convlstm", "other", "optical flow", "persistence"]
    # only starts with a forecast are scored, and every method on the same cells
    assert set(scores["cases"]) == {6}
    assert set(scores["pixels"]) == {6 * 22 * 18}
    members = np.stack([members_of(rain_frames, end) for end in ENDS[1:7]])
    observed = np.stack([rain_frames.read(slice(end + 1, end + 5))[:, 0] for end in ENDS[1:7]])
    found = scores[(scores["method"] == "other") & (scores["lead_time"] == 10)].set_index(["score", "threshold"])
    inside = np.ones((22, 18), bool)
    inside[3, 4] = False  # this cell has the optical flow in one member
    share = (members >= 1).mean(axis=1)[:, 1]
    squares = ((share - (observed[:, 1] >= 1)) ** 2)[:, inside].sum()
    assert found.loc[("brier", 1.0), "value"] == pytest.approx(squares / (6 * 22 * 18), abs=6 / (6 * 22 * 18))
    rmse = np.sqrt(((members.mean(axis=1) - observed)[:, 1][:, inside] ** 2).mean())
    assert found.loc["rmse", "value"].item() == pytest.approx(rmse, rel=0.05)
    # the ensemble scores leave out the cell that one member misses
    dims = [dim for dim in ENSEMBLE_DIMS if dim != "realization"]
    members[:, :, :, 3, 4] = np.nan
    named = xr.DataArray(members.swapaxes(1, 2), dims=ENSEMBLE_DIMS, coords={"lead_time": LEADS / 60})
    truth = xr.DataArray(observed, dims=dims, coords={"lead_time": LEADS / 60})
    expected = ensemble_table({"other": ensemble_sums(named, truth, ranked_from=0.1)})
    written = pd.read_csv(folder / "ensembles.csv")
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-5)
    assert set(written["pixels"]) == {6 * (22 * 18 - 1)}
    assert len(pd.read_csv(folder / "ranks.csv")) == 4 * 6
    cuts = pd.read_csv(folder / "cuts.csv")
    assert set(cuts[cuts["method"] == "other"]["cut"]) == {0.2, 0.4, 0.6, 0.8, 1.0}
    assert set(cuts[cuts["method"] == "persistence"]["cut"]) == {1.0}
    assert "Rank histograms" in write_report(folder, tmp_path / "report.html").read_text()


def test_the_members_of_the_model_are_made_by_a_function(make_nowcaster, rain_frames, tmp_path):
    calls = []

    def make_members(inputs, seconds, leads, members):
        calls.append((inputs.shape, members))
        end = int(np.flatnonzero(rain_frames.seconds == seconds[-1])[0])
        return xr.DataArray(
            members_of(rain_frames, end, members), dims=("realization", "lead_time", "y", "x")
        ).transpose("y", "x", "lead_time", "realization")

    plain = evaluate(make_nowcaster(), rain_frames, tmp_path / "e", SELECTION)
    folder = tmp_path / "f"
    scores = evaluate(make_nowcaster(), rain_frames, folder, SELECTION, members=7, make_members=make_members)
    pd.testing.assert_frame_equal(scores, plain)  # the field of the model is scored as before
    assert calls == [((3, 1, 22, 18), 7)] * 8
    table = pd.read_csv(folder / "ensembles.csv")
    assert set(table["method"]) == {"convlstm"}
    assert set(table["members"]) == {7}
    assert (table[table["score"] == "crps"]["value"] > 0).all()
    assert pd.read_csv(tmp_path / "e" / "ensembles.csv").empty
    assert "ensembles-title" not in write_report(tmp_path / "e", tmp_path / "report.html").read_text()


def test_the_members_of_a_model_of_events_are_made_with_a_seed_for_each_start(event_nowcaster, rain_frames, tmp_path):
    window = slice(ENDS[0] - 2, ENDS[0] + 1)
    inputs, seconds = rain_frames.read(window), rain_frames.seconds[window]
    make = model_members(event_nowcaster)
    first, again, later = (make(inputs, s, LEADS, 3) for s in (seconds, seconds, seconds + 300.0))
    assert first.dims == ("realization", "lead_time", "y", "x")
    assert first.shape == (3, 4, 22, 18)
    assert first.equals(again)
    assert not first.equals(later)
    evaluate(event_nowcaster, rain_frames, tmp_path / "e", Selection(min_wet=0.0, max_cases=3), members=3)
    table = pd.read_csv(tmp_path / "e" / "ensembles.csv")
    assert set(table["method"]) == {"convlstm"}
    assert set(table["cases"]) == {3}
    page = write_report(tmp_path / "e", tmp_path / "report.html").read_text()
    assert "ConvLSTM, 3 members" in page


def test_members_of_a_model_without_probabilities_are_refused(make_nowcaster, rain_frames, tmp_path):
    with pytest.raises(ConfigError, match="members: expected a model of rain"):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "e", SELECTION, members=5)


def test_ensembles_are_compared_on_the_cells_that_all_of_them_know():
    members = np.ones((2, 1, 3, 3), np.float32)
    holes = members.copy()
    holes[1, 0, 0] = np.nan
    observed = np.ones((1, 3, 3), np.float32)
    observed[0, 2, 2] = np.nan
    sums = Ensembles({}).case_sums({"whole": members, "with holes": holes}, observed, 0)
    assert [sums[name]["pixels"].item() for name in ("whole", "with holes")] == [5, 5]


def test_a_number_of_members_that_changes_is_refused(make_nowcaster, rain_frames, tmp_path):
    calls = []

    def made(inputs, seconds, leads):
        calls.append(seconds)
        return np.ones((2 + len(calls) // 2, len(leads), *inputs.shape[2:]), np.float32)

    with pytest.raises(DataError, match="changing: expected 2 members, as in the first case, got 3"):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "e", SELECTION, ensembles={"changing": made})


@pytest.mark.parametrize("shape", [(1, 4, 3, 3), (5, 3, 3, 3), (4, 3, 3)])
def test_members_of_another_shape_are_refused(shape):
    with pytest.raises(DataError, match="at least 2 members of shape"):
        check_shape("other", np.zeros(shape, np.float32), (4, 3, 3))


def test_starts_without_a_case_and_names_that_are_taken_are_refused(
    make_nowcaster, rain_frames, forecast_file, tmp_path
):
    days = Selection(min_wet=0.0, days=("2020-06-01",), allow_training_days=True)
    with pytest.raises(DataError, match="other: expected a forecast that starts"):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "e", days, files={"other": forecast_file})
    with pytest.raises(ConfigError, match="different names"):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "e", SELECTION, files={"persistence": forecast_file})


def test_the_report_has_maps_of_the_probabilities_of_a_model(event_nowcaster, rain_frames, tmp_path):
    folder = tmp_path / "e"
    evaluate(event_nowcaster, rain_frames, folder, Selection(min_wet=0.0, max_cases=2))
    with xr.open_dataset(folder / "cases.nc", decode_timedelta=False) as cases:
        cases.load()
    # 20 minutes are the nearest lead time to half an hour, and 0.1 mm/h has no map
    assert cases["probability_lead_time"].item() == 20
    assert cases["threshold"].values.tolist() == [1.0, 5.0]
    end = int(np.flatnonzero(rain_frames.time.values == cases["init_time"].values[0])[0])
    window = slice(end - 2, end + 1)
    chance = event_nowcaster.predict_probability(
        rain_frames.read(window)[None], rain_frames.seconds[None, window], LEADS
    )[0, -1, 1:]
    np.testing.assert_allclose(cases["probability"][0], chance, atol=1e-3)
    page = write_report(folder, tmp_path / "report.html").read_text()
    assert "ConvLSTM: probability of 5 mm/h or more, 20 minutes ahead" in page
    assert "Observed: 1 mm/h or more, 20 minutes ahead" in page
    assert "Economic value" in page
    assert '<a href="#decisions">' in page


def test_probability_maps_are_missing_where_nothing_was_observed(event_nowcaster, make_rain, read, tmp_path):
    rain = make_rain()
    rain["rain"][:, 3:9, 2:11] = np.nan
    evaluate(event_nowcaster, read(rain), tmp_path / "e", Selection(min_wet=0.0, max_cases=1))
    with xr.open_dataset(tmp_path / "e" / "cases.nc", decode_timedelta=False) as cases:
        maps = cases["probability"].values
    assert np.isnan(maps[..., 3:9, 2:11]).all()
    assert np.isfinite(maps).sum() == 2 * (22 * 18 - 6 * 9)


def test_members_beyond_the_limit_of_memory_are_refused(event_nowcaster, rain_frames, tmp_path, monkeypatch):
    monkeypatch.setattr(members_module, "_MAX_BYTES", 2 * 5 * 4 * 4 * 22 * 18)  # two copies of five members
    selection = Selection(min_wet=0.0, max_cases=1)
    with pytest.raises(DataError, match=r"members: .* for 6 members, .*Pass at most 5 members\."):
        evaluate(event_nowcaster, rain_frames, tmp_path / "e", selection, members=6)


def test_members_count_in_the_memory_of_a_case(make_nowcaster, rain_frames, forecast_file, tmp_path, monkeypatch):
    field = 4 * 22 * 18  # numbers of one case
    # four methods and the observation in 4 bytes, three probabilities in 2, their mean, and two copies of five members
    monkeypatch.setattr(forecasts_module, "_MAX_BYTES", field * (4 * 5 + 2 * 3 + 4) + 2 * 5 * 4 * field - 1)
    with pytest.raises(DataError, match="grid: expected forecasts of at most"):
        evaluate(make_nowcaster(), rain_frames, tmp_path / "e", SELECTION, files={"other": forecast_file})
