"""The digest of a forecast, which finds what has changed."""

from __future__ import annotations

from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from convlstm.errors import DataError
from convlstm.nowcast import content_digest as module
from convlstm.nowcast.cf_output import write_forecast
from convlstm.nowcast.content_digest import DIGEST, check_forecast, content_digest


@pytest.fixture
def forecast() -> xr.Dataset:
    start = np.datetime64("2018-05-10T12:00", "ns")
    lead = (np.arange(1, 4) * 300).astype("timedelta64[s]").astype("timedelta64[ns]")
    values = np.random.default_rng(0).random((3, 4, 5), np.float32)
    values[0, 0, 0] = np.nan
    return xr.Dataset(
        {"rain": (("lead_time", "y", "x"), values, {"units": "mm/h"}), "crs": ((), 0, {"grid_mapping_name": "x"})},
        coords={
            "lead_time": ("lead_time", lead),
            "time": ("lead_time", start + lead),
            "forecast_reference_time": ((), start),
            "y": ("y", np.arange(4.0), {"units": "km"}),
            "x": ("x", np.arange(5.0), {"units": "km"}),
            "latitude": (("y", "x"), np.arange(20.0).reshape(4, 5)),
            "method": ("y", ["a", "b", "a", "ä"]),
        },
    )


@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
def test_a_forecast_has_the_digest_of_its_content(tmp_path, forecast, name):
    kind, digest = check_forecast(write_forecast(tmp_path / name, forecast))
    assert kind == "forecast, 3 lead_time × 4 y × 5 x"
    assert digest == check_forecast(write_forecast(tmp_path / "other.nc", forecast))[1]
    other = forecast.assign(rain=forecast["rain"].where(forecast["rain"] != forecast["rain"][1, 1, 1], 0))
    assert digest != check_forecast(write_forecast(tmp_path / "other.nc", other))[1]


CHANGES = {
    "rain": lambda file: file["rain"].__setitem__((1, 1, 1), 7.0),
    "initial time": lambda file: file["forecast_reference_time"].__setitem__((), 0.0),
    "lead time": lambda file: file["lead_time"].__setitem__(0, 6.0),
    "place": lambda file: file["latitude"].__setitem__((0, 0), 1.0),
    "text": lambda file: file["method"].__setitem__(0, "b"),
    "units": lambda file: file["rain"].attrs.__setitem__("units", "m/s"),
    "name": lambda file: file.move("rain", "snow"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_forecast_is_refused(tmp_path, forecast, change):
    path = write_forecast(tmp_path / "f.nc", forecast)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match="expected the content that was written, got content with another digest"):
        check_forecast(path)


def test_every_array_of_a_netcdf_forecast_has_a_checksum(tmp_path, forecast):
    with netCDF4.Dataset(write_forecast(tmp_path / "f.nc", forecast)) as file:
        filters = {name: variable.filters() for name, variable in file.variables.items() if variable.ndim}
    without = [name for name, used in filters.items() if not (used["fletcher32"] or used["zlib"])]
    assert without == ["method"]  # texts cannot have one


def test_infinite_values_are_refused_and_other_data_have_no_digest(tmp_path, forecast):
    forecast["rain"][0, 0, 1] = np.inf
    with pytest.raises(DataError, match="expected finite numbers, got infinite ones in rain"):
        check_forecast(write_forecast(tmp_path / "f.nc", forecast))
    plain = xr.Dataset({"rain": ("x", np.arange(3.0))})
    plain.to_netcdf(tmp_path / "plain.nc")
    assert check_forecast(tmp_path / "plain.nc") == ("data without a digest, 3 x", content_digest(plain))


def test_the_digest_is_in_the_file(tmp_path, forecast):
    path: Path = write_forecast(tmp_path / "f.nc", forecast)
    with xr.open_dataset(path) as dataset:
        assert dataset.attrs[DIGEST] == check_forecast(path)[1]


@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
@pytest.mark.parametrize("start", ["2018-05-10T12:00:00.145", "2018-05-10T12:00:00.005", "1900-01-01T00:00:00.123456"])
def test_times_of_any_fraction_of_a_second_are_no_change(tmp_path, forecast, name, start):
    moved = forecast.assign_coords(forecast_reference_time=((), np.datetime64(start, "ns")))
    check_forecast(write_forecast(tmp_path / name, moved))


def test_large_arrays_have_the_same_digest_in_blocks(tmp_path, forecast, monkeypatch):
    whole = content_digest(forecast)
    path = write_forecast(tmp_path / "f.nc", forecast)
    for size in (1, 16, 100):
        monkeypatch.setattr(module, "_BLOCK", size)
        assert content_digest(forecast) == whole
        check_forecast(path)
