"""Whole chains of commands on data with gaps, on dry data, and on what is no rain."""

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.weights import checkpoint


def test_what_is_partly_missing_works(cli, make_rain, tmp_path, tiny):
    dataset = make_rain()
    dataset["rain"][:, 2:9, 3:8] = np.nan
    dataset["rain"][5:9] = np.nan
    dataset["rain"][54] = np.nan
    dataset.to_netcdf(tmp_path / "gaps.nc")
    assert cli("train", "gaps.nc", *tiny)[0] == 0
    assert cli("forecast", "run", "gaps.nc")[0] == 0
    with xr.open_dataset(tmp_path / "forecast.nc", decode_timedelta=True) as forecast:
        known = np.isfinite(forecast["rain"].values)
        assert not known[:, 2:9, 3:8].any()
        assert known.sum() == known.size - known[:, 2:9, 3:8].size
        assert (forecast["rain"].values[known] >= 0).all()
    assert cli("evaluate", "run", "gaps.nc")[0] == 0
    assert cli("report", "evaluation")[0] == 0


def test_dry_input_gives_a_finite_forecast(cli, trained, make_rain, tmp_path):
    dataset = make_rain()
    dataset["rain"][:] = 0.0
    dataset.to_netcdf(tmp_path / "dry.nc")
    assert cli("forecast", trained / "run", "dry.nc")[0] == 0
    with xr.open_dataset(tmp_path / "forecast.nc", decode_timedelta=True) as forecast:
        assert np.isfinite(forecast["rain"]).all()
        assert (forecast["rain"] >= 0).all()


def test_temperature_in_zarr_of_another_calendar_from_end_to_end(cli, make_rain, tmp_path, tiny):
    rain = make_rain(step=3600)
    times = [cftime.Datetime360Day(2001, 2, day, hour) for day in (27, 28, 29, 30) for hour in range(14)]
    dataset = xr.Dataset(
        {"t2m": (("valid", "lat", "lon"), 280 + rain["rain"].values, {"units": "K"})},
        coords={"valid": times, "lat": np.arange(22.0), "lon": np.arange(18.0)},
    )
    dataset.to_zarr(tmp_path / "air.zarr", consolidated=False)
    assert cli("train", "air.zarr", *tiny, "--time-dim", "valid")[0] == 0
    # what was told at the training need not be told again
    code, out, _ = cli("forecast", "run", "air.zarr", "-o", "next.zarr", "--lead-times", "60,300")
    assert (code, out.splitlines()[-1]) == (0, "next.zarr: 2 frames after 2001-02-30 13:00")
    assert cli("evaluate", "run", "air.zarr")[0] == 0
    assert cli("report", "evaluation")[0] == 0


def test_forecasts_of_another_tool_are_evaluated_by_name(cli, fails, trained, tmp_path):
    run, rain = trained / "run", trained / "rain.nc"
    assert cli("forecast", run, rain, "-o", "own.nc", "--init-time", "2020-06-04T00:20", "--threads", "1")[0] == 0
    options = ("--min-wet", "0", "--threads", "1", "--forecast", "copy=own.nc")
    code, _, err = cli("evaluate", run, rain, "-o", "scores", *options)
    assert (code, err) == (0, ""), err
    table = pd.read_csv(tmp_path / "scores" / "scores.csv").query("score == 'rmse'").set_index("method")["value"]
    # the copy is the forecast of the model, so that both have the same errors
    assert table["copy"].tolist() == pytest.approx(table["convlstm"].tolist(), rel=1e-5)
    fails(2, "expected NAME=PATH with a new name", "evaluate", run, rain, "--forecast", "own.nc")
    start = ("--init-time", "2020-06-04T00:20", "--threads", "1")
    assert cli("forecast", run, rain, "-o", "short.nc", "--lead-times", "5,10", *start)[0] == 0
    fails(4, "expected the lead time of 15 min", "evaluate", run, rain, "--forecast", "short=short.nc")


def test_a_training_starts_from_a_model_and_goes_on_to_more_steps(cli, fails, trained, tmp_path):
    rain = trained / "rain.nc"
    options = ("--start-from", trained / "run", "--set", "training.validate_every=1", "--threads", "1")
    code, _, err = cli("train", rain, *options, "--set", "training.steps=1", "--set", "training.precision=float32")
    assert (code, err) == (0, "")
    assert (
        checkpoint.load_model(tmp_path / "run").extra["provenance"]["started_from"]
        == checkpoint.load_model(trained / "run").digest
    )
    code, out, _ = cli("train", rain, "--resume", "--set", "training.steps=2", "--threads", "1")
    assert (code, "best of 2 steps" in out) == (0, True)
    fails(5, "absent", "train", rain, "-o", "other", "--start-from", "absent")


def test_an_evaluation_needs_options_for_training_days_and_for_another_one(cli, fails, trained, tmp_path):
    evaluation = ("evaluate", trained / "run", trained / "rain.nc", "--min-wet", "0", "--max-cases", "1")
    fails(4, "--allow-training-days", *evaluation, "--day", "2020-06-01")
    assert cli(*evaluation, "--day", "2020-06-01", "--allow-training-days")[0] == 0
    fails(6, "--overwrite", *evaluation)
    assert cli(*evaluation, "--overwrite")[0] == 0
    assert cli("report", "evaluation")[0] == 0
