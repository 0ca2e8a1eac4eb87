"""Forecast files that other tools read: CF without errors, true provenance, the same bytes, and other layouts."""

import hashlib
import json
import subprocess
import sys

import netCDF4
import numpy as np
import pytest
import xarray as xr

from convlstm.data import open_frames
from convlstm.errors import ConfigError, DataError, OutputError
from convlstm.nowcast.case_file import cf_cases
from convlstm.nowcast.cf_encoding import encoded
from convlstm.nowcast.cf_output import make_forecast, write_forecast, write_netcdf
from convlstm.nowcast.forecast_attributes import input_digest
from convlstm.nowcast.forecast_files import open_forecasts
from convlstm.nowcast.layouts import with_layout

LEADS = [300.0, 600.0, 1200.0]
START = 3 * 86400.0 + 3900.0  # seconds from the first frame to the last
LAYOUTS = ("cf", "weatherbench", "pysteps")


def projected(rain):
    """Rain with a projection, latitudes and longitudes, as a national composite has them."""
    rain["crs"] = (
        (),
        0,
        {
            "grid_mapping_name": "polar_stereographic",
            "straight_vertical_longitude_from_pole": 10.0,
            "latitude_of_projection_origin": 90.0,
            "standard_parallel": 60.0,
            "false_easting": 0.0,
            "false_northing": 0.0,
            "earth_radius": 6370040.0,
        },
    )
    rain["rain"].attrs["grid_mapping"] = "crs"
    rain["y"] = ("y", rain["y"].values - 4e6, {"units": "m", "standard_name": "projection_y_coordinate"})
    rain["x"] = ("x", rain["x"].values, {"units": "m", "standard_name": "projection_x_coordinate"})
    y, x = np.meshgrid(np.linspace(50, 51, 22), np.linspace(9, 10, 18), indexing="ij")
    return rain.assign_coords(
        lat=(("y", "x"), y, {"units": "degrees_north", "standard_name": "latitude"}),
        lon=(("y", "x"), x, {"units": "degrees_east", "standard_name": "longitude"}),
    )


@pytest.fixture
def frames(read, make_rain):
    rain = projected(make_rain())
    return read(rain.assign_attrs(license="CC BY 4.0", source="radar"))


@pytest.fixture
def forecast(event_nowcaster, frames):
    """Everything a forecast can have: field, mean, quantiles, probabilities and members."""
    return make_forecast(event_nowcaster, frames, lead_times=LEADS, members=2)


@pytest.fixture
def cases():
    dims = ("case", "lead_time", "y", "x")
    values = np.zeros((1, 2, 4, 5), np.float32)
    return xr.Dataset(
        {
            "forecast": (("method", *dims), values[None]),
            "observation": (dims, values),
            "inputs": (("case", "input_time", "y", "x"), values),
        },
        coords={
            "method": ["convlstm"],
            "init_time": ("case", np.array(["2020-06-01T00:10"], "datetime64[ns]")),
            "lead_time": [5.0, 10.0],
            "input_time": [-5.0, 0.0],
        },
        attrs={"units": "mm/h", "variable": "rain", "attribution": ""},
    )


CHECK = """
import json, sys
from compliance_checker.runner import CheckSuite, ComplianceChecker

CheckSuite.load_all_available_checkers()
for path in sys.argv[1:]:
    ComplianceChecker.run_checker(path, ["cf:1.11"], 0, "strict", output_filename=path + ".json", output_format="json")
    parts = json.load(open(path + ".json"))["cf:1.11"]["high_priorities"]
    print(json.dumps([message for part in parts for message in part["msgs"]]))
"""


def errors_of(*paths):
    """The errors that the IOOS compliance checker finds in each file, in a process of its own."""
    pytest.importorskip("compliance_checker")
    command = [sys.executable, "-W", "ignore", "-c", CHECK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


def test_the_compliance_checker_finds_no_error(tmp_path, forecast, cases):
    paths = [write_forecast(tmp_path / f"{layout}.nc", with_layout(forecast, layout)) for layout in LAYOUTS]
    paths.append(write_netcdf(tmp_path / "cases.nc", cf_cases(cases)))
    spoilt = forecast[["rain", "crs"]].assign(rain=forecast["rain"].assign_attrs(units="fathoms of rain"))
    paths.append(write_forecast(tmp_path / "spoilt.nc", spoilt))
    *good, bad = errors_of(*paths)
    assert good == [[], [], [], []]
    assert "fathoms of rain" in " ".join(bad)


def test_coordinates_have_no_fill_value_and_times_a_unit_that_every_reader_knows(tmp_path, forecast):
    for layout in LAYOUTS:
        write_forecast(tmp_path / "f.nc", with_layout(forecast, layout))
        with netCDF4.Dataset(tmp_path / "f.nc") as file:
            fields = {name for name, variable in file.variables.items() if variable.ndim > 2}
            for name in set(file.variables) - fields:
                assert "_FillValue" not in file[name].ncattrs(), name
                assert "dtype" not in file[name].ncattrs(), name
            times = [v for v in file.variables.values() if " since " in getattr(v, "units", "")]
            assert {v.calendar for v in times} == {"standard"}
            assert all(v.units.startswith("seconds since ") for v in times)


def test_lead_times_and_members_are_described(tmp_path, forecast):
    write_forecast(tmp_path / "f.nc", forecast)
    with netCDF4.Dataset(tmp_path / "f.nc") as file:
        lead = file["lead_time"]
        assert (lead.units, lead.standard_name, lead[:].tolist()) == ("minutes", "forecast_period", [5, 10, 20])
        assert file["realization"].standard_name == "realization"
        assert file["rain"].standard_name == "rainfall_rate"
        assert {file[name].axis for name in ("y", "x")} == {"Y", "X"}
        for name in ("rain", "rain_mean", "rain_quantile", "rain_member", "probability_of_rain_above_threshold"):
            assert file[name].grid_mapping == "crs"


def test_attributes_of_the_input_do_not_pass_for_those_of_the_forecast(event_nowcaster, frames, forecast):
    attrs, digest = forecast.attrs, event_nowcaster.model.digest
    assert attrs["title"] == f"Forecast of rain by the model '{digest[:16]}'"
    assert attrs["source"].startswith("convlstm ")
    assert digest in attrs["source"]
    assert attrs["model_digest"] == digest
    assert (attrs["input_title"], attrs["input_source"]) == ("Drifting rain", "radar")
    assert (attrs["input_history"], attrs["input_institution"]) == ("made up", "Nobody")
    assert attrs["license"] == "CC BY 4.0"
    assert attrs["input_times"] == "3 frames from 2020-06-04T00:55:00 to 2020-06-04T01:05:00"
    values = frames.read(slice(53, 56))
    assert attrs["input_digest"] == "sha256:" + hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()


def test_the_digest_of_the_input_depends_on_its_values_alone():
    values = np.array([0.0, 1.5, np.nan], np.float32)
    other_nan = values.copy()
    other_nan.view(np.uint32)[2] = 0xFFC00001
    assert np.isnan(other_nan[2])
    assert input_digest(other_nan) == input_digest(values)
    assert input_digest(values + np.float32(1e-6)) != input_digest(values)


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_the_same_time_of_run_gives_the_same_file(tmp_path, event_nowcaster, frames, monkeypatch, ending):
    def written(name):
        forecast = make_forecast(event_nowcaster, frames, lead_times=LEADS, members=2)
        path = write_forecast(tmp_path / f"{name}.{ending}", forecast)
        if ending == "zarr":
            return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        with netCDF4.Dataset(path) as file:  # its bytes have the second of the writing
            file.set_auto_maskandscale(False)
            content = {
                name: (variable.dtype, variable.chunking(), variable.__dict__, variable[:].tobytes())
                for name, variable in file.variables.items()
            }
            return file.__dict__, {name: len(dim) for name, dim in file.dimensions.items()}, content

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    one, two = written("a"), written("b")
    assert repr(one) == repr(two)  # NaN is not equal to itself
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000001")
    assert repr(written("c")) != repr(one)
    if ending == "zarr":
        return
    with netCDF4.Dataset(tmp_path / "a.nc") as a, netCDF4.Dataset(tmp_path / "c.nc") as c:
        assert [name for name in a.ncattrs() if a.getncattr(name) != c.getncattr(name)] == ["history"]
        assert a.history.startswith("2020-09-13T12:26:40Z convlstm ")
        for name in a.variables:
            np.testing.assert_array_equal(a[name][:], c[name][:])


def test_a_time_of_run_that_is_no_number_is_refused(event_nowcaster, frames, monkeypatch, refused):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with refused(ConfigError, "SOURCE_DATE_EPOCH"):
        make_forecast(event_nowcaster, frames)


def test_a_damaged_card_does_not_stop_a_forecast(event_nowcaster, frames):
    event_nowcaster.model.extra["card"] = {"title": 5}
    assert make_forecast(event_nowcaster, frames).attrs["model_name"] == event_nowcaster.model.digest[:16]
    event_nowcaster.model.extra["card"] = {"title": "Rain of Nowhere"}
    title = make_forecast(event_nowcaster, frames).attrs["title"]
    assert title == "Forecast of rain by the model 'Rain of Nowhere'"


@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("members", [0, 2])
def test_every_layout_is_read_back_as_forecasts(tmp_path, event_nowcaster, frames, layout, name, members):
    forecast = make_forecast(event_nowcaster, frames, lead_times=LEADS, members=members)
    write_forecast(tmp_path / name, with_layout(forecast, layout))
    files = open_forecasts(tmp_path / name, frames, np.array(LEADS))
    assert (files.members, files.starts.tolist(), files.lead_seconds.tolist()) == (members, [START], LEADS)
    values = files(None, np.array([START]), np.array(LEADS))
    expected = forecast["rain_member"].values if members else forecast["rain"].values[:, None]
    np.testing.assert_array_equal(values, expected)


def test_weatherbench_has_its_names(forecast):
    dataset = with_layout(forecast, "weatherbench")
    assert dataset["rain"].dims == ("init_time", "number", "lead_time", "y", "x")
    assert dataset["rain_field"].dims == ("init_time", "lead_time", "y", "x")
    assert dataset["probability_of_rain_above_threshold"].dims == ("init_time", "threshold", "lead_time", "y", "x")
    assert dataset["valid_time"].dims == ("init_time", "lead_time")
    np.testing.assert_array_equal(dataset["valid_time"].values[0], forecast["time"].values)
    assert dataset["rain"].encoding["grid_mapping"] == "crs"
    assert forecast["rain"].dims == ("lead_time", "y", "x")  # the argument is unchanged


def test_weatherbench_names_latitude_and_longitude(event_nowcaster, read, make_rain):
    rain = make_rain().assign_coords(
        y=("y", np.linspace(50, 50.2, 22), {"units": "degrees_north", "standard_name": "latitude"}),
        x=("x", np.linspace(9, 9.2, 18), {"units": "degrees_east", "standard_name": "longitude"}),
    )
    forecast = make_forecast(event_nowcaster, read(rain), lead_times=[300.0])
    assert with_layout(forecast, "weatherbench")["rain"].dims == ("init_time", "lead_time", "latitude", "longitude")


def test_pysteps_reads_its_layout(tmp_path, forecast):
    pytest.importorskip("pysteps")
    from pysteps.io.nowcast_importers import import_netcdf_pysteps

    path = write_forecast(tmp_path / "f.nc", with_layout(forecast, "pysteps"))
    values, metadata = import_netcdf_pysteps(str(path), onerror="raise")
    np.testing.assert_array_equal(values, forecast["rain_member"].values[:, :, ::-1])  # north first
    assert metadata["leadtimes"].tolist() == [5.0, 10.0, 20.0]
    assert metadata["unit"] == "mm/h"
    assert "+proj=stere +lon_0=10.0 +lat_0=90.0" in metadata["projection"]
    assert (metadata["xpixelsize"], metadata["y2"]) == (1000.0, -4e6 + 21500.0)


def test_rows_without_coordinates_keep_their_order_in_the_layout_of_pysteps(forecast):
    plain = forecast.drop_vars([name for name in forecast.coords if {"y", "x"} & set(forecast[name].dims)])
    written = with_layout(plain, "pysteps")["precip_intensity"]
    np.testing.assert_array_equal(written.values, forecast["rain_member"].values)
    assert (np.diff(written["y"].values) < 0).all()  # pysteps takes the first row for the northern edge


IRIS = """
import sys, iris

for path in sys.argv[1:]:
    for cube in iris.load(path):
        starts = cube.coord("forecast_reference_time").points.size
        dims = [coordinate.var_name for coordinate in cube.coords(dim_coords=True)]
        print(path[-4], cube.var_name, starts, cube.coord_system("CoordSystem") is not None, *dims[-2:])
"""


def test_iris_loads_every_variable_with_its_projection(tmp_path, forecast):
    pytest.importorskip("iris")
    paths = [write_forecast(tmp_path / f"{layout}.nc", with_layout(forecast, layout)) for layout in LAYOUTS]
    # in a process of its own, because its libraries warn and cannot be loaded after those of GRIB
    command = [sys.executable, "-W", "ignore", "-c", IRIS, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5 + 5 + 1
    assert all(line.endswith(" 1 True y x") for line in lines), lines


def test_layouts_that_do_not_fit_are_refused(forecast, refused):
    with refused(ConfigError, "--layout"):
        with_layout(forecast, "grib")
    warm = forecast.assign(rain=forecast["rain"].assign_attrs(units="K"))
    with refused(ConfigError, "--layout"):
        with_layout(warm, "pysteps")


@pytest.mark.parametrize("name", ["q.grib", "q", "q.csv", "q.NC", "q.nc.gz"])
def test_names_of_other_kinds_are_refused(tmp_path, forecast, refused, name):
    with refused(OutputError, str(tmp_path / name)):
        write_forecast(tmp_path / name, forecast)
    assert not list(tmp_path.glob("q*"))


def test_the_values_that_are_encoded_stay_as_they_were(forecast):
    before = forecast.copy(deep=True)
    encoded(forecast)
    xr.testing.assert_identical(forecast, before)
    assert forecast["lead_time"].dtype.kind == "m"


def test_methods_of_the_example_cases_can_be_selected_with_xarray(tmp_path, cases):
    write_netcdf(tmp_path / "cases.nc", cf_cases(cases))
    with xr.open_dataset(tmp_path / "cases.nc", engine="netcdf4") as dataset:
        assert "method" not in dataset.dims
        assert dataset["forecast"].sel(forecast_method="convlstm").dims == ("case", "lead_time", "y", "x")
        assert dataset["lead_time"].attrs["units"] == "minutes"
        assert dataset.attrs["Conventions"] == "CF-1.11"


def test_forecasts_are_read_as_data_again(tmp_path, forecast):
    write_forecast(tmp_path / "f.nc", forecast[["rain", "crs"]])
    assert open_frames(tmp_path / "f.nc", time_dim="lead_time").units == "mm/h"


def test_the_netcdf_library_writes_to_memory_only(tmp_path, monkeypatch):
    """On a full disk it ended the process by a signal at the last bytes of a file."""
    paths = []
    write = xr.Dataset.to_netcdf

    def spy(self, path=None, **options):
        paths.append(path)
        return write(self, path, **options)

    monkeypatch.setattr(xr.Dataset, "to_netcdf", spy)
    write_netcdf(tmp_path / "f.nc", xr.Dataset({"rain": (("lead_time", "y", "x"), np.ones((2, 3, 4), np.float32))}))
    assert paths == [None]
    with xr.open_dataset(tmp_path / "f.nc") as forecast:
        assert forecast["rain"].shape == (2, 3, 4)


def test_a_changed_byte_of_a_zarr_forecast_is_an_error(trained, rain_frames, tmp_path):
    path = tmp_path / "f.zarr"
    write_forecast(path, make_forecast(trained, rain_frames))
    whole = open_frames(path).read(slice(0, 2))
    assert np.isfinite(whole).any()
    for chunk in (path / "rain").glob("[0-9]*"):
        content = bytearray(chunk.read_bytes())
        content[-8] ^= 1  # of the compressed values, before the checksum of four bytes
        chunk.write_bytes(content)
    with pytest.raises(DataError):
        open_frames(path).read(slice(0, 2))


def test_a_file_is_written_with_little_memory_for_chunks(tmp_path, forecast, monkeypatch):
    before, during = netCDF4.get_chunk_cache(), []
    write = xr.Dataset.to_netcdf

    def recorded(*arguments, **options):
        during.append(netCDF4.get_chunk_cache()[0])
        return write(*arguments, **options)

    monkeypatch.setattr(xr.Dataset, "to_netcdf", recorded)
    write_forecast(tmp_path / "forecast.nc", forecast)
    assert during == [2**20]
    assert netCDF4.get_chunk_cache() == before
    assert before[0] > 2**20
