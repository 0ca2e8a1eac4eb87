"""Commands on many files, other kinds and selected values."""

import numpy as np
import pytest
import xarray as xr
import yaml


@pytest.fixture
def days(make_rain, tmp_path):
    """The rain in a file for each day."""
    (tmp_path / "days").mkdir()
    for name, day in make_rain().groupby("time.date"):
        day.to_netcdf(tmp_path / "days" / f"{name}.nc")
    return sorted(f"days/{path.name}" for path in (tmp_path / "days").iterdir())


def test_a_pattern_a_folder_and_a_list_of_files_give_one_forecast(cli, fails, trained, days, tmp_path):
    assert cli("forecast", trained / "run", trained / "rain.nc", "-o", "whole.nc")[0] == 0
    with xr.open_dataset(tmp_path / "whole.nc") as whole:
        for data in (["days/*.nc"], ["days"], days):
            code, out, _ = cli("forecast", trained / "run", *data)
            assert (code, out.splitlines()[-1][:13]) == (0, "forecast.nc: ")
            with xr.open_dataset(tmp_path / "forecast.nc") as forecast:
                np.testing.assert_array_equal(forecast["rain"], whole["rain"])
    fails(2, "expected a model before several data files, got 'days/2020-06-01.nc'", "forecast", *days)
    fails(6, "expected a path other than the inputs", "forecast", trained / "run", "days/*.nc", "-o", days[2])


def test_training_and_evaluation_of_many_files(cli, days, tiny, trained, tmp_path):
    assert cli("train", *days, *tiny)[0] == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (trained / "run" / "model.safetensors").read_bytes()
    code, out, _ = cli("evaluate", "run", "days", "--min-wet", 0, "--max-cases", 2)
    assert (code, out.splitlines()[0][:16]) == (0, "data       56 fr")


def test_a_selection_of_the_training_holds_in_the_forecast(cli, fails, make_rain, tmp_path, tiny):
    rain = make_rain()
    two = xr.concat([rain, rain * 2], xr.Variable("level", [500.0, 850.0]), data_vars=["rain"])
    two["rain"].attrs["units"] = "mm/h"
    two.to_netcdf(tmp_path / "levels.nc")
    fails(4, "Pass one of its values, such as `--select level=500`", "train", "levels.nc", *tiny)
    assert cli("train", "levels.nc", *tiny, "--select", "level=850")[0] == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["select"] == {"level": 850.0}
    assert cli("forecast", "run", "levels.nc")[0] == 0
    with xr.open_dataset(tmp_path / "forecast.nc") as forecast:
        assert float(forecast["level"]) == 850
    rain.to_netcdf(tmp_path / "rain.nc")
    fails(4, "--select none", "forecast", "run", "rain.nc")
    assert cli("forecast", "run", "rain.nc", "--select", "none", "-o", "other.nc")[0] == 0
    fails(
        4,
        "select level: expected one of the values 500, 850, got 700",
        "forecast",
        "run",
        "levels.nc",
        "--select",
        "level=700",
    )
    fails(3, "--select: expected NAME=VALUE", "forecast", "run", "levels.nc", "--select", "850")
