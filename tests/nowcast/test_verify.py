"""Scores of forecasts that any tool made: against scores by hand, for fields, members and probabilities."""

import gc
import io
import json
import weakref

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.data import open_frames
from convlstm.errors import ConfigError, DataError, OutputError
from convlstm.nowcast import evaluation_forecasts, folder_lock
from convlstm.nowcast.baselines import optical_flow, persistence
from convlstm.nowcast.cf_output import make_forecast, write_forecast
from convlstm.nowcast.evaluation_details import part_tables
from convlstm.nowcast.folder_lock import locked
from convlstm.nowcast.verified_forecasts import ForecastSource, open_source
from convlstm.nowcast.verify import VerifyOptions, verify
from convlstm.report import write_report
from convlstm.verification import (
    case_sums,
    cut_table,
    difference_table,
    ensemble_sums,
    ensemble_table,
    fss_table,
    probability_decisions,
    rank_table,
    reliability_table,
    roc_table,
    spectrum_tables,
    value_table,
)
from convlstm.verification.decisions import CUTS, event_decisions
from convlstm.verification.ensembles import member_share
from convlstm.verification.evaluation_folder import FILES
from convlstm.verification.score_maps import block_sums, score_maps
from convlstm.verification.scorecard import score_table

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


@pytest.fixture
def three_kinds(truth):
    """A field with a mean and missing cells, members, and probabilities alone: files by name, and what is in them."""
    random = np.random.default_rng(1)
    noise = random.normal(size=(4, *truth.shape)).astype(np.float32)
    field = np.maximum(np.roll(truth, 1, axis=-1) + noise[0], 0)
    field[1, :, :3] = np.nan
    mean = field + np.float32(0.25)
    members = np.maximum(np.roll(truth, 1, axis=-2)[:, None] + noise[1:].swapaxes(0, 1), 0)
    thresholds = [1.0, 2.0]
    chance = np.stack([np.clip(0.7 * (truth >= level) + 0.1, 0, 1) for level in thresholds], axis=2)
    files = {
        "field": dataset(field).assign(rain_mean=(("init_time", "lead_time", "y", "x"), mean, {"units": "mm/h"})),
        "steps": dataset(
            members,
            ("init_time", "realization", "lead_time", "y", "x"),
            realization=("realization", [0, 1, 2], {"standard_name": "realization"}),
        ),
        "chance": dataset(
            chance,
            ("init_time", "lead_time", "threshold", "y", "x"),
            threshold=("threshold", thresholds, {"units": "mm/h"}),
        ).rename(rain="chance"),
    }
    files["chance"]["chance"].attrs["units"] = "1"
    return files, field, mean, members, np.float32(chance)


def tables_of_arrays(rain_frames, truth, field, mean, members, chance):
    """The tables and score maps of `three_kinds`, from arrays over all cases by the functions of `verification`."""
    windows = [slice(40 + start // 5, 43 + start // 5) for start in STARTS]
    inputs = [rain_frames.read(window) for window in windows]
    seconds = [rain_frames.seconds[window] for window in windows]
    flow = np.stack([optical_flow(*each, MINUTES * 60)[:, 0] for each in zip(inputs, seconds, strict=True)])
    still = np.stack([persistence(each, MINUTES)[:, 0] for each in inputs])
    events = np.select([chance[:, :, 1] >= 0.5, chance[:, :, 0] >= 0.5], [2.0, 1.0], 0.0)
    names = ["field", "steps", "chance", "optical flow", "persistence"]
    dims = ("init_time", "lead_time", "y", "x")
    coords = {"init_time": np.arange(len(STARTS)), "lead_time": MINUTES}
    fields = np.stack([field, np.median(members, axis=1), events, flow, still]).astype(np.float32)
    forecast = xr.DataArray(fields, dims=("method", *dims), coords=coords | {"method": names})
    known = np.isfinite(fields).all(axis=0)
    observed = xr.DataArray(np.where(known, truth, np.float32(np.nan)), dims=dims, coords=coords)
    shares = np.stack([member_share(each, [1.0, 3.0]) for each in members])
    probabilities = {
        name: xr.DataArray(
            values.astype(np.float16),
            dims=("init_time", "lead_time", "threshold", "y", "x"),
            coords=coords | {"threshold": levels},
        )
        for name, values, levels in (("steps", shares, [1.0, 3.0]), ("chance", chance, [1.0, 2.0]))
    }
    means = {
        "field": xr.DataArray(mean, dims=dims, coords=coords),
        "steps": xr.DataArray(members.mean(axis=1), dims=dims, coords=coords),
    }
    options = {"thresholds": [1.0, 3.0], "means": means}
    sums = case_sums(forecast, observed, fss_window=5, probabilities=probabilities, **options)
    last = xr.DataArray(np.stack([each[-1, 0] for each in inputs]), dims=("init_time", "y", "x"))
    spectra, fine_scales = spectrum_tables(forecast, observed, last)
    decisions = [
        *probability_decisions("steps", probabilities["steps"], observed, members=3),
        *probability_decisions("chance", probabilities["chance"], observed),
        *event_decisions(sums, ["field", "optical flow", "persistence"]),
    ]
    ensemble = xr.DataArray(members, dims=("init_time", "realization", "lead_time", "y", "x"), coords=coords)
    of_steps = {"steps": ensemble_sums(ensemble.transpose(*dims[:2], "realization", ...), observed, ranked_from=0.1)}
    times = xr.DataArray(DAY + np.array(STARTS).astype("timedelta64[m]"), dims="case")
    in_blocks = block_sums(forecast, observed, block=1, **options)
    return xr.merge([score_maps(in_blocks), in_blocks]), {
        "scores.csv": score_table(sums),
        "differences.csv": difference_table(sums, "field"),
        "fss.csv": fss_table(sums),
        "spectra.csv": spectra,
        "fine_scales.csv": fine_scales,
        "reliability.csv": reliability_table(probabilities, observed),
        "cuts.csv": cut_table(decisions),
        "roc.csv": roc_table(decisions),
        "economic_value.csv": value_table(decisions),
        "ensembles.csv": ensemble_table(of_steps),
        "ranks.csv": rank_table(of_steps),
        **part_tables(times, sums),
    }


def test_every_table_is_that_of_arrays_over_all_cases(tmp_path, rain_frames, truth, three_kinds):
    files, *arrays = three_kinds
    for name, file in files.items():
        file.to_netcdf(tmp_path / f"{name}.nc")
    options = VerifyOptions(thresholds=(1.0, 3.0), fss_window=5)
    verify({name: tmp_path / f"{name}.nc" for name in files}, rain_frames, tmp_path / "e", options)
    maps, expected = tables_of_arrays(rain_frames, truth, *arrays)
    assert set(expected) == {name for name in FILES if name.endswith(".csv")}
    for name, table in expected.items():
        found, wanted = (pd.read_csv(file) for file in (tmp_path / "e" / name, io.StringIO(table.to_csv(index=False))))
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-12, atol=1e-12, obj=name)
    with xr.open_dataset(tmp_path / "e" / "score_maps.nc", decode_timedelta=False) as found:
        for name in maps:  # in single precision
            np.testing.assert_allclose(found[name].values, maps[name].values, rtol=1e-6, err_msg=str(name))


class StopError(Exception):
    """Ends a verification from within."""


def stop_at_second(done, of):
    if done == 2:
        raise StopError


def test_an_interrupted_verification_continues_with_the_same_files(tmp_path, rain_frames, three_kinds):
    paths = {}
    for name, file in three_kinds[0].items():
        paths[name] = tmp_path / f"{name}.nc"
        file.to_netcdf(paths[name])
    whole, folder, calls = tmp_path / "whole", tmp_path / "e", []
    options = VerifyOptions(thresholds=(1.0, 3.0), fss_window=5)
    verify(paths, rain_frames, whole, options)
    with pytest.raises(StopError):
        verify(paths, rain_frames, folder, options, on_case=stop_at_second)
    with pytest.raises(OutputError, match=r"one that differs in fss_window\. Choose another `--output`"):
        verify(paths, rain_frames, folder, VerifyOptions(thresholds=(1.0, 3.0), fss_window=4))
    verify(paths, rain_frames, folder, options, on_case=lambda *done: calls.append(done))
    assert calls == [(2, 3), (3, 3)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in FILES:
        if not name.endswith(".nc"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    with xr.open_dataset(folder / "cases.nc") as ours, xr.open_dataset(whole / "cases.nc") as theirs:
        assert ours.identical(theirs)


def test_one_case_at_a_time_is_in_memory(tmp_path, rain_frames, three_kinds, monkeypatch):
    paths = {}
    for name, file in three_kinds[0].items():
        paths[name] = tmp_path / f"{name}.nc"
        file.to_netcdf(paths[name])
    read, starts, fields = ForecastSource.read, [], []

    def with_reference(source, start, leads):
        made = read(source, start, leads)
        starts.append(start)
        fields.append(weakref.ref(made.field))
        gc.collect()
        assert {s for s, field in zip(starts, fields, strict=True) if field() is not None} == {start}
        return made

    monkeypatch.setattr(ForecastSource, "read", with_reference)
    gc.freeze()  # a collection looks at new objects only, and takes milliseconds
    try:
        assert verify(paths, rain_frames, tmp_path / "e", VerifyOptions(**QUICK)).cases == 3
    finally:
        gc.unfreeze()
    assert len(set(starts)) == 3


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


@pytest.mark.parametrize("count", [5, 10, 20])
def test_shares_of_members_are_in_the_bins_of_their_exact_values(scored, truth, count):
    cells = np.arange(truth.size).reshape(truth.shape) % (count + 1)  # the number of members with rain in each cell
    members = np.where(np.arange(1, count + 1)[:, None, None, None, None] <= cells, 2.0, 0.0).swapaxes(0, 1)
    numbers = ("realization", np.arange(count), {"standard_name": "realization"})
    tables = scored(steps=dataset(members, ("init_time", "realization", "lead_time", "y", "x"), realization=numbers))[1]
    found = tables["reliability.csv"].groupby("bin_start")["pixels"].sum()
    expected = np.bincount(np.minimum(10 * cells // count, 9).ravel(), minlength=10)
    assert found.tolist() == expected.tolist()


def test_probabilities_in_a_file_with_members_are_no_shares_of_them(scored, truth):
    dims = ("init_time", "realization", "lead_time", "y", "x")
    numbers = ("realization", [0, 1], {"standard_name": "realization"})
    file = dataset(np.stack([truth, truth], axis=1), dims, realization=numbers)
    chance = ("init_time", "threshold", "lead_time", "y", "x"), np.full_like(truth, 0.4)[:, None], {"units": "1"}
    tables = scored(other=file.assign(chance=chance, threshold=("threshold", [1.0], {"units": "mm/h"})))[1]
    cuts = tables["cuts.csv"].query("method == 'other' and lead_time == 5").set_index("cut")
    assert len(cuts) == len(CUTS)
    assert cuts.loc[0.4, "pod"] == 1
    assert cuts.loc[0.45, "pod"] == 0


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


def chances(truth, thresholds, units, leads=None):
    """A file with probabilities of 0.8 where a threshold in mm/h is reached; the coordinate is in other units."""
    dims = ("init_time", "threshold", "lead_time", "y", "x")
    values = np.stack([0.8 * (truth >= level) for level in thresholds.values()], axis=1)
    attrs = {"units": units} if units else {}
    file = dataset(values, dims, threshold=("threshold", list(thresholds), attrs)).rename(rain="chance")
    file["chance"].attrs["units"] = "1"
    return file if leads is None else file.assign_coords(lead_time=("lead_time", leads, {"units": "minutes"}))


@pytest.mark.parametrize(
    ("units", "thresholds"),
    [
        ("mm", {1 / 12: 1.0, 0.25: 3.0}),  # sums over the five minutes between lead times
        ("mm/h", {1.0: 1.0, 3.0: 3.0}),
        ("mm/5min", {1 / 12: 1.0, 0.25: 3.0}),
    ],
)
def test_thresholds_are_converted_to_the_unit_of_the_observations(tmp_path, rain_frames, truth, units, thresholds):
    chances(truth, thresholds, units).to_netcdf(tmp_path / "f.nc")
    assert open_source(tmp_path / "f.nc", rain_frames).thresholds == pytest.approx((1.0, 3.0), rel=1e-5)


def test_thresholds_in_dbz_are_rain_if_the_observations_are(tmp_path, make_rain, truth):
    observed = make_rain()
    observed["rain"].attrs["units"] = "dBZ"
    observed.rename(rain="field").to_netcdf(tmp_path / "observed.nc")
    frames = open_frames(tmp_path / "observed.nc", rain=True)
    levels = {float(10 * np.log10(200 * rate**1.6)): rate for rate in (1.0, 3.0)}
    chances(truth, levels, "dBZ").to_netcdf(tmp_path / "f.nc")
    assert open_source(tmp_path / "f.nc", frames).thresholds == pytest.approx((1.0, 3.0), rel=1e-5)


def test_thresholds_of_sums_over_uneven_lead_times_are_refused(tmp_path, rain_frames, truth):
    chances(truth, {0.1: 1.0}, "mm", leads=[5.0, 10.0, 30.0]).to_netcdf(tmp_path / "f.nc")
    with pytest.raises(DataError, match="even lead times"):
        open_source(tmp_path / "f.nc", rain_frames)


def test_thresholds_without_a_unit_are_refused(tmp_path, rain_frames, truth):
    chances(truth, {1.0: 1.0}, None).to_netcdf(tmp_path / "f.nc")
    words = r"the unit of the thresholds, such as mm/h, got none\. Write it as the attribute `units` of threshold"
    with pytest.raises(DataError, match=words):
        open_source(tmp_path / "f.nc", rain_frames)


def test_probabilities_in_percent_without_a_unit_are_refused_before_any_is_scored(tmp_path, rain_frames, truth):
    file = chances(truth, {1.0: 1.0}, "mm/h")
    file["chance"] = (file["chance"].dims, 100 * file["chance"].values)
    file.to_netcdf(tmp_path / "f.nc")
    with pytest.raises(DataError, match=r"probabilities from 0 to 1.*got 80\. Write the attribute `units` of chance"):
        open_source(tmp_path / "f.nc", rain_frames)


def test_probabilities_of_one_start_in_two_files_are_refused(tmp_path, rain_frames, truth):
    dims, levels = ("init_time", "threshold", "lead_time", "y", "x"), ("threshold", [1.0], {"units": "mm/h"})
    file = dataset(0.5 * (truth[:, None] >= 1), dims, threshold=levels).rename(rain="chance")
    file["chance"].attrs["units"] = "1"
    (tmp_path / "runs").mkdir()
    for name in ("new", "old"):
        file.to_netcdf(tmp_path / "runs" / f"{name}.nc")
    with pytest.raises(DataError, match=r"one forecast for each start, got new\.nc and old\.nc"):
        verify({"f": tmp_path / "runs"}, rain_frames, tmp_path / "e", VerifyOptions(**QUICK))


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


def test_lead_times_that_one_file_lacks_are_named(tmp_path, rain_frames, truth):
    (tmp_path / "runs").mkdir()
    whole = dataset(truth)
    whole.isel(init_time=slice(2)).to_netcdf(tmp_path / "runs" / "a.nc")
    whole.isel(init_time=[2], lead_time=[0]).to_netcdf(tmp_path / "runs" / "short.nc")
    result = verify({"f": tmp_path / "runs"}, rain_frames, tmp_path / "e", VerifyOptions(**QUICK))
    short = tmp_path / "runs" / "short.nc"
    assert set(result.scores["lead_time"]) == {5.0}
    assert result.missing_leads == {10.0: short, 15.0: short}
    words = f"lead times left out: 10, 15 min, which {short} lacks"
    assert result.missing_leads_summary == words
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["facts"]["Lead times"] == words
    chosen = VerifyOptions(lead_minutes=(5.0,), **QUICK)
    assert not verify({"f": tmp_path / "runs"}, rain_frames, tmp_path / "e2", chosen).missing_leads


@pytest.fixture
def ensemble(truth):
    """A file of four members, and the array of its values (start, realization, lead_time, y, x)."""
    numbers = ("realization", np.arange(4), {"standard_name": "realization"})
    dims = ("init_time", "realization", "lead_time", "y", "x")
    file = dataset(np.stack([truth + n for n in range(4)], axis=1), dims, realization=numbers)
    return file, file["rain"].values


def test_a_case_without_one_of_the_members_is_left_out_and_counted(scored, ensemble):
    file, values = ensemble
    values[1, 2] = np.nan
    result, tables = scored(other=file)
    assert result.left_out == {"no_common_cell": 1}
    assert result.summary == (
        "2 of 3 forecasts scored; left out: 1 without a cell that the observation, every forecast and every member have"
    )
    assert set(tables["scores.csv"]["cases"]) == {2}


def test_a_case_with_a_member_at_some_lead_times_is_scored_at_these(scored, ensemble):
    file, values = ensemble
    values[1, 2, :2] = np.nan
    result, tables = scored(other=file)
    assert result.cases == 3
    rmse = tables["scores.csv"].query("score == 'rmse' and method == 'other'").set_index("lead_time")
    assert rmse["cases"].to_dict() == {5.0: 2, 10.0: 2, 15.0: 3}


def test_a_member_that_is_missing_throughout_is_named(tmp_path, scored, ensemble):
    file, values = ensemble
    values[:, 3] = np.nan
    with pytest.raises(DataError, match=r"got no value of member 4 of 4 in any case\. Remove this member"):
        scored(other=file)
    values[:] = np.nan
    with pytest.raises(DataError, match="got missing values only"):
        scored(other=file)
    assert not (tmp_path / "e").exists()


def test_forecasts_without_a_cell_in_common_are_refused(scored, truth):
    left, right = truth.copy(), truth.copy()
    left[..., :9], right[..., 9:] = np.nan, np.nan
    with pytest.raises(DataError, match="got no such cell in any case"):
        scored(left=dataset(left), right=dataset(right))


def test_the_causes_of_starts_that_are_left_out_are_counted(tmp_path, rain_frames):
    # the start of the day before has all lead times, and the last frame is at 65 min
    for name, minutes in (("main", (-1435, 20, 30, 40, 65, 90)), ("other", (-1435, 10, 20, 30, 40, 65, 90))):
        times = DAY + np.array(minutes).astype("timedelta64[m]")
        dataset(np.zeros((len(times), 3, 22, 18)), init_time=times).to_netcdf(tmp_path / f"{name}.nc")
    files = {"main": tmp_path / "main.nc", "other": tmp_path / "other.nc"}
    options = VerifyOptions(days=("2020-06-04",), max_cases=2, **QUICK)
    result = verify(files, rain_frames, tmp_path / "e", options)
    assert result.left_out == {"not_shared": 1, "other_days": 1, "unobserved": 2, "beyond_max_cases": 1}
    assert (result.cases, result.found) == (2, 7)
    words = (
        "2 of 7 forecasts scored; left out: 1 not in every forecast file, 1 on other days, "
        "2 without an observation at each lead time, 1 beyond `--max-cases`"
    )
    assert result.summary == words
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["facts"]["Cases"] == words


def test_starts_with_too_little_rain_are_left_out(tmp_path, read, make_rain, truth):
    rain = make_rain()
    rain["rain"][42 + 6] = 0.0  # the frame at 30 min
    dataset(truth).to_netcdf(tmp_path / "f.nc")
    result = verify({"f": tmp_path / "f.nc"}, read(rain), tmp_path / "e", VerifyOptions(min_wet=0.01, **QUICK))
    assert result.summary == "2 of 3 forecasts scored; left out: 1 with too little rain observed at the start"


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


def test_the_memory_of_one_case_is_limited(tmp_path, rain_frames, truth, monkeypatch):
    dataset(truth).to_netcdf(tmp_path / "f.nc")
    size = 4 * 4 * truth[0].size  # three methods and the observation, in four bytes each
    monkeypatch.setattr(evaluation_forecasts, "_MAX_BYTES", size - 1)
    with pytest.raises(DataError, match=r"grid: expected forecasts of at most .* in one case"):
        verify({"f": tmp_path / "f.nc"}, rain_frames, tmp_path / "e", VerifyOptions(**QUICK))
    monkeypatch.setattr(evaluation_forecasts, "_MAX_BYTES", size)
    assert verify({"f": tmp_path / "f.nc"}, rain_frames, tmp_path / "e", VerifyOptions(**QUICK)).cases == 3
