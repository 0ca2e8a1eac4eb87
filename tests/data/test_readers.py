"""What is read from NetCDF and Zarr, value by value."""

import numpy as np
import pytest
import xarray as xr

from convlstm.data import open_frames
from convlstm.errors import ConfigError, DataError

NAN = np.nan


def test_packed_rain_in_each_format(save, rain_dataset, rain_counts):
    counts = rain_counts()
    counts[1, 2, 3] = -9999
    frames = open_frames(save(rain_dataset(counts)))
    assert (frames.variables, frames.units, frames.shape) == (("rain",), "mm/h", (5, 1, 4, 6))
    assert (frames.time_dim, frames.y_dim, frames.x_dim, frames.time_step) == ("time", "y", "x", 300)
    expected = np.arange(120).reshape(5, 1, 4, 6) * 0.12
    expected[1, 0, 2, 3] = NAN
    values = frames.read(slice(None))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(
        frames.read(np.array([4, 1]), (slice(2, 4), slice(3, 5))), expected[[4, 1], :, 2:4, 3:5], rtol=1e-6
    )
    assert frames.channels[0].packed.dtype == np.int16
    np.testing.assert_array_equal(frames.seconds, [0, 300, 600, 900, 1200])
    assert frames.time.values[1] == np.datetime64("2018-05-10T00:05")
    assert frames.attrs == {"title": "Rain", "institution": "Nobody"}


def test_rows_stay_in_the_order_of_the_file(save, rain_dataset):
    frames = open_frames(save(rain_dataset()))
    np.testing.assert_array_equal(frames.grid["y"], [3000, 2000, 1000, 0])
    np.testing.assert_allclose(frames.read(slice(0, 1))[0, 0, 0], np.arange(6) * 0.12, rtol=1e-6)
    assert frames.grid["y"].attrs == {"units": "m"}
    assert frames.grid["y"].encoding == {}


def test_dimensions_in_any_order_and_of_size_one_more(save, rain_dataset, rain_counts):
    dataset = rain_dataset().expand_dims({"level": [850.0]}).transpose("y", "level", "x", "time")
    frames = open_frames(save(dataset))
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], rain_counts() * 0.12, rtol=1e-6)
    assert float(frames.grid["level"]) == 850


@pytest.mark.parametrize(
    "dims",
    [("t", "lat", "lon"), ("TIME", "Latitude", "Longitude"), ("valid_time", "northing", "easting"), ("T", "J", "I")],
)
def test_axes_by_name(dims, save_netcdf, rain_dataset):
    frames = open_frames(save_netcdf(rain_dataset(dims=dims)))
    assert (frames.time_dim, frames.y_dim, frames.x_dim) == dims


def test_axes_by_attributes_where_names_say_nothing(save, rain_dataset):
    dataset = rain_dataset(dims=("a", "FNOCY", "c"))
    dataset["FNOCY"].attrs["units"] = "degrees_north"
    dataset["c"].attrs = {"axis": "X"}
    assert open_frames(save(dataset)).y_dim == "FNOCY"


def test_axes_by_attributes_before_names(save_netcdf, rain_dataset, rain_counts):
    dataset = rain_dataset(dims=("time", "x", "y"))
    dataset["x"].attrs["standard_name"] = "projection_y_coordinate"
    dataset["y"].attrs["standard_name"] = "projection_x_coordinate"
    frames = open_frames(save_netcdf(dataset))
    assert (frames.y_dim, frames.x_dim) == ("x", "y")
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], rain_counts() * 0.12, rtol=1e-6)


def test_axes_by_option_before_anything_else(save, rain_dataset, rain_counts):
    path = save(rain_dataset(dims=("time", "a", "b")).drop_vars(["a", "b"]))
    frames = open_frames(path, y_dim="b", x_dim="a")
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], rain_counts().transpose(0, 2, 1) * 0.12, rtol=1e-6)
    with pytest.raises(DataError, match=r"y_dim: expected a dimension of the file \(time, a, b\), got q"):
        open_frames(path, y_dim="q", x_dim="a")


def test_an_option_takes_the_axis_from_its_dimension(save, rain_dataset):
    path = save(rain_dataset().expand_dims(a=3))
    with pytest.raises(DataError, match="rain: expected only the dimensions time, y and x, got y of size 4"):
        open_frames(path, y_dim="a")


def test_latitudes_and_grid_mapping_reach_the_grid(save, rain_dataset):
    dataset = rain_dataset().drop_vars(["y", "x"])
    dataset["lat"] = (("y", "x"), np.arange(24, dtype=np.int16).reshape(4, 6), {"scale_factor": 0.5})
    dataset["lat"].attrs |= {"standard_name": "latitude", "units": "degrees_north", "bounds": "lat_bounds"}
    dataset["lat_bounds"] = (("y", "x", "corner"), np.ones((4, 6, 4)))
    dataset["time"].attrs["bounds"] = "time_bounds"
    dataset["time_bounds"] = (("time", "end"), np.ones((5, 2)))
    dataset["crs"] = ((), 0, {"grid_mapping_name": "polar_stereographic"})
    dataset["start"] = ((), 3.0, {"standard_name": "forecast_reference_time", "units": "hours since 2018-05-10"})
    dataset["lead"] = ((), 3.0, {"standard_name": "forecast_period", "units": "hours"})
    dataset["rain"].attrs |= {"coordinates": "lat start lead", "grid_mapping": "crs"}
    frames = open_frames(save(dataset))
    assert set(frames.grid.variables) == {"lat", "crs"}
    np.testing.assert_array_equal(frames.grid["lat"], np.arange(24).reshape(4, 6) / 2)
    assert frames.grid["lat"].attrs == {"standard_name": "latitude", "units": "degrees_north"}
    assert frames.time.attrs == {"standard_name": "time"}
    assert frames.grid.attrs == {"grid_mapping": "crs"}
    assert frames.grid["crs"].attrs == {"grid_mapping_name": "polar_stereographic"}


def test_a_grid_mapping_that_is_named_but_absent(save, rain_dataset):
    dataset = rain_dataset()
    dataset["rain"].attrs["grid_mapping"] = "RADOLAN_grid"
    assert open_frames(save(dataset)).grid.attrs == {}


def test_a_calendar_of_360_days(save, rain_dataset):
    dataset = rain_dataset()
    dataset["time"] = ("time", [0, 30, 60, 90, 120], {"units": "days since 1860-01-30", "calendar": "360_day"})
    frames = open_frames(save(dataset))
    assert str(frames.time.values[1]) == "1860-02-30 00:00:00"
    assert frames.time_step == 30 * 86400
    assert frames.seconds[4] == 120 * 86400


def test_times_in_float_hours(save_netcdf, rain_dataset):
    dataset = rain_dataset()
    units = {"units": "hours since 2000-01-01T00:50:00"}
    dataset["time"] = ("time", 160895 + 1 / 6 + np.arange(5) / 12, units)
    frames = open_frames(save_netcdf(dataset))
    assert frames.time.values[0] == np.datetime64("2018-05-10T00:00")
    assert frames.time_step == 300


def test_the_usual_step_with_gaps(save_netcdf, rain_dataset):
    frames = open_frames(save_netcdf(rain_dataset(seconds=np.array([0, 600, 900, 1200, 9000]))))
    assert frames.time_step == 300
    np.testing.assert_array_equal(frames.seconds, [0, 600, 900, 1200, 9000])


def test_frames_without_dates_are_counted_by_the_time_step(save, rain_dataset):
    path = save(rain_dataset().drop_vars("time"))
    frames = open_frames(path, time_step=600)
    np.testing.assert_array_equal(frames.seconds, np.arange(5) * 600)
    assert frames.time_step == 600
    assert "arbitrary" in frames.time.attrs["comment"]
    with pytest.raises(DataError, match=r"time: expected times with a unit .*. Pass `time_step`"):
        open_frames(path)
    with pytest.raises(ConfigError, match="time_step: expected a number above 0"):
        open_frames(path, time_step=0)


def test_sums_become_rates_over_the_step(save, rain_dataset, rain_counts):
    attrs = {"units": "kg", "standard_name": "rainfall_amount", "scale_factor": 0.01}
    path = save(rain_dataset(attrs=attrs))
    with pytest.raises(DataError, match=r"units of rain: expected a unit of rain .*got 'kg'.*units='mm'"):
        open_frames(path)
    frames = open_frames(path, units="mm")
    assert frames.units == "mm/h"
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], rain_counts() * 0.12, rtol=1e-6)
    hourly = open_frames(path, units="mm", time_step=3600)
    np.testing.assert_allclose(hourly.read(slice(None))[:, 0], rain_counts() * 0.01, rtol=1e-6)


def test_a_rate_with_an_offset_changes_its_unit_as_a_whole(save, rain_dataset, rain_counts):
    frames = open_frames(save(rain_dataset(attrs={"units": "mm/day", "scale_factor": 0.5, "add_offset": 48.0})))
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], 2 + rain_counts() * 0.5 / 24, rtol=1e-6)


def test_other_variables_keep_unit_offset_and_channels(save, rain_dataset, rain_counts):
    counts = rain_counts()
    attrs = {"units": "K", "scale_factor": 0.5, "add_offset": 250.0}
    dataset = rain_dataset(attrs=attrs).rename(rain="t")
    dataset["p"] = (("time", "y", "x"), counts * 2.0, {"units": "hPa"})
    path = save(dataset)
    frames = open_frames(path, variables=("p", "t"))
    assert (frames.variables, frames.units, frames.shape) == (("p", "t"), "hPa, K", (5, 2, 4, 6))
    values = frames.read(slice(None))
    np.testing.assert_allclose(values[:, 0], counts * 2, rtol=1e-6)
    np.testing.assert_allclose(values[:, 1], 250 + counts * 0.5, rtol=1e-6)
    with pytest.raises(DataError, match=r"variables: expected the name of one or more, got none\. Choose from p, t"):
        open_frames(path)


def test_the_only_variable_over_time_y_and_x_is_found(save, rain_dataset):
    dataset = rain_dataset()
    dataset["mask"] = (("y", "x"), np.ones((4, 6)))
    dataset["index"] = (("time",), np.ones(5))
    assert open_frames(save(dataset)).variables == ("rain",)


@pytest.mark.parametrize(
    ("attrs", "dtype", "absent"),
    [
        ({"_FillValue": 3}, "i2", {3}),
        ({"missing_value": [3, 5]}, "i4", {3, 5}),
        ({"_FillValue": 3.0, "missing_value": 4.0}, "f4", {3, 4}),
        ({"missing_value": 1e20}, "i2", set()),
        ({"missing_value": 2.5}, "i2", set()),
        ({"missing_value": "none"}, "i2", set()),
        ({"valid_range": [2, 6]}, "i2", {0, 1, 7}),
        ({"valid_min": 2.0}, "f8", {0, 1}),
        ({"valid_max": 6, "_FillValue": 3}, "i2", {3, 7}),
        # limits of another type than the packed one are not about packed numbers
        ({"valid_range": [0.0, 3.0], "scale_factor": 0.1}, "i2", set()),
    ],
)
def test_what_counts_as_missing(attrs, dtype, absent, save_netcdf, rain_dataset):
    counts = np.arange(8, dtype=dtype).reshape(2, 2, 2)
    scale = attrs.get("scale_factor", 1)
    attrs = {key: np.array(its, dtype) if key == "_FillValue" else its for key, its in attrs.items()} | {"units": "K"}
    values = open_frames(save_netcdf(rain_dataset(counts, attrs=attrs))).read(slice(None)).ravel()
    expected = [NAN if n in absent else n * scale for n in range(8)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_infinite_numbers_and_the_default_fill_are_missing(save_netcdf, rain_dataset):
    values = np.array([1, np.inf, -np.inf, 9.969209968386869e36, 2, np.nan, 3, 4], "f4").reshape(2, 2, 2)
    dataset = rain_dataset(values, attrs={"units": "K"})
    dataset["rain"].encoding["_FillValue"] = None
    read = open_frames(save_netcdf(dataset)).read(slice(None)).ravel()
    np.testing.assert_array_equal(read, [1, NAN, NAN, NAN, 2, NAN, 3, 4])


def test_unsigned_bytes_in_a_signed_type(save_netcdf, rain_dataset):
    counts = np.array([0, 127, -128, -1, 1, 2, 3, 4], "i1").reshape(2, 2, 2)
    attrs = {"_Unsigned": "true", "_FillValue": np.int8(-1), "units": "dBZ", "scale_factor": 0.5, "add_offset": -32.0}
    frames = open_frames(save_netcdf(rain_dataset(counts, attrs=attrs)))
    np.testing.assert_allclose(frames.read(slice(0, 1)).ravel(), [-32, 31.5, 32, NAN])
    assert frames.units == "dBZ"


def test_large_whole_numbers_are_scaled_before_they_are_rounded(save_netcdf, rain_dataset):
    # 16,777,217 is the first whole number that float32 cannot hold
    counts = 16_777_216 + np.arange(8, dtype="i4").reshape(2, 2, 2)
    attrs = {"units": "K", "add_offset": -16_777_216.0}
    frames = open_frames(save_netcdf(rain_dataset(counts, attrs=attrs)))
    np.testing.assert_array_equal(frames.read(slice(None)).ravel(), np.arange(8))


CLASSIC = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")


@pytest.mark.parametrize("form", CLASSIC)
@pytest.mark.parametrize("unlimited", [(), ("time",)])
def test_netcdf_of_the_classic_formats(form, unlimited, tmp_path, rain_dataset, rain_counts):
    path = tmp_path / "classic.nc"
    rain_dataset().to_netcdf(path, format=form, engine="netcdf4", unlimited_dims=unlimited)
    frames = open_frames(path)
    assert frames.channels[0].packed.dtype == np.dtype("=i2")
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], rain_counts() * 0.12, rtol=1e-6)


def test_the_only_variable_that_grows_is_not_padded(tmp_path, rain_dataset, rain_counts):
    dataset = rain_dataset(rain_counts(5, 3, 3)).drop_vars("time")
    dataset.to_netcdf(tmp_path / "classic.nc", format="NETCDF3_CLASSIC", engine="netcdf4", unlimited_dims=("time",))
    frames = open_frames(tmp_path / "classic.nc", time_step=300)
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], rain_counts(5, 3, 3) * 0.12, rtol=1e-6)


def test_zarr_with_consolidated_metadata(tmp_path, rain_dataset):
    rain_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=2, consolidated=True)
    assert open_frames(tmp_path / "rain.zarr").shape == (5, 1, 4, 6)


def test_zarr_whose_chunks_are_absent_is_filled(tmp_path, rain_dataset):
    rain_dataset(np.ones((5, 4, 6), np.int16)).to_zarr(tmp_path / "rain.zarr", zarr_format=2, consolidated=False)
    chunks = [file for file in (tmp_path / "rain.zarr" / "rain").iterdir() if not file.name.startswith(".")]
    for chunk in chunks:
        chunk.unlink()
    with pytest.raises(DataError, match="rain: expected at least one value, got missing values only"):
        open_frames(tmp_path / "rain.zarr")


def test_frames_serve_xarray_users(save_netcdf, rain_dataset):
    frames = open_frames(save_netcdf(rain_dataset()))
    field = xr.DataArray(frames.read(slice(0, 1))[0, 0], dims=(frames.y_dim, frames.x_dim), coords=frames.grid.coords)
    assert float(field.sel(y=3000, x=5000)) == pytest.approx(0.6)
