"""The distance between cells, from coordinates of a projection or of the globe."""

import numpy as np
import pytest
import xarray as xr

from convlstm.data.spacing import EARTH_RADIUS, grid_spacing


@pytest.mark.parametrize(("units", "step", "metres"), [("m", 1000.0, 1000), ("km", 2.0, 2000), ("metres", -250.0, 250)])
def test_a_projection_in_metres_or_kilometres(units, step, metres):
    coords = {dim: (dim, step * np.arange(5), {"units": units}) for dim in ("y", "x")}
    assert grid_spacing(xr.Dataset(coords=coords), "y", "x") == pytest.approx(metres)


def test_latitudes_and_longitudes_of_one_dimension():
    coords = {
        "lat": ("lat", 50 + 0.01 * np.arange(3), {"units": "degrees_north"}),
        "lon": ("lon", 10 + 0.02 * np.arange(4), {"units": "degrees_east"}),
    }
    degree = np.radians(1) * EARTH_RADIUS
    expected = np.sqrt(0.01 * degree * 0.02 * degree * np.cos(np.radians(50.01)))
    assert grid_spacing(xr.Dataset(coords=coords), "lat", "lon") == pytest.approx(expected, rel=1e-3)


def test_latitudes_and_longitudes_of_two_dimensions_turned_by_a_quarter():
    lat = 50 + 0.01 * np.arange(4)
    lon = 10 + 0.0155 * np.arange(5)
    coords = {
        "latitudes": (("y", "x"), np.tile(lat, (5, 1))),
        "longitudes": (("y", "x"), np.tile(lon[:, None], (1, 4))),
    }
    assert grid_spacing(xr.Dataset(coords=coords), "y", "x") == pytest.approx(1110, rel=0.01)


@pytest.mark.parametrize(
    "coords",
    [
        {},
        {"y": ("y", np.arange(4.0)), "x": ("x", np.arange(4.0))},
        {"y": ("y", np.zeros(4), {"units": "m"}), "x": ("x", np.arange(4.0), {"units": "m"})},
        {"lat": ("y", np.arange(4.0))},
        {"y": ("y", [0.0], {"units": "m"}), "x": ("x", [0.0], {"units": "m"})},
    ],
)
def test_coordinates_that_do_not_tell(coords):
    assert grid_spacing(xr.Dataset(coords=coords), "y", "x") is None
