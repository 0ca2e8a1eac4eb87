"""The public Nowcaster: arrays and objects of xarray give the forecast of the command."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
import xarray as xr

from convlstm.data import open_frames, sample_path
from convlstm.errors import ConfigError, DataError, ShapeError
from convlstm.nowcast import Nowcaster
from convlstm.nowcast.cf_output import make_forecast

LAST = np.datetime64("2020-06-04T01:05", "ns")
ARRAY_OPTIONS = {"units": "mm/h", "time_step": 300, "init_time": LAST}


def assert_same(one, two):
    assert set(one.data_vars) == set(two.data_vars)
    for name in one.data_vars:
        assert one[name].values.tobytes() == two[name].values.tobytes()
        assert one[name].dims == two[name].dims
    for name in ("time", "lead_time", "forecast_reference_time"):
        assert (one[name].values == two[name].values).all()


def test_the_default_is_the_model_in_the_package():
    frames = open_frames(sample_path())
    nowcaster = Nowcaster.load(threads=1)
    window = (slice(0, 6), slice(0, 32), slice(0, 32))
    rain = frames.read(window[0], window[1:])[:, 0]
    with xr.open_dataset(sample_path()) as dataset:
        part = dataset.isel(time=window[0], y=window[1], x=window[2])
        by_file = nowcaster.forecast(part, lead_times=[300, 1800], members=2, seed=3)
        start = part["time"].values[-1]
    options = {"units": "mm/h", "time_step": 300, "init_time": start}
    by_array = nowcaster.forecast(rain, lead_times=[300, 1800], members=2, seed=3, **options)
    assert {"rainfall_rate", "rainfall_rate_mean", "rainfall_rate_member"} <= set(by_array.data_vars)
    for name in by_array.data_vars:
        np.testing.assert_allclose(by_array[name], by_file[name], atol=1e-3)  # xarray rounds packed numbers otherwise
    np.testing.assert_array_equal(by_file["x"], part["x"])


@pytest.mark.parametrize("sections", [{}, {"data": {"frame": "moving"}, "model": {"thresholds": [0.1, 1.0]}}])
def test_arrays_and_xarray_give_the_forecast_of_a_file(make_nowcaster, make_rain, read, sections):
    rain = make_rain()
    sections = sections if not sections else {"model": {"thresholds": [0.1, 1.0], "detail_channels": 3}}
    nowcaster = make_nowcaster(**sections)
    expected = make_forecast(nowcaster, read(rain), lead_times=[300.0, 900.0])
    leads = {"lead_times": [300.0, 900.0]}
    assert_same(nowcaster.forecast(rain, **leads), expected)
    assert_same(nowcaster.forecast(rain["rain"], **leads), expected)
    assert_same(nowcaster.forecast(read(rain), **leads), expected)
    assert_same(nowcaster.forecast(rain["rain"].values, **ARRAY_OPTIONS, **leads), expected)
    doubled = (rain["rain"] * 2).drop_attrs()
    with xr.set_options(keep_attrs=True):
        in_other_unit = (rain["rain"] / 12).assign_attrs(units="mm")
    np.testing.assert_allclose(nowcaster.forecast(in_other_unit, **leads)["rain"], expected["rain"], atol=1e-5)
    with pytest.raises(DataError, match=r"units of rain: .*got none"):
        nowcaster.forecast(doubled)
    assert_same(nowcaster.forecast(rain["rain"].drop_attrs(), units="mm/h", **leads), expected)


@pytest.mark.parametrize(
    "time",
    [
        "2020-06-04T00:30",
        "2020-06-04T00:30Z",
        datetime(2020, 6, 4, 0, 30),
        datetime(2020, 6, 4, 2, 30, tzinfo=timezone(timedelta(hours=2))),
        np.datetime64("2020-06-04T00:30", "ns"),
    ],
    ids=str,
)
def test_an_initial_time_may_be_a_text_or_an_object(make_nowcaster, make_rain, time):
    nowcaster, rain = make_nowcaster(), make_rain()
    forecast = nowcaster.forecast(rain, init_time=time)
    assert str(forecast["forecast_reference_time"].values)[:16] == "2020-06-04T00:30"
    array = rain["rain"].sel(time=slice("2020-06-04", "2020-06-04T00:30")).values
    assert_same(nowcaster.forecast(array, units="mm/h", time_step=300, init_time=time), forecast)


def test_old_frames_are_refused(make_nowcaster, make_rain, refused):
    with refused(DataError, "last input frame"):
        make_nowcaster().forecast(make_rain(), max_age=3600.0)
    now = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "ns")
    recent = ARRAY_OPTIONS | {"init_time": now}
    assert make_nowcaster().forecast(make_rain()["rain"].values, max_age=3600.0, **recent).sizes["lead_time"] == 4


@pytest.mark.parametrize("absent", ["units", "time_step", "init_time"])
def test_an_array_needs_what_it_does_not_tell(make_nowcaster, refused, absent):
    options = {name: value for name, value in ARRAY_OPTIONS.items() if name != absent}
    with refused(ConfigError, absent):
        make_nowcaster().forecast(np.zeros((3, 8, 8)), **options)


@pytest.mark.parametrize("shape", [(8, 8), (3, 2, 8, 8), (3, 0, 8), (1, 3, 1, 8, 8)])
def test_an_array_of_another_shape_is_refused(make_nowcaster, refused, shape):
    with refused(ShapeError, "frames"):
        make_nowcaster().forecast(np.zeros(shape), **ARRAY_OPTIONS)


def test_data_unlike_those_of_the_training_are_refused(make_nowcaster, make_rain, refused):
    nowcaster = make_nowcaster()
    with refused(DataError, "time step"):
        nowcaster.forecast(np.zeros((3, 8, 8)), **ARRAY_OPTIONS | {"time_step": 600})
    with refused(DataError, "input frames"):
        nowcaster.forecast(np.zeros((2, 8, 8)), **ARRAY_OPTIONS)
    with refused(DataError, "init time"):
        nowcaster.forecast(np.zeros((3, 8, 8)), **ARRAY_OPTIONS | {"init_time": "noon"})
    with pytest.raises(DataError, match="negative"):
        nowcaster.forecast(np.full((3, 8, 8), -1.0), **ARRAY_OPTIONS)
    with refused(ConfigError, "accumulated"):
        nowcaster.forecast(np.zeros((3, 8, 8)), accumulated=True, **ARRAY_OPTIONS)


def test_an_array_may_have_a_number_for_no_data(make_nowcaster):
    nowcaster = make_nowcaster()
    rain = np.random.default_rng(0).gamma(0.5, 2.0, (3, 22, 18)).astype(np.float32)
    coded = rain.copy()
    rain[:, :4], coded[:, :4] = np.nan, -999.0
    expected = nowcaster.forecast(rain, **ARRAY_OPTIONS)["rain"].values
    np.testing.assert_array_equal(nowcaster.forecast(coded, missing=(-999,), **ARRAY_OPTIONS)["rain"].values, expected)
    with pytest.raises(DataError, match="missing=-999"):
        nowcaster.forecast(coded, **ARRAY_OPTIONS)


def test_several_variables_are_channels(make_nowcaster, make_rain):
    rain = make_rain()
    air, wind = rain["rain"].values + 280, 20 - rain["rain"].values
    nowcaster = make_nowcaster(still=True, variables=("air", "wind"), units="K")
    forecast = nowcaster.forecast(np.stack([air, wind], axis=1), **ARRAY_OPTIONS | {"units": "K"})
    assert list(forecast.data_vars) == ["air", "wind"]
    np.testing.assert_allclose(forecast["wind"][0], np.clip(wind[-1], 0, 100), rtol=1e-4)


def test_the_channels_of_an_array_may_have_several_units(make_nowcaster, make_rain, refused):
    rain = make_rain()
    channels = np.stack([rain["rain"].values + 280, 20 - rain["rain"].values], axis=1)
    nowcaster = make_nowcaster(still=True, variables=("air", "wind"), units="K, m/s")
    expected = nowcaster.forecast(channels, **ARRAY_OPTIONS | {"units": ["K", "m/s"]})
    assert [expected[name].attrs["units"] for name in ("air", "wind")] == ["K", "m/s"]
    with pytest.raises(DataError, match="K, m/s"):
        nowcaster.forecast(channels, **ARRAY_OPTIONS | {"units": "K"})
    with refused(ConfigError, "units"):
        nowcaster.forecast(channels, **ARRAY_OPTIONS | {"units": ["K"]})


def test_a_device_that_is_not_there_is_refused(refused):
    for device in ("tpu", "cuda:99"):
        with refused(ConfigError, "device"):
            Nowcaster.load(device=device)
    assert Nowcaster.load(device="cpu").trainer.description.endswith("cpu, float32")


def test_mlx_has_no_choice_of_device(refused):
    pytest.importorskip("mlx")
    with refused(ConfigError, "device"):
        Nowcaster.load(framework="mlx", device="cpu")


def test_flax_takes_a_platform_of_jax(refused):
    pytest.importorskip("flax")
    with refused(ConfigError, "device"):
        Nowcaster.load(framework="flax", device="abacus")
    assert "cpu" in Nowcaster.load(framework="flax", device="cpu").trainer.description
