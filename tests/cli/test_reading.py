"""Options of reading, and the lines that say what was read."""

import json

import numpy as np
import pytest
import xarray as xr


@pytest.fixture
def sums(make_rain, tmp_path):
    """Rain of four days as sums since the start, in m."""
    dataset = make_rain()
    accumulated = np.cumsum(dataset["rain"].values.astype(np.float64), axis=0) / 12000
    dataset["rain"] = (("time", "y", "x"), accumulated, {"units": "m"})
    dataset.rename(rain="tp").to_netcdf(tmp_path / "sums.nc")


def test_sums_since_a_start_from_training_to_evaluation(cli, fails, sums, make_rain, tmp_path, tiny):
    fails(4, "--accumulated", "train", "sums.nc", *tiny)
    code, out, _ = cli("train", "sums.nc", *tiny, "--accumulated")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith(
        "data       55 frames of 22 × 18 cells every 5 min, 2020-06-01 00:05 to 2020-06-04 01:05"
    )
    assert lines[1] == "tp         m since a start, increase × 1000 per hour to mm/h; rain by its name"
    assert lines[3:5] == [
        "transform  log_rain(scale=10, ceiling=100, top=1)",
        "days       train 2020-06-01, 2020-06-02; validation 2020-06-03; test 2020-06-04",
    ]
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    channel = data["channels"][0]
    assert (channel["variable"], channel["units_in_file"], channel["units"]) == ("tp", "m", "mm/h")
    # the increases over the three nights are missing
    assert channel["missing"] == pytest.approx(3 / 55)
    assert data["days"]["test"] == ["2020-06-04"]
    # the option need not be repeated
    code, out, _ = cli("forecast", "run", "sums.nc")
    assert code == 0
    assert "in 3 input frames" in out
    with xr.open_dataset(tmp_path / "forecast.nc", decode_timedelta=True) as forecast:
        assert forecast["tp"].attrs["units"] == "mm/h"
    code, out, _ = cli("evaluate", "run", "sums.nc", "--min-wet", 0)
    assert code == 0
    assert out.splitlines()[1] == lines[1]


def test_what_was_read_is_printed_before_data_is_refused(cli, trained):
    code, out, err = cli("forecast", trained / "run", trained / "rain.nc", "--max-age", 30)
    assert code == 4
    assert "last input frame: expected at most 30 min before" in err
    assert out.splitlines()[0].startswith("data ")
    assert "rain by its name" in out.splitlines()[1]


def test_codes_and_rain_by_option(cli, fails, make_rain, tmp_path, tiny):
    dataset = make_rain()
    dataset["rain"][:, :2] = -1
    dataset["rain"].attrs["units"] = "kg m-2 s-1"
    dataset.rename(rain="a").to_netcdf(tmp_path / "codes.nc")
    fails(4, "--no-rain", "train", "codes.nc", *tiny)
    fails(4, "--missing=-1", "train", "codes.nc", *tiny, "--rain")
    code, out, _ = cli("train", "codes.nc", *tiny, "--rain", "--missing=-1")
    assert (code, out.splitlines()[1]) == (0, "a          kg m-2 s-1, × 3600 to mm/h; rain by option")
    assert f"{2 / 22:.2%} missing" in out.splitlines()[2]
    code, out, _ = cli("train", "codes.nc", *tiny, "--no-rain", "-o", "other")
    assert (code, out.splitlines()[1]) == (0, "a          kg m-2 s-1; no rain by option")
    # options that were given at the training hold in the forecast, also those that are false
    assert cli("forecast", "run", "codes.nc")[0] == 0
    assert cli("forecast", "other", "codes.nc")[0] == 0
    with xr.open_dataset(tmp_path / "forecast.nc", decode_timedelta=True) as forecast:
        assert forecast["a"].attrs["units"] == "kg m-2 s-1"


def test_missing_none_reads_every_value(cli, fails, make_rain, tmp_path, tiny):
    dataset = make_rain()
    dataset["rain"] = (280 + dataset["rain"]).assign_attrs(units="K")
    dataset["rain"][:, 0] = -999
    dataset.rename(rain="air").to_netcdf(tmp_path / "air.nc")
    fails(4, "--missing none", "train", "air.nc", *tiny)
    code, out, _ = cli("train", "air.nc", *tiny, "--missing", "none")
    assert (code, "-999 to 28" in out) == (0, True)
    fails(2, "expected numbers, or none, got '-1, x'", "train", "air.nc", *tiny, "--missing=-1", "--missing=x")


def test_reflectivity_has_thresholds_of_rain_and_becomes_rain_by_option(cli, fails, make_rain, tmp_path, tiny):
    dataset = make_rain()
    dbz = np.where(dataset["rain"] > 0.1, 23 + 16 * np.log10(np.maximum(dataset["rain"], 0.1)), -32)
    dataset["rain"] = (("time", "y", "x"), dbz.astype(np.float32), {"units": "dBZ"})
    dataset.rename(rain="z").to_netcdf(tmp_path / "radar.nc")
    assert cli("train", "radar.nc", *tiny)[0] == 0
    assert cli("evaluate", "run", "radar.nc")[0] == 0
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["thresholds"] == [7.0, 23.0, 34.2]
    transform = ["--set", "data.transform=dbz"]
    fails(4, "Pass `--rain` to convert it to mm/h", "train", "radar.nc", *tiny, *transform, "-o", "rain")
    code, out, _ = cli("train", "radar.nc", *tiny, *transform, "--rain", "-o", "rain")
    assert (code, out.splitlines()[1]) == (0, "z          dBZ to mm/h; rain by option, from dBZ with Z = 200 R^1.6")


def test_old_data_are_refused(fails, trained):
    words = "last input frame: expected at most 30 min before"
    fails(4, words, "forecast", trained / "run", trained / "rain.nc", "--max-age", 30)
