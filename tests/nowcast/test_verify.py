"""Scores of forecasts that any tool made: against scores by hand, for fields, members and probabilities."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.errors import ConfigError, DataError, OutputError
from convlstm.nowcast import folder_lock
from convlstm.nowcast.cf_output import make_forecast, write_forecast
from convlstm.nowcast.folder_lock import locked
from convlstm.nowcast.verify import VerifyOptions, verify
from convlstm.report import write_report
from convlstm.verification.evaluation_folder import FILES

DAY = np.datetime64("2020-06-04", "ns")
MINUTES = np.array([5.0, 10.0, 15.0])
QUICK = {"thresholds": (1.0,), "fss_window": 5}
STARTS = (20, 30, 40)  # minutes of the last day; its frames are from 0 to 65 min


@pytest.fixture
def truth(rain_frames):
    """The observation (start, lead_time, y, x) of each start of the last day."""
    frames = [[42 + (start + int(lead)) // 5 for lead in MINUTES] for start in STARTS]
    return np.stack([rain_frames.read(np.array(each))[:, 0] for each in frames])


def dataset(values, dims=("init_time", "lead_time", "y", "x"), **coords):
    return xr.Dataset(
        {"rain": (dims, np.float32(values), {"units": "mm/h"})},
        coords={
            "init_time": DAY + np.array(STARTS).astype("timedelta64[m]"),
            "lead_time": ("lead_time", MINUTES, {"units": "minutes"}),
            "y": ("y", np.arange(22) * 1000.0, {"units": "m"}),
            "x": ("x", np.arange(18) * 1000.0, {"units": "m"}),
            **coords,
        },
    )


@pytest.fixture
def scored(tmp_path, rain_frames):
    """Write forecasts by name, and verify them; returns the result and the tables by name."""

    def run(options=None, **datasets):
        paths = {}
        for name, each in datasets.items():
            paths[name] = tmp_path / f"{name}.nc"
            each.to_netcdf(paths[name])
        result = verify(paths, rain_frames, tmp_path / "e", options or VerifyOptions(**QUICK), overwrite=True)
        tables = {name: pd.read_csv(tmp_path / "e" / name) for name in FILES if name.endswith(".csv")}
        return result, tables

    return run


def value(table, method, score, lead=5.0, threshold=None):
    at = table["threshold"].isna() if threshold is None else table["threshold"] == threshold
    rows = table[at & (table["method"] == method) & (table["score"] == score) & (table["lead_time"] == lead)]
    return float(rows["value"].item())


def test_fields_have_the_scores_of_their_differences(tmp_path, scored, truth, rain_frames):
    shifted = np.roll(truth, 2, axis=-1)
    result, tables = scored(perfect=dataset(truth), shifted=dataset(shifted))
    scores = tables["scores.csv"]
    assert list(dict.fromkeys(scores["method"])) == ["perfect", "shifted", "optical flow", "persistence"]
    assert (result.cases, result.found, result.has_baselines) == (3, 3, True)
    assert value(scores, "perfect", "rmse", 10.0) == 0
    assert value(scores, "perfect", "csi", 10.0, 1.0) == 1
    for place, lead in enumerate(MINUTES):
        difference = (shifted - truth)[:, place]
        assert value(scores, "shifted", "rmse", lead) == pytest.approx(float(np.sqrt((difference**2).mean())), rel=1e-5)
        both = (shifted[:, place] >= 1) & (truth[:, place] >= 1)
        either = (shifted[:, place] >= 1) | (truth[:, place] >= 1)
        assert value(scores, "shifted", "csi", lead, 1.0) == pytest.approx(both.sum() / either.sum())
    last = np.stack([rain_frames.read(slice(42 + start // 5, 43 + start // 5))[0, 0] for start in STARTS])
    of_persistence = float(np.sqrt(((last - truth[:, 0]) ** 2).mean()))
    assert value(scores, "persistence", "rmse") == pytest.approx(of_persistence, rel=1e-5)
    page = write_report(tmp_path / "e", tmp_path / "report.html").read_text()
    assert "perfect" in page
    with xr.open_dataset(tmp_path / "e" / "cases.nc") as cases:
        assert set(cases["reason"].values) <= {"best CSI", "worst CSI", "among the most active"}
        gaps = np.isnan(cases["forecast"]).any(("case", "lead_time", "y", "x"))
    # in the maps alone, the optical flow is missing where it comes from outside the grid
    assert gaps["forecast_method"].values[gaps.values].tolist() == ["optical flow"]
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["long_name"] == "rain rate"


def test_a_folder_where_an_evaluation_runs_is_refused(tmp_path, truth, rain_frames, monkeypatch):
    dataset(truth).to_netcdf(tmp_path / "f.nc")
    with locked(tmp_path / "e" / "unfinished", "evaluation"):
        monkeypatch.setattr(folder_lock, "_process", lambda: -1)  # as another process sees it
        with pytest.raises(OutputError, match="got an evaluation in process"):
            verify({"f": tmp_path / "f.nc"}, rain_frames, tmp_path / "e", VerifyOptions(**QUICK))
    assert not (tmp_path / "e" / "scores.csv").exists()


def test_all_methods_are_scored_on_the_cells_that_each_of_them_has(scored, truth):
    holes = truth.copy()
    holes[:, :, :4] = np.nan
    scores = scored(whole=dataset(truth + 1), holes=dataset(holes))[1]["scores.csv"]
    assert scores.groupby("method")["pixels"].unique().map(tuple).unique().tolist() == [(3 * 18 * 18,)]


def test_members_have_the_scores_of_an_ensemble(scored, truth):
    members = np.stack([truth, truth + 1, truth + 2], axis=1)
    dims = ("init_time", "realization", "lead_time", "y", "x")
    numbers = ("realization", [0, 1, 2], {"standard_name": "realization"})
    tables = scored(steps=dataset(members, dims, realization=numbers))[1]
    ensembles = tables["ensembles.csv"].assign(threshold=np.nan)
    # fair CRPS of x, x + 1 and x + 2 for x: 1 − (1 + 1 + 2) / 6
    assert value(ensembles, "steps", "crps") == pytest.approx(1 - 4 / 6, abs=1e-5)
    assert value(tables["scores.csv"], "steps", "mean_error") == pytest.approx(1, abs=1e-5)
    share = np.mean([truth[:, 0] + add >= 1 for add in range(3)], axis=0)
    brier = ((share - (truth[:, 0] >= 1)) ** 2).mean()
    assert value(tables["scores.csv"], "steps", "brier", 5.0, 1.0) == pytest.approx(brier, abs=1e-3)
    assert set(tables["ranks.csv"]["rank"]) == {0, 1, 2, 3}


@pytest.mark.parametrize("units", ["1", "%"])
def test_probabilities_alone_are_scored(scored, truth, units):
    thresholds = [0.5, 1.0]
    chance = np.stack([0.8 * (truth >= level) for level in thresholds], axis=1)
    dims = ("init_time", "threshold", "lead_time", "y", "x")
    levels = ("threshold", thresholds, {"units": "mm/h"})
    file = dataset(chance * (100 if units == "%" else 1), dims, threshold=levels)
    file["rain"].attrs["units"] = units
    file = file.rename(rain="probability_of_rain")
    tables = scored(VerifyOptions(thresholds=(0.5, 1.0), fss_window=5), other=file)[1]
    happened = (truth[:, 0] >= 1).mean()
    assert value(tables["scores.csv"], "other", "brier", 5.0, 1.0) == pytest.approx(0.04 * happened, abs=1e-4)
    assert value(tables["scores.csv"], "other", "csi", 5.0, 1.0) == 1  # the event where its probability is above 0.5
    assert set(tables["reliability.csv"]["threshold"]) == {0.5, 1.0}


def test_probabilities_beyond_1_are_refused(scored, truth):
    dims, levels = ("init_time", "threshold", "lead_time", "y", "x"), ("threshold", [1.0], {"units": "mm/h"})
    file = dataset(80.0 * (truth[:, None] >= 1), dims, threshold=levels)
    file["rain"].attrs["units"] = "1"
    with pytest.raises(DataError, match="probabilities from 0 to 1"):
        scored(other=file.rename(rain="probability_of_rain"))


def test_own_forecasts_are_scored_with_mean_and_probabilities(tmp_path, event_nowcaster, rain_frames):
    folder = tmp_path / "forecasts"
    folder.mkdir()
    for start in ("00:20", "00:30"):
        made = make_forecast(event_nowcaster, rain_frames, lead_times=[300.0, 600.0], init_time=f"2020-06-04T{start}")
        write_forecast(folder / f"{start[-2:]}.nc", made)
    result = verify({"ours": folder}, rain_frames, tmp_path / "e", VerifyOptions(**QUICK))
    at = [46, 48]  # the frames at 00:20 and 00:30
    targets = np.stack([rain_frames.read(slice(n + 1, n + 2))[0, 0] for n in at])
    means = np.stack([xr.open_dataset(folder / f"{m}.nc", engine="netcdf4")["rain_mean"][0] for m in (20, 30)])
    expected = float((means - targets).mean())
    assert value(result.scores, "ours", "mean_error") == pytest.approx(expected, abs=1e-5)
    assert value(result.scores, "ours", "brier", 5.0, 1.0) >= 0


def test_without_frames_before_the_start_there_are_no_baselines(tmp_path, read, make_rain, truth):
    dataset(truth).isel(init_time=[0]).to_netcdf(tmp_path / "one.nc")
    late = make_rain().isel(time=slice(42 + 5, None))  # from 00:25 on, after the start at 00:20
    result = verify({"one": tmp_path / "one.nc"}, read(late), tmp_path / "e", VerifyOptions(**QUICK))
    assert set(result.scores["method"]) == {"one"}
    assert not result.has_baselines
    assert value(result.scores, "one", "rmse") == 0
    write_report(tmp_path / "e", tmp_path / "report.html")


def test_starts_days_and_lead_times_can_be_chosen(scored, truth):
    result, tables = scored(VerifyOptions(lead_minutes=(10.0,), max_cases=2, **QUICK), other=dataset(truth))
    assert (result.cases, result.found) == (2, 3)
    assert set(tables["scores.csv"]["lead_time"]) == {10.0}
    assert scored(VerifyOptions(days=("2020-06-04",), **QUICK), other=dataset(truth))[0].cases == 3


@pytest.mark.parametrize(
    ("options", "change", "kind", "words"),
    [
        ({"lead_minutes": (7.0,)}, None, DataError, "--lead-times: expected .*5, 10, 15 min, got 7 min"),
        ({"days": ("2020-06-01",)}, None, DataError, "--day: expected days of the starts, from 2020-06-04"),
        ({"thresholds": (0.0,)}, None, ConfigError, "--threshold: expected rain rates above 0"),
        ({"fss_window": 50}, None, ConfigError, "--fss-window: expected 1 to 18 cells"),
        ({"min_wet": 1.0}, None, DataError, "--min-wet: expected a start with rain"),
        ({}, lambda d: d.assign_coords(init_time=d["init_time"].values + np.timedelta64(9, "D")), DataError, "observ"),
        (
            {},
            lambda d: d.assign_coords(lead_time=("lead_time", [5.0, 7.0, 15.0], {"units": "minutes"})),
            DataError,
            r"observations: .* none at 7 min. Pass `--lead-times 5,15`",
        ),
        ({}, lambda d: d.isel(y=slice(3, None)), DataError, "the grid of the observations"),
    ],
)
def test_what_cannot_be_scored_is_refused(scored, truth, tmp_path, options, change, kind, words):
    forecasts = dataset(truth) if change is None else change(dataset(truth))
    with pytest.raises(kind, match=words):
        scored(VerifyOptions(**QUICK | options), other=forecasts)
    assert not (tmp_path / "e").exists()


def test_an_evaluation_is_replaced_on_request_only(tmp_path, rain_frames, truth):
    dataset(truth).to_netcdf(tmp_path / "f.nc")
    options = VerifyOptions(max_cases=1, **QUICK)
    verify({"f": tmp_path / "f.nc"}, rain_frames, tmp_path / "e", options)
    with pytest.raises(OutputError, match="--overwrite"):
        verify({"f": tmp_path / "f.nc"}, rain_frames, tmp_path / "e", options)
    verify({"f": tmp_path / "f.nc"}, rain_frames, tmp_path / "e", options, overwrite=True)
    with pytest.raises(ConfigError, match="--name"):
        verify({"persistence": tmp_path / "f.nc"}, rain_frames, tmp_path / "e2", options)


def test_the_memory_of_many_cases_is_limited(tmp_path, rain_frames, truth, monkeypatch):
    dataset(truth).to_netcdf(tmp_path / "f.nc")
    monkeypatch.setattr("convlstm.nowcast.verify._MAX_BYTES", 10_000)
    with pytest.raises(DataError, match=r"--max-cases: .*Decrease"):
        verify({"f": tmp_path / "f.nc"}, rain_frames, tmp_path / "e", VerifyOptions(**QUICK))
