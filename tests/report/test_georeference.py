"""Places on the maps: against coordinates computed by hand."""

import numpy as np
import pytest
import xarray as xr

from convlstm.report.georeference import georeference
from convlstm.report.results import read_results


def test_kilometres_of_a_projection(make_evaluation, with_grid):
    """The file begins with the south; the maps have the north up."""
    places = georeference(read_results(make_evaluation(cases=with_grid("km"))).cases)
    assert places.extent == "48 × 48 km, x 100 km to 146 km, y 0 km to 46 km"
    assert places.scale_bar.text == "10 km"
    assert places.scale_bar.width == pytest.approx(100 * 10 / 48, abs=0.01)
    labels = {label.text: (label.left, label.top) for label in places.labels}
    assert labels["120 km"] == (pytest.approx(100 * 10.5 / 24, abs=0.1), 100)
    assert labels["20 km"] == (0, pytest.approx(100 * 13.5 / 24, abs=0.1))
    down, across = places.to_json()["axes"]
    assert (down["name"], down["values"][:2], down["columns"]) == ("y", [46, 44], [0])
    assert (across["name"], across["values"][:2], across["rows"]) == ("x", [100, 102], [0])


@pytest.mark.parametrize(("units", "factor"), [("m", 1000.0), ("metres", 1000.0), ("Kilometers", 1.0)])
def test_every_unit_of_length_is_shown_in_kilometres(units, factor):
    coords = {name: (name, factor * np.arange(24.0), {"units": units}) for name in ("y", "x")}
    places = georeference(xr.Dataset(coords=coords))
    assert [axis.units for axis in places.axes] == ["km", "km"]
    np.testing.assert_array_equal(places.axes[1].values[0], np.arange(24.0))
    assert places.extent == "24 × 24 km, x 0 km to 23 km, y 0 km to 23 km"


def test_degrees_of_latitude_and_longitude(make_evaluation, with_grid):
    places = georeference(read_results(make_evaluation(cases=with_grid("degrees"))).cases)
    # 24 cells of 0.1°: 24 · 0.1 · 111.2 km high, and cos(51.15°) of it wide
    assert places.extent == "167 × 267 km, 1.2° W to 1.1° E, 50° N to 52.3° N"
    assert {label.text for label in places.labels} == {"51° N", "52° N", "1° W", "0° E", "1° E"}
    assert places.to_json()["axes"][0]["values"][0] == 52.3


def test_two_dimensional_coordinates_are_thinned_and_longitudes_cross_the_date_line():
    row, column = np.mgrid[:40, :60]
    longitude = (178.0 + 0.1 * column + 0.01 * row + 180.0) % 360.0 - 180.0
    coords = {"lat": (("y", "x"), 60.0 - 0.1 * row), "lon": (("y", "x"), longitude)}
    places = georeference(xr.Dataset(coords=coords))
    down, across = places.to_json()["axes"]
    assert (len(across["rows"]), len(across["columns"]), len(across["values"])) == (17, 17, 289)
    assert max(np.diff(np.reshape(across["values"], (17, 17))).ravel()) < 0.5
    texts = [label.text for label in places.labels]
    assert texts == ["57° N", "58° N", "59° N", "180° W", "178° W", "176° W"]
    lefts = [label.left for label in places.labels if label.text.endswith("W")]
    # the longitude of the lowest row is 178.39° E in its first cell
    assert lefts == [
        pytest.approx(100 * (0.5 + (longitude - 178.39) / 0.1) / 60, abs=0.1) for longitude in (180, 182, 184)
    ]
    assert down["columns"] == [0]


def test_row_numbers_are_no_places(make_results):
    places = georeference(make_results().cases)
    assert (places.axes, places.extent, places.labels, places.scale_bar) == ((), "", [], None)
    assert places.to_json() is None
