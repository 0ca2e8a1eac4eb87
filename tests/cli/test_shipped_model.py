"""`convlstm forecast` without a model, and `convlstm model card`."""

import numpy as np
import xarray as xr


def test_a_forecast_without_a_model_uses_the_one_in_the_package(cli, make_rain, tmp_path):
    make_rain().to_netcdf(tmp_path / "rain.nc")
    code, out, err = cli("forecast", "rain.nc", "-o", "forecast.nc")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith("forecast.nc: 12 frames after 2020-06-04")
    with xr.open_dataset(tmp_path / "forecast.nc", decode_timedelta=True) as forecast:
        chance = forecast["probability_of_rain_above_threshold"]
        assert chance.sizes["threshold"] == 6
        assert float(chance.max()) > 0.3
        assert np.isfinite(forecast["rain_mean"]).all()


def test_members_and_precision_are_options_of_forecast_and_evaluate(cli, fails, make_rain, trained, tmp_path):
    make_rain().to_netcdf(tmp_path / "rain.nc")
    members = {}
    for seed, precision in ((0, "float32"), (1, "float32"), (0, "bfloat16")):
        name = f"{seed}-{precision}.nc"
        options = ("--members", "2", "--seed", seed, "--precision", precision, "--lead-times", "5,30")
        assert cli("forecast", "rain.nc", "-o", name, *options)[0] == 0
        with xr.open_dataset(tmp_path / name) as forecast:
            assert forecast["rain_member"].dims[:2] == ("realization", "lead_time")
            members[name] = forecast["rain_member"].values
    assert not np.array_equal(members["0-float32.nc"], members["1-float32.nc"])
    assert not np.array_equal(members["0-float32.nc"], members["0-bfloat16.nc"])
    fails(3, "members: expected 2 to 1000", "forecast", "rain.nc", "--members", "1")
    fails(3, "precision: expected one of auto", "forecast", "rain.nc", "--precision", "float8")
    fails(3, "a model of values", "forecast", trained / "run", trained / "rain.nc", "--members", "2")


def test_data_of_another_step_are_refused_in_one_line(fails, make_rain, tmp_path):
    make_rain(step=600).to_netcdf(tmp_path / "slow.nc")
    fails(4, "time step: expected 300 s, as in the training, got 600 s", "forecast", "slow.nc")


def test_three_paths_without_a_model_are_wrong_usage(fails, tmp_path):
    fails(2, "expected a model before several data files, got 'a'", "forecast", "a", "b", "c")


def test_the_card_is_markdown(cli, trained):
    code, out, err = cli("model", "card")
    assert (code, err) == (0, "")
    assert out.startswith("# Radar rain up to one hour ahead\n")
    assert "| digest of the weights |" in out
    own = cli("model", "card", trained / "run")[1]
    assert own.startswith("# Forecaster of rain\n")
    assert "## Cuts" not in own


def test_a_card_of_nothing_is_one_line(fails):
    fails(5, "nothing there", "model", "card", "absent.safetensors")


def test_a_rival_is_named_or_refused(fails, trained):
    fails(3, "--rival: expected one of lk, sprog, anvil, linda", "evaluate", trained / "run", "x.nc", "--rival", "dgmr")
