"""GeoTIFF: values, places and times as a geographic information system reads them."""

import sys

import numpy as np
import pytest
import xarray as xr

from convlstm.errors import DataError, DependencyError
from convlstm.nowcast.cf_output import write_forecast
from convlstm.nowcast.geotiff import load_libraries

VALUES = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def rasterio():
    pytest.importorskip("pyproj")
    return pytest.importorskip("rasterio")


def forecast(y, x, crs=None, values=VALUES):
    """A forecast of two lead times whose rows run from the south to the north."""
    lead = np.array([5, 10], "timedelta64[m]").astype("timedelta64[ns]")
    dataset = xr.Dataset(
        {"rain": (("lead_time", "y", "x"), values, {"units": "mm/h"})},
        coords={
            "lead_time": lead,
            "time": ("lead_time", np.datetime64("2020-06-01T00:00", "ns") + lead),
            "y": ("y", *y),
            "x": ("x", *x),
        },
        attrs={"title": "Forecast of rain", "license": "CC BY 4.0"},
    )
    if crs is not None:
        dataset = dataset.assign_coords(crs=((), 0, crs))
        dataset["rain"].encoding["grid_mapping"] = "crs"
    return dataset


LAEA = {
    "grid_mapping_name": "lambert_azimuthal_equal_area",
    "longitude_of_projection_origin": 10.0,
    "latitude_of_projection_origin": 52.0,
    "false_easting": 4321000.0,
    "false_northing": 3210000.0,
    "semi_major_axis": 6378137.0,
    "inverse_flattening": 298.257222101,
}


def test_a_projection_in_kilometres_becomes_metres_with_north_up(tmp_path, rasterio):
    values = VALUES.copy()
    values[1, 0, 3] = np.nan
    km = {"units": "km"}
    dataset = forecast(([3000.0, 3001.0, 3002.0], km), ([4000.0, 4002.0, 4004.0, 4006.0], km), LAEA, values)
    write_forecast(tmp_path / "q.tif", dataset)
    with rasterio.open(tmp_path / "q.tif") as file:
        np.testing.assert_array_equal(file.read(), values[:, ::-1])
        assert file.bounds == (3999000.0, 2999500.0, 4007000.0, 3002500.0)
        assert file.crs.to_dict()["proj"] == "laea"
        assert np.isnan(file.nodata)
        assert file.descriptions == ("rain +5 min, 2020-06-01T00:05:00Z", "rain +10 min, 2020-06-01T00:10:00Z")
        assert file.units == ("mm/h", "mm/h")
        assert file.tags(2) == {"lead_time_minutes": "10", "valid_time": "2020-06-01T00:10:00Z"}
        assert (file.tags()["title"], file.tags()["license"]) == ("Forecast of rain", "CC BY 4.0")
        # the cell of the highest value is where its coordinates say
        row, column = file.index(4006000.0, 3002000.0)
        assert file.read(2)[row, column] == 23.0


def test_latitudes_and_longitudes_need_no_projection(tmp_path, rasterio):
    north, east = {"units": "degrees_north"}, {"units": "degrees_east"}
    write_forecast(tmp_path / "q.tiff", forecast(([50.0, 50.5, 51.0], north), ([9.0, 9.5, 10.0, 10.5], east)))
    with rasterio.open(tmp_path / "q.tiff") as file:
        assert file.crs.to_epsg() == 4326
        np.testing.assert_allclose(file.bounds, (8.75, 49.75, 10.75, 51.25))


@pytest.mark.parametrize(
    ("y", "x", "crs", "words"),
    [
        (([0.0, 1.0, 2.0], {"units": "km"}), ([0.0, 1.0, 2.0, 3.0], {"units": "km"}), None, "no grid mapping"),
        (([0.0, 1.0, 3.0], {"units": "m"}), ([0.0, 1.0, 2.0, 3.0], {"units": "m"}), LAEA, "uneven steps along y"),
        (
            ([0.0, 1.0, 2.0], {"units": "m"}),
            ([0.0, 1.0, 2.0, 3.0], {"units": "m"}),
            {"grid_mapping_name": "flat_earth"},
            "crs: ",
        ),
    ],
)
def test_grids_without_a_place_are_refused(tmp_path, rasterio, y, x, crs, words):
    with pytest.raises(DataError, match=words):
        write_forecast(tmp_path / "q.tif", forecast(y, x, crs))
    assert not list(tmp_path.iterdir())


def test_missing_libraries_are_named_with_the_extra(tmp_path, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    monkeypatch.delitem(sys.modules, "eccodes", raising=False)
    with pytest.raises(DependencyError, match=r"GeoTIFF: .*\[geotiff\]"):
        write_forecast(tmp_path / "q.tif", forecast(([0.0, 1.0, 2.0], {}), ([0.0, 1.0, 2.0, 3.0], {}), LAEA))


def test_the_order_of_libraries_that_crashes_the_process_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "eccodes", object())
    monkeypatch.delitem(sys.modules, "pyproj", raising=False)
    with pytest.raises(DependencyError, match="import pyproj"):
        load_libraries()
