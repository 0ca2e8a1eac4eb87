"""Forecasts: values by hand and by the reference, at the right times, in files that others can read."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import cftime
import netCDF4
import numpy as np
import pytest
import xarray as xr

from convlstm.data import Standard, open_frames
from convlstm.data import frames as frames_module
from convlstm.errors import ConfigError, DataError, OutputError
from convlstm.nowcast import members as members_module
from convlstm.nowcast.cf_output import make_forecast, write_forecast
from convlstm.nowcast.inputs import choose_inputs

MINUTE = 60.0


def written(path, nowcaster, frames, **options):
    """The forecast as a reader of the file gets it."""
    write_forecast(path, make_forecast(nowcaster, frames, **options))
    engine = "zarr" if path.suffix == ".zarr" else "netcdf4"
    with xr.open_dataset(path, engine=engine, decode_timedelta=True) as dataset:
        return dataset.load()


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_a_file_says_what_it_is_and_when_it_is_valid(tmp_path, make_nowcaster, rain_frames, ending, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1527000000")
    nowcaster = make_nowcaster(still=True, seed=7)
    path = tmp_path / f"forecast.{ending}"
    command = ["convlstm", "forecast", "run", "my rain.nc"]
    forecast = written(path, nowcaster, rain_frames, command=command)
    assert forecast["rain"].dims == ("lead_time", "y", "x")
    assert forecast["rain"].dtype == np.float32
    minutes = forecast["lead_time"].values / np.timedelta64(1, "m")
    assert minutes.tolist() == [5, 10, 15, 20]
    assert str(forecast["forecast_reference_time"].values)[:16] == "2020-06-04T01:05"
    valid = [str(time)[:16] for time in forecast["time"].values]
    assert valid == ["2020-06-04T01:10", "2020-06-04T01:15", "2020-06-04T01:20", "2020-06-04T01:25"]
    assert {
        name: forecast[name].attrs["standard_name"] for name in ("lead_time", "time", "forecast_reference_time")
    } == {
        "lead_time": "forecast_period",
        "time": "time",
        "forecast_reference_time": "forecast_reference_time",
    }
    assert forecast["rain"].attrs["units"] == "mm/h"
    assert forecast["rain"].attrs["standard_name"] == "rainfall_rate"
    assert forecast.attrs["Conventions"] == "CF-1.11"
    digest = nowcaster.model.digest
    assert forecast.attrs["title"] == f"Forecast of rain by the model '{digest[:16]}'"
    assert forecast.attrs["input_title"] == "Drifting rain"
    assert forecast.attrs["input_history"] == "made up"
    assert "institution" not in forecast.attrs
    assert forecast.attrs["history"] == (
        f"2018-05-22T14:40:00Z convlstm 0.1.0: convlstm forecast run 'my rain.nc'; seed 7; weights {digest}"
    )
    # the grid of 22 x 18 cells is no multiple of the patches of 4 x 4, and its coordinates are the file's
    assert forecast["x"].values.tolist() == [1000.0 * n for n in range(18)]
    assert forecast["y"].attrs["units"] == "m"
    last = rain_frames.read(slice(55, 56))[0, 0]
    for frame in forecast["rain"].values:
        np.testing.assert_allclose(frame, last, rtol=1e-5, atol=1e-5)


def test_a_forecast_may_start_anywhere_and_look_as_far_as_asked(tmp_path, make_nowcaster, rain_frames):
    nowcaster = make_nowcaster()
    inputs = rain_frames.read(slice(4, 7))[None]
    every = nowcaster.predict(inputs, rain_frames.seconds[None, 4:7], np.arange(1, 13) * 300.0)[0, :, 0]
    assert abs(every[0] - every[-1]).max() > 0.01
    for init_time in ("2020-06-01T00:30", "2020-06-01 00:30:00", "2020-06-01T00:30Z"):
        forecast = written(
            tmp_path / "f.nc", nowcaster, rain_frames, init_time=init_time, lead_times=[300.0, 1800.0, 3600.0]
        )
        assert str(forecast["forecast_reference_time"].values)[:16] == "2020-06-01T00:30"
        assert [str(time)[11:16] for time in forecast["time"].values] == ["00:35", "01:00", "01:30"]
        np.testing.assert_allclose(forecast["rain"].values, every[[0, 5, 11]], rtol=1e-5, atol=1e-6)


def test_no_later_frame_is_looked_at(make_nowcaster, make_rain, read):
    dataset = make_rain()
    other = dataset.copy(deep=True)
    other["rain"][7:] = 99.0
    other["rain"][:4] = 99.0
    options = {"init_time": "2020-06-01T00:30"}
    nowcaster = make_nowcaster()
    one, two = (make_forecast(nowcaster, read(data), **options) for data in (dataset, other))
    assert one["rain"].values.tobytes() == two["rain"].values.tobytes()


@pytest.mark.parametrize(
    ("leads", "words"),
    [
        ([], "got none"),
        ([0.0], "above 0 that increase, got 0"),
        ([-300.0], "got -5"),
        ([600.0, 300.0], "got 10, 5"),
        ([300.0, 300.0], "got 5, 5"),
        ([float("nan")], "got nan"),
        ([300.0, float("inf")], "got 5, inf"),
        ([300.0, 400.0], "multiples of the model's step of 5 min, got 5, 6.66667 min"),
        ([300.0 * n for n in range(40, 0, -1)], "got 200, 195"),
    ],
)
def test_lead_times_that_cannot_be_given(make_nowcaster, rain_frames, refused, leads, words):
    nowcaster = make_nowcaster()
    with pytest.raises(ConfigError) as caught:
        make_forecast(nowcaster, rain_frames, lead_times=leads)
    assert words in str(caught.value)
    with refused(ConfigError, "lead times"):
        raise caught.value


@pytest.mark.parametrize(
    ("init_time", "argument"),
    [
        ("2020-06-01T00:05", "input frames"),
        ("2020-06-02T00:05", "input frames"),
        ("2020-06-02", "init time"),
        ("2020-06-02T00:07", "init time"),
        ("2021-01-01T00:00", "init time"),
        ("2020-06-02T00:30+02:00", "init time"),
        ("yesterday", "init time"),
        ("", "init time"),
    ],
)
def test_times_without_the_frames_before_them(make_nowcaster, rain_frames, refused, init_time, argument):
    with refused(DataError, argument):
        make_forecast(make_nowcaster(), rain_frames, init_time=init_time)


def test_a_gap_is_taken_by_a_model_that_learned_such_gaps_and_by_no_other(make_nowcaster, make_rain, read, refused):
    frames = read(make_rain().isel(time=[*range(10), 12, 13]))
    with refused(DataError, "input frames"):
        make_forecast(make_nowcaster(), frames)
    model = {"duration_strategy": "log1p"}
    with refused(DataError, "input frames"):
        make_forecast(make_nowcaster(model=model, data={"max_gap": 600}), frames)
    forecast = make_forecast(make_nowcaster(model=model, data={"max_gap": 900}), frames)
    assert np.isfinite(forecast["rain"]).all()


def spoil(rain, how):
    rain = rain.copy(deep=True)
    field = rain["rain"]
    if how == "pixels":
        field[:, 3:9, 2:11] = np.nan
    elif how == "frame before the last":
        field[54] = np.nan
    elif how == "dry":
        field[:] = 0.0
    elif how == "infinite":
        field[55, 3] = np.inf
    elif how == "flood":
        field[55] = 1e30
    return rain


@pytest.mark.parametrize("how", ["pixels", "frame before the last", "dry", "infinite", "flood"])
@pytest.mark.parametrize("activation", ["identity", "softplus"])
def test_whatever_is_missing_the_forecast_is_rain_where_it_was_observed(
    make_nowcaster, make_rain, read, how, activation
):
    nowcaster = make_nowcaster(model={"output_activation": activation})
    forecast = make_forecast(nowcaster, read(spoil(make_rain(), how)), lead_times=[300.0, 12000.0])["rain"].values
    observed = np.ones(forecast.shape, bool)
    if how == "pixels":
        observed[:, 3:9, 2:11] = False
    np.testing.assert_array_equal(np.isfinite(forecast), observed)
    assert (forecast[observed] >= 0).all()
    assert (forecast[observed] <= 100.001).all()


@pytest.mark.parametrize(("frames", "known"), [(slice(53, 56), None), (slice(54, 56), 53), (slice(55, 56), 54)])
def test_a_missing_pixel_keeps_its_last_known_value_and_is_dry_before(make_nowcaster, make_rain, read, frames, known):
    rain = make_rain()
    rain["rain"][50:] += 1
    spoilt, whole = rain.copy(deep=True), rain.copy(deep=True)
    spoilt["rain"][frames, 3:9, 2:11] = np.nan
    whole["rain"][frames, 3:9, 2:11] = 0.0 if known is None else rain["rain"].values[known, 3:9, 2:11]
    nowcaster = make_nowcaster()
    one, two = (make_forecast(nowcaster, read(data))["rain"].values for data in (spoilt, whole))
    if known is None:
        assert np.isnan(one[:, 3:9, 2:11]).all()
        one[:, 3:9, 2:11] = two[:, 3:9, 2:11]
    np.testing.assert_array_equal(one, two)


def test_cells_that_were_never_observed_are_missing_in_every_output(event_nowcaster, make_rain, read):
    rain = make_rain()
    rain["rain"][:, 3:9, 2:11] = np.nan
    forecast = make_forecast(event_nowcaster, read(rain), members=2)
    observed = np.ones((22, 18), bool)
    observed[3:9, 2:11] = False
    fields = {"rain", "rain_mean", "rain_quantile", "rain_member", "probability_of_rain_above_threshold"}
    assert fields == set(forecast.data_vars)
    for name in fields:
        is_known = np.isfinite(forecast[name].values)
        np.testing.assert_array_equal(is_known, np.broadcast_to(observed, is_known.shape))


def test_each_variable_is_missing_where_it_was_never_observed(make_nowcaster, make_rain, read):
    rain = make_rain()
    air, wind = (rain["rain"] + 280).assign_attrs(units="K"), (20 - rain["rain"]).assign_attrs(units="m s-1")
    air[:, 0], wind[:, 1] = np.nan, np.nan
    frames = read(rain.drop_vars("rain").assign(air=air, wind=wind), variables=("wind", "air"))
    transform = Standard((10.0, 280.0), (3.0, 5.0))
    nowcaster = make_nowcaster(variables=("wind", "air"), units=frames.units, transform=transform)
    forecast = make_forecast(nowcaster, frames)
    for name, row in (("air", 0), ("wind", 1)):
        rows = np.isnan(forecast[name].values).all(axis=(0, 2))
        assert np.flatnonzero(rows).tolist() == [row]
        assert np.isnan(forecast[name].values).any(axis=(0, 2)).sum() == 1


def test_a_last_frame_without_values_is_refused_with_the_time_that_has_some(make_nowcaster, make_rain, read):
    rain = make_rain()
    rain["rain"][54:] = np.nan
    with pytest.raises(DataError, match=r"input frames: .*--init-time 2020-06-04T00:55"):
        make_forecast(make_nowcaster(), read(rain))
    make_forecast(make_nowcaster(), read(rain), init_time="2020-06-04T00:55")


def test_more_than_half_of_the_frames_without_values_is_refused(make_nowcaster, make_rain, read):
    rain = make_rain()
    rain["rain"][53:55] = np.nan
    with pytest.raises(DataError, match=r"input frames: .*Choose another `--init-time`"):
        make_forecast(make_nowcaster(), read(rain))


@pytest.mark.parametrize(("age", "zone"), [(30, UTC), (30, timezone(timedelta(hours=2))), (90, UTC)])
def test_old_frames_are_refused(make_nowcaster, rain_frames, refused, age, zone):
    now = (datetime(2020, 6, 4, 1, 5, tzinfo=UTC) + timedelta(minutes=age)).astimezone(zone)
    nowcaster = make_nowcaster()
    make_forecast(nowcaster, rain_frames, max_age=age * 60.0, now=now)
    with pytest.raises(DataError, match=r"last input frame: .*increase `--max-age`"):
        make_forecast(nowcaster, rain_frames, max_age=age * 60.0 - 1, now=now)
    with refused(DataError, "last input frame"):
        make_forecast(nowcaster, rain_frames, max_age=age * 60.0, now=now, init_time="2020-06-04T01:00")


def test_the_age_of_frames_is_that_of_now_by_default(make_nowcaster, make_rain, read, refused):
    rain = make_rain()
    with refused(DataError, "last input frame"):
        make_forecast(make_nowcaster(), read(rain), max_age=3600.0)
    latest = np.datetime64(datetime.now(UTC).replace(tzinfo=None), "s") - np.timedelta64(60, "s")
    recent = rain.assign_coords(time=rain["time"] - rain["time"][-1] + latest)
    assert make_forecast(make_nowcaster(), read(recent), max_age=3600.0).sizes["lead_time"] == 4


def test_frames_later_than_now_are_refused(make_nowcaster, rain_frames):
    latest = datetime(2020, 6, 4, 1, 5, tzinfo=UTC)
    nowcaster = make_nowcaster()
    make_forecast(nowcaster, rain_frames, max_age=600.0, now=latest - timedelta(minutes=5))
    with pytest.raises(DataError, match=r"last input frame: .*2.0 h later\. Convert the times to UTC"):
        make_forecast(nowcaster, rain_frames, max_age=600.0, now=latest - timedelta(hours=2))


def test_each_variable_needs_a_value_in_the_last_frame(make_nowcaster, make_rain, read):
    rain = make_rain()
    air = (rain["rain"] + 280).assign_attrs(units="K")
    wind = (20 - rain["rain"]).assign_attrs(units="m s-1")
    wind[55] = np.nan
    frames = read(rain.drop_vars("rain").assign(air=air, wind=wind), variables=("air", "wind"))
    transform = Standard((280.0, 10.0), (3.0, 5.0))
    nowcaster = make_nowcaster(variables=("air", "wind"), units=frames.units, transform=transform)
    with pytest.raises(DataError, match=r"a value of wind in the last one.*--init-time 2020-06-04T01:00"):
        make_forecast(nowcaster, frames)


def test_a_model_with_thresholds_needs_a_value_of_its_first_variable_only(make_nowcaster, make_rain, read):
    rain = make_rain()
    whole = rain["rain"].copy(deep=True)
    for missing, other in (("rain", "second"), ("second", "rain")):
        spoilt = whole.copy(deep=True)
        spoilt[53:] = np.nan
        frames = read(rain.assign({missing: spoilt, other: whole}), variables=("rain", "second"))
        nowcaster = make_nowcaster(
            variables=("rain", "second"), units=frames.units, model={"thresholds": [0.1, 1.0], "detail_channels": 3}
        )
        if missing == "rain":
            with pytest.raises(DataError, match="a value of rain in the last one"):
                choose_inputs(nowcaster, frames)
        else:
            assert choose_inputs(nowcaster, frames) == slice(53, 56)


def test_a_forecast_in_an_array_that_cannot_be_written_is_masked(make_nowcaster, make_rain, read, monkeypatch):
    rain = make_rain()
    rain["rain"][:, 3:9, 2:11] = np.nan
    nowcaster = make_nowcaster()
    predict = type(nowcaster).predict

    def predict_read_only(self, *arguments):
        values = predict(self, *arguments)
        values.flags.writeable = False
        return values

    monkeypatch.setattr(type(nowcaster), "predict", predict_read_only)
    forecast = make_forecast(nowcaster, read(rain))["rain"].values
    assert np.isnan(forecast[:, 3:9, 2:11]).all()
    assert np.isfinite(forecast).sum() == 4 * (22 * 18 - 6 * 9)


def test_members_beyond_the_limit_of_memory_are_refused(event_nowcaster, rain_frames, monkeypatch):
    monkeypatch.setattr(members_module, "_MAX_BYTES", 5 * 4 * 4 * 22 * 18)  # five members of four lead times
    make_forecast(event_nowcaster, rain_frames, members=5)
    with pytest.raises(DataError, match=r"members: .* for 6 members, .*Pass at most 5 members\."):
        make_forecast(event_nowcaster, rain_frames, members=6)


def test_negative_rain_in_a_frame_outside_the_sample_is_refused(make_nowcaster, make_rain, read, monkeypatch):
    rain = make_rain()
    rain["rain"][54] = -1.0
    monkeypatch.setattr(frames_module, "_SAMPLE_VALUES", 1)  # 16 frames, without this one
    monkeypatch.setattr(frames_module, "_FRAMES_AT_ONCE", 8)
    frames = read(rain)
    with pytest.raises(DataError, match=r"rain: .*--missing=-1"):
        make_forecast(make_nowcaster(), frames)
    forecast = make_forecast(make_nowcaster(), read(rain, missing=(-1,)))
    assert np.isfinite(forecast["rain"]).all()


def test_nothing_known_is_refused(make_nowcaster, make_rain, read, refused):
    rain = make_rain()
    rain["rain"][50:] = np.nan
    with refused(DataError, "input frames"):
        make_forecast(make_nowcaster(), read(rain))


def test_what_is_no_rain_may_be_negative(make_nowcaster, make_rain, read):
    dataset = make_rain()
    dataset["rain"] = (-5 - dataset["rain"]).assign_attrs(units="degC")
    nowcaster = make_nowcaster(still=True, units="degC", transform=Standard(-6.0, 2.0))
    forecast = make_forecast(nowcaster, read(dataset))["rain"]
    np.testing.assert_allclose(forecast[1], dataset["rain"][-1], rtol=1e-5)


def test_several_variables_keep_their_own_names_units_and_values(tmp_path, make_nowcaster, make_rain, read):
    rain = make_rain()
    air = (280 + rain["rain"]).assign_attrs(units="K")
    wind = (20 - rain["rain"]).assign_attrs(units="m s-1")
    dataset = rain.drop_vars("rain").assign(air=air, wind=wind)
    frames = read(dataset, variables=("wind", "air"))
    transform = Standard((10.0, 280.0), (3.0, 5.0))
    nowcaster = make_nowcaster(still=True, variables=("wind", "air"), units=frames.units, transform=transform)
    forecast = written(tmp_path / "f.nc", nowcaster, frames)
    for name, field in (("air", air), ("wind", wind)):
        assert forecast[name].attrs["units"] == field.attrs["units"]
        assert "standard_name" not in forecast[name].attrs
        np.testing.assert_allclose(forecast[name][2], field[-1], rtol=1e-5)


def test_other_calendars(tmp_path, make_nowcaster, make_rain, read):
    dataset = make_rain()
    start = cftime.Datetime360Day(2020, 2, 30, 22, 30)
    times = xr.date_range(start, periods=56, freq="5min", calendar="360_day", use_cftime=True)
    frames = read(dataset.assign_coords(time=times))
    nowcaster = make_nowcaster(still=True)
    forecast = written(tmp_path / "f.nc", nowcaster, frames, init_time="2020-02-30T23:55")
    assert forecast["forecast_reference_time"].item() == cftime.Datetime360Day(2020, 2, 30, 23, 55)
    assert forecast["time"].values[0] == cftime.Datetime360Day(2020, 3, 1)
    np.testing.assert_allclose(forecast["rain"][0], dataset["rain"][17], rtol=1e-5, atol=1e-5)
    make_forecast(nowcaster, frames)


def test_a_map_projection_goes_with_the_values(tmp_path, make_nowcaster, make_rain, read):
    dataset = make_rain()
    dataset["crs"] = ((), 0, {"grid_mapping_name": "polar_stereographic"})
    dataset["rain"].attrs["grid_mapping"] = "crs"
    dataset = dataset.assign_coords(lat=(("y", "x"), np.zeros((22, 18)), {"units": "degrees_north"}))
    write_forecast(tmp_path / "f.nc", make_forecast(make_nowcaster(), read(dataset)))
    with netCDF4.Dataset(tmp_path / "f.nc") as file:
        assert file["rain"].grid_mapping == "crs"
        assert file["crs"].grid_mapping_name == "polar_stereographic"
        assert "grid_mapping" not in file.ncattrs()
        assert set(file["rain"].coordinates.split()) == {"forecast_reference_time", "lat", "time"}
    again = open_frames(tmp_path / "f.nc", time_dim="lead_time")
    assert again.units == "mm/h"


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_an_older_forecast_stays_when_the_new_one_cannot_be_written(
    tmp_path, make_nowcaster, rain_frames, monkeypatch, refused, ending
):
    path = tmp_path / f"f.{ending}"
    forecast = make_forecast(make_nowcaster(), rain_frames)
    write_forecast(path, forecast)
    kept = {file.name: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()}

    def write_half(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    def make_folder(self, draft, **options):
        draft.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)  # a NetCDF file is made in memory
    monkeypatch.setattr(xr.Dataset, "to_zarr", make_folder)
    with refused(OutputError, str(path)):
        write_forecast(path, forecast)
    assert {file.name: file.read_bytes() for file in [path, *path.rglob("*")] if file.is_file()} == kept


def test_the_history_of_a_model_without_provenance(tmp_path, make_nowcaster, rain_frames):
    nowcaster = make_nowcaster()
    assert "provenance" in json.loads(json.dumps(nowcaster.model.extra))
    nowcaster.model.extra.pop("provenance")
    assert "; seed unknown;" in make_forecast(nowcaster, rain_frames).attrs["history"]
