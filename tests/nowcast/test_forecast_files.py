"""Forecasts of other tools: layouts that are read, what they mean on the grid, and files that are refused."""

import netCDF4
import numpy as np
import pytest
import xarray as xr

from convlstm.data import dbz_to_mm_per_hour, open_frames
from convlstm.errors import DataError
from convlstm.nowcast import forecast_values
from convlstm.nowcast.forecast_files import open_forecasts
from convlstm.nowcast.forecast_values import is_among, shared_times

LEADS = np.array([300.0, 600.0])
HEIGHT, WIDTH = 22, 18
DAY = np.datetime64("2020-06-04", "ns")
DAY_SECONDS = 3 * 86400.0


@pytest.fixture(scope="module")
def values():
    """Two starts of three members at three lead times, in mm/h."""
    return np.random.default_rng(0).gamma(0.5, 2.0, (2, 3, 3, HEIGHT, WIDTH)).astype(np.float32)


@pytest.fixture
def layout(values):
    """A dataset over init_time, realization, lead_time, y and x."""
    return xr.Dataset(
        {"rain": (("init_time", "realization", "lead_time", "y", "x"), values.copy(), {"units": "mm/h"})},
        coords={
            "init_time": DAY + np.array([10, 20]).astype("timedelta64[m]"),
            "lead_time": ("lead_time", [5.0, 10.0, 15.0], {"units": "minutes"}),
            "realization": ("realization", [0, 1, 2], {"standard_name": "realization"}),
            "y": ("y", np.arange(HEIGHT) * 1000.0, {"units": "m"}),
            "x": ("x", np.arange(WIDTH) * 1000.0, {"units": "m"}),
        },
    )


@pytest.fixture
def read(tmp_path, rain_frames):
    """Write a dataset, open it as forecasts, and read the one that starts at a number of minutes of the last day."""

    def write_and_read(dataset, minutes=20, leads=LEADS, name="forecast.nc"):
        path = tmp_path / name
        dataset.to_zarr(path, zarr_format=2) if name.endswith(".zarr") else dataset.to_netcdf(path)
        forecasts = open_forecasts(path, rain_frames, leads)
        return forecasts, forecasts(None, np.array([DAY_SECONDS + 60.0 * minutes]), leads)

    return write_and_read


@pytest.mark.parametrize("name", ["forecast.nc", "forecast.zarr"])
def test_members_by_start_and_lead_time(read, layout, values, name):
    forecasts, found = read(layout, name=name)
    assert forecasts.members == 3
    assert forecasts.starts.tolist() == [DAY_SECONDS + 600, DAY_SECONDS + 1200]
    np.testing.assert_array_equal(found, values[1, :, :2])


def test_an_order_of_dimensions_is_as_good_as_another(read, layout, values):
    shuffled = layout.transpose("lead_time", "y", "init_time", "x", "realization")
    np.testing.assert_array_equal(read(shuffled, minutes=10)[1], values[0, :, :2])


@pytest.mark.parametrize("name", ["ens_number", "number", "ensemble", "member", "mem", "Member", "perturbation"])
def test_the_ensemble_is_found_by_its_usual_names(read, layout, name):
    renamed = layout.drop_vars("realization").rename(realization=name)
    assert read(renamed)[0].members == 3


def test_the_standard_name_decides_before_the_name(read, layout):
    renamed = layout.rename(realization="sample")
    assert read(renamed)[0].members == 3
    # a dimension of size 1 with a usual name is no ensemble if another one has the standard name
    assert read(renamed.expand_dims(number=1), name="other.nc")[0].members == 3


def test_a_file_without_members_is_a_field(read, layout, values):
    forecasts, found = read(layout.isel(realization=1, drop=True))
    assert forecasts.members == 0
    np.testing.assert_array_equal(found, values[1, 1, :2][:, None])


def test_rows_that_run_against_the_observations_are_turned(read, layout, values):
    np.testing.assert_array_equal(read(layout.isel(y=slice(None, None, -1)))[1], values[1, :, :2])


def test_units_packing_and_missing_values_are_decoded(read, layout, values):
    layout["rain"] = (layout["rain"] / 3600).assign_attrs(units="kg m-2 s-1", standard_name="rainfall_flux")
    layout["rain"][1, :, :, 3, 4] = np.nan
    layout["rain"].encoding = {"dtype": "int16", "scale_factor": 1e-6, "_FillValue": -1}
    found = read(layout)[1]
    assert np.isnan(found[:, :, 3, 4]).all()
    expected = values[1, :, :2].copy()
    expected[:, :, 3, 4] = np.nan
    np.testing.assert_allclose(found, expected, atol=0.002)


def in_sums(layout, per_hour):
    """The layout in mm, with values (init_time, realization, lead_time, y, x) or one that is derived from them."""
    layout["rain"] = (layout["rain"].dims, np.float32(per_hour), {"units": "mm"})
    return layout


def test_sums_have_the_interval_of_the_lead_times_as_their_period(read, layout, values):
    np.testing.assert_allclose(read(in_sums(layout, values / 12))[1], values[1, :, :2], rtol=1e-5)


def test_sums_in_another_order_of_lead_times(read, layout, values):
    descending = in_sums(layout, values / 12).isel(lead_time=[2, 1, 0])
    np.testing.assert_allclose(read(descending)[1], values[1, :, :2], rtol=1e-5)


@pytest.mark.parametrize("minutes", [[0.0, 5.0, 10.0], [1.0, 5.0, 10.0], [5.0, 10.0, 30.0]])
def test_sums_over_uneven_lead_times_and_lead_time_0_are_refused(read, layout, values, minutes):
    dataset = in_sums(layout, values / 12).assign_coords(lead_time=("lead_time", minutes, {"units": "minutes"}))
    with pytest.raises(DataError, match="even lead times"):
        read(dataset)
    rates = layout.assign(rain=layout["rain"].assign_attrs(units="mm/h"))
    assert read(rates.assign_coords(lead_time=dataset["lead_time"]), name="rates.nc")[1].shape[1] == 2


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_sums_since_the_start_are_refused(read, layout, values, dtype):
    dataset = in_sums(layout, (values / 12).cumsum(axis=2))
    dataset["rain"].encoding = {"dtype": dtype} | ({"scale_factor": 0.01, "_FillValue": -1} if dtype == "int16" else {})
    with pytest.raises(DataError, match="as sums since the start do"):
        read(dataset)


@pytest.mark.parametrize("unit", ["mm/h", "mm"])
def test_a_number_for_no_data_that_the_file_does_not_declare_is_refused(read, layout, unit):
    layout["rain"].attrs["units"] = unit
    layout["rain"][:, :, :, 3, 4] = -999.0
    with pytest.raises(
        DataError, match=r"got -999\. If it means no data, write it as the attribute `_FillValue` of rain"
    ):
        read(layout)


def test_a_number_for_no_data_in_one_case_alone_is_refused_when_it_is_read(read, layout, values, monkeypatch):
    monkeypatch.setattr(forecast_values, "_SAMPLE", 1)
    layout["rain"][1, :, :, 3, 4] = -999.0
    np.testing.assert_array_equal(read(layout, minutes=10)[1], values[0, :, :2])
    with pytest.raises(DataError, match="`_FillValue` of rain"):
        read(layout, minutes=20, name="other.nc")


def test_dry_cells_of_zarr_with_the_fill_value_0_are_dry(read, layout, values):
    layout["rain"][:, :, :, 3, 4] = 0.0
    layout["rain"].encoding["_FillValue"] = 0.0
    found = read(layout, name="forecast.zarr")[1]
    assert (found[:, :, 3, 4] == 0).all()
    assert np.isfinite(found).all()


def test_cells_that_netcdf_never_wrote_are_missing(rain_frames, layout, tmp_path):
    path = tmp_path / "forecast.nc"
    layout.drop_vars("rain").to_netcdf(path)
    with netCDF4.Dataset(path, "a") as file:
        rain = file.createVariable("rain", "f4", ("init_time", "realization", "lead_time", "y", "x"))
        rain.units = "mm/h"
        rain[:, :, :, 1:] = 1.5
    forecasts = open_forecasts(path, rain_frames, LEADS)
    found = forecasts(None, forecasts.starts[:1], LEADS)
    assert np.isnan(found[:, :, 0]).all()
    assert (found[:, :, 1:] == 1.5).all()


def test_one_member_is_a_field(read, layout, values):
    forecasts, found = read(layout.isel(realization=[1]))
    assert forecasts.members == 0
    np.testing.assert_array_equal(found, values[1, 1, :2][:, None])


@pytest.mark.parametrize("units", ["dBZ", "mm"])
def test_the_options_of_the_observations_decide_what_is_rain(make_rain, tmp_path, layout, values, units):
    observed = make_rain()
    observed["rain"].attrs["units"] = units
    observed.rename(rain="field").to_netcdf(tmp_path / "observed.nc")
    frames = open_frames(tmp_path / "observed.nc", rain=True, accumulated=False)
    layout["rain"].attrs["units"] = units
    layout.rename(rain="field").to_netcdf(tmp_path / "forecast.nc")
    forecasts = open_forecasts(tmp_path / "forecast.nc", frames, LEADS)
    found = forecasts(None, forecasts.starts[:1], LEADS)
    expected = dbz_to_mm_per_hour(values) if units == "dBZ" else 12 * values
    np.testing.assert_allclose(found, expected[0, :, :2], rtol=1e-5)


def test_a_unit_of_other_quantities_is_rain_if_the_observations_are(read, layout, values):
    layout["rain"] = (layout["rain"] / 3600).assign_attrs(units="kg m-2 s-1")
    np.testing.assert_allclose(read(layout.rename(rain="field"))[1], values[1, :, :2], rtol=1e-5)


def test_a_folder_without_files_of_netcdf_is_refused(rain_frames, layout, tmp_path):
    layout.to_netcdf(tmp_path / "forecast.nc4")
    with pytest.raises(DataError, match=r"got a folder without files that end in \.nc"):
        open_forecasts(tmp_path, rain_frames, LEADS)


def test_the_forecast_of_this_package_is_read(make_nowcaster, rain_frames, tmp_path):
    from convlstm.nowcast.cf_output import make_forecast, write_forecast

    nowcaster = make_nowcaster()
    forecast = make_forecast(nowcaster, rain_frames, init_time="2020-06-04T00:20")
    write_forecast(tmp_path / "own.nc", forecast)
    forecasts = open_forecasts(tmp_path / "own.nc", rain_frames, LEADS)
    assert forecasts.members == 0
    found = forecasts(None, forecasts.starts, LEADS)
    np.testing.assert_allclose(found[:, 0], forecast["rain"].values[:2], rtol=1e-6)


def test_the_members_of_a_forecast_of_this_package_are_read(event_nowcaster, rain_frames, tmp_path):
    from convlstm.nowcast.cf_output import make_forecast, write_forecast

    forecast = make_forecast(event_nowcaster, rain_frames, init_time="2020-06-04T00:20", members=3)
    write_forecast(tmp_path / "own.nc", forecast)
    forecasts = open_forecasts(tmp_path / "own.nc", rain_frames, LEADS)
    assert forecasts.members == 3
    np.testing.assert_array_equal(forecasts(None, forecasts.starts, LEADS), forecast["rain_member"].values[:, :2])


def pysteps_dataset(values):
    """The layout of the NetCDF exporter of pysteps: valid times in seconds since the start."""
    return xr.Dataset(
        {"precip_intensity": (("ens_number", "time", "y", "x"), values, {"units": "mm h-1"})},
        coords={
            "ens_number": ("ens_number", [1, 2, 3], {"standard_name": "realization", "units": ""}),
            "time": ("time", [300, 600, 900], {"units": "seconds since 2020-06-04 00:20:00"}),
        },
    )


def test_a_folder_of_files_of_pysteps_with_the_start_in_the_unit_of_time(rain_frames, values, tmp_path):
    for place, start in enumerate(("2020-06-04 00:10:00", "2020-06-04 00:20:00")):
        dataset = pysteps_dataset(values[place])
        dataset["time"].attrs["units"] = f"seconds since {start}"
        dataset.to_netcdf(tmp_path / f"{place}.nc")
    forecasts = open_forecasts(tmp_path, rain_frames, LEADS)
    assert forecasts.starts.tolist() == [DAY_SECONDS + 600, DAY_SECONDS + 1200]
    np.testing.assert_array_equal(forecasts(None, forecasts.starts[:1], LEADS), values[0, :, :2])


def test_valid_times_without_a_start_are_refused(read, values):
    dataset = pysteps_dataset(values[0])
    dataset["time"] = ("time", DAY + np.array([25, 30, 35]).astype("timedelta64[m]"))
    dataset["time"].encoding["units"] = "seconds since 1970-01-01"
    with pytest.raises(DataError, match="the time at which each forecast starts"):
        read(dataset)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: d.isel(lead_time=[0, 2]),
            "the lead time of 10 min, which is scored, got 5, 15 min. Add this lead time",
        ),
        (lambda d: d.isel(x=slice(4)), "the grid of the observations"),
        (lambda d: d.assign_coords(x=d["x"] + 4000.0), "coordinates from 4000 to"),
        (lambda d: d.assign(rain=d["rain"].assign_attrs(units="K")), "a unit of mm/h"),
        (lambda d: d.drop_vars("lead_time"), "lead times, or valid times"),
        (lambda d: d.drop_vars("init_time"), "lead times|the time at which"),
        (lambda d: d.assign_coords(lead_time=("lead_time", [5.0, 10.0, 15.0])), "with a unit such as"),
        (
            lambda d: d.expand_dims(height=2),
            "over start, member, lead time, y and x.* Rename the dimension to `realization`",
        ),
        (lambda d: d.rename(rain="a").assign(b=d["rain"]), "one variable over lead time"),
    ],
)
def test_files_that_do_not_fit_are_refused(read, layout, change, words):
    with pytest.raises(DataError, match=words):
        read(change(layout))


def test_files_of_different_ensembles_are_refused(rain_frames, layout, tmp_path):
    layout.to_netcdf(tmp_path / "a.nc")
    layout.isel(realization=slice(2)).to_netcdf(tmp_path / "b.nc")
    with pytest.raises(DataError, match="the same number of members"):
        open_forecasts(tmp_path, rain_frames, LEADS)


def test_files_with_one_member_each_are_refused(rain_frames, layout, tmp_path):
    for member in range(3):
        layout.isel(realization=member, drop=True).to_netcdf(tmp_path / f"mem{member}.nc")
    words = (
        r"one forecast for each start, got mem0\.nc and mem1\.nc with the start 2020-06-04T00:10:00\. "
        "Concatenate members along a dimension `realization`"
    )
    with pytest.raises(DataError, match=words):
        open_forecasts(tmp_path, rain_frames, LEADS)


def test_a_start_that_is_twice_in_one_file_is_refused(read, layout):
    twice = layout.assign_coords(init_time=layout["init_time"].values[[1, 1]])
    with pytest.raises(DataError, match=r"two entries of forecast\.nc with the start 2020-06-04T00:20:00"):
        read(twice)


def test_a_start_that_no_file_has_is_refused(read, layout):
    with pytest.raises(DataError, match="a forecast for each case"):
        read(layout, minutes=15)


def test_times_within_a_second_are_the_same():
    times = np.array([900.0, 300.0, 600.0])
    assert is_among(times, np.array([299.0, 301.0, 301.1, 750.0, 900.9, -5.0, 5000.0])).tolist() == [
        *(True, True, False, False, True, False, False)
    ]
    assert not is_among(np.empty(0), times).any()
    assert shared_times(times, np.array([599.5, 300.0]), np.array([0.0, 600.0, 300.2])).tolist() == [300.0, 600.0]


def test_lead_times_that_only_some_files_have_are_not_shared(rain_frames, layout, tmp_path):
    layout.to_netcdf(tmp_path / "a.nc")
    later = layout.assign_coords(init_time=layout["init_time"].values + np.timedelta64(20, "m"))
    later.isel(lead_time=slice(1, None)).to_netcdf(tmp_path / "b.nc")
    assert open_forecasts(tmp_path, rain_frames, np.empty(0)).lead_seconds.tolist() == [600.0, 900.0]
