"""The attribute `convlstm` of forecasts in xarray: values, files of each layout, and errors that list what there is."""

import subprocess
import sys
from datetime import timedelta

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

import convlstm.xarray  # noqa: F401 (adds the attribute)
from convlstm.errors import ConfigError, DataError
from convlstm.nowcast.cf_output import make_forecast, write_forecast
from convlstm.nowcast.layouts import with_layout
from convlstm.report.scales import rain_scale

LEADS = [300.0, 600.0, 1200.0]
PROBABILITY = "probability_of_rain_above_threshold"


@pytest.fixture
def forecast(event_nowcaster, rain_frames):
    """Everything a forecast can have, with some missing cells."""
    made = make_forecast(event_nowcaster, rain_frames, lead_times=LEADS, members=3)
    for name in ("rain", "rain_mean", "rain_member", PROBABILITY):
        made[name].values[..., :2, :3] = np.nan
    return made


@pytest.fixture
def values(make_nowcaster, rain_frames):
    """A forecast of two variables without probabilities."""
    made = make_forecast(make_nowcaster(still=True), rain_frames, lead_times=LEADS)
    return made.assign(temperature=made["rain"].assign_attrs(units="K"))


@pytest.fixture(autouse=True)
def no_window(monkeypatch):
    """Draw without a screen, and close the figures."""
    import matplotlib.pyplot as plt

    mpl.use("agg")
    yield
    plt.close("all")


def test_the_probability_of_a_listed_threshold_is_that_of_the_forecast(forecast):
    probability = forecast.convlstm.probability(1)
    assert probability.dims == ("lead_time", "y", "x")
    xr.testing.assert_identical(probability, forecast[PROBABILITY].sel(threshold=1.0))


def test_another_threshold_is_refused_with_the_list_of_those_there_are(forecast, refused):
    with refused(ConfigError, "threshold"):
        forecast.convlstm.probability(3)
    with pytest.raises(ConfigError, match=r"one of those in the forecast \(0\.1, 1, 5\), got 3\."):
        forecast.convlstm.probability(3)


def test_members_give_the_probability_of_any_threshold(forecast):
    probability = forecast.convlstm.probability(0.3, from_members=True)
    members = forecast["rain_member"].values
    known = np.isfinite(members).all(axis=0)
    np.testing.assert_allclose(probability.values[known], ((members >= 0.3).sum(axis=0) / 3)[known], rtol=1e-6)
    assert np.isnan(probability.values[:, :2, :3]).all()
    assert known.sum() == 3 * (22 * 18 - 6)
    assert 0 < np.nanmean(probability) < 1
    assert probability.attrs == {"units": "1", "long_name": "share of members with 0.3 mm/h or more"}


def test_a_forecast_without_probabilities_or_members_says_so(values, refused):
    for call in (
        lambda: values.convlstm.probability(1, variable="rain"),
        lambda: values.convlstm.probability(1, variable="rain", from_members=True),
        lambda: values.convlstm.members("rain"),
        lambda: values.convlstm.areal_sums(2, of="mean", variable="rain"),
    ):
        with refused(DataError, "rain"):
            call()


def test_one_of_several_variables_must_be_named(values, refused):
    assert values.convlstm.variables == ("rain", "temperature")
    assert values.convlstm.field("temperature").attrs["units"] == "K"
    for wrong in (None, "wind"):
        with refused(ConfigError, "variable"):
            values.convlstm.field(wrong)


def test_a_dataset_that_is_no_forecast_is_refused(refused):
    dataset = xr.Dataset({"rain": ("time", np.zeros(3))})
    with refused(DataError, "dataset"):
        dataset.convlstm.field()
    with refused(DataError, "dataset"):
        dataset.convlstm.at(300)


@pytest.mark.parametrize("lead", [600, 600.0, timedelta(minutes=10), np.timedelta64(10, "m")])
def test_a_lead_time_is_a_number_of_seconds_or_a_duration(forecast, lead):
    xr.testing.assert_identical(forecast.convlstm.at(lead), forecast.isel(lead_time=1))


@pytest.mark.parametrize("valid", ["2020-06-04T01:15", "2020-06-04T03:15+02:00", np.datetime64("2020-06-04T01:15")])
def test_a_valid_time_is_in_utc(forecast, valid):
    assert str(forecast["forecast_reference_time"].values)[:16] == "2020-06-04T01:05"
    xr.testing.assert_identical(forecast.convlstm.at(valid_time=valid), forecast.isel(lead_time=1))


def test_a_time_that_is_not_in_the_forecast_is_refused_with_those_that_are(forecast, refused):
    with pytest.raises(ConfigError, match=r"\(300, 600, 1200 seconds\), got 900\."):
        forecast.convlstm.at(900)
    with pytest.raises(ConfigError, match=r"\(2020-06-04T01:10:00 to 2020-06-04T01:25:00\)"):
        forecast.convlstm.at(valid_time="2020-06-04T02:00")
    for wrong in ({}, {"lead_time": 600, "valid_time": "2020-06-04T01:15"}, {"lead_time": "ten"}):
        with refused(ConfigError, "lead_time"):
            forecast.convlstm.at(**wrong)


def test_other_calendars_have_valid_times_too(forecast):
    other = forecast.assign_coords(
        time=(
            "lead_time",
            xr.date_range("2020-06-04T01:10", periods=3, freq="5min", calendar="noleap", use_cftime=True),
        )
    )
    assert other.convlstm.at(valid_time="2020-06-04T01:15")["lead_time"] == np.timedelta64(600, "s")


def test_areal_sums_are_those_of_numpy_and_missing_where_a_cell_is(forecast):
    sums = forecast.convlstm.areal_sums(4)
    expected = forecast["rain"].values[:, :20, :16].reshape(3, 5, 4, 4, 4).sum(axis=(2, 4))
    np.testing.assert_allclose(sums.values, expected, rtol=1e-5)
    assert np.isnan(sums.values[:, 0, 0]).all()
    assert np.isfinite(sums.values).sum() == 3 * (5 * 4 - 1)
    assert sums.attrs["units"] == "mm/h"
    assert sums.attrs["long_name"].startswith("sum over 4 × 4 cells of the forecast rain")
    np.testing.assert_array_equal(sums["x"].values, [1500.0, 5500.0, 9500.0, 13500.0])
    mean = forecast.convlstm.areal_sums(4, of="mean")
    np.testing.assert_allclose(mean[1, 2, 3], forecast["rain_mean"][1, 8:12, 12:16].sum(), rtol=1e-5)
    members = forecast.convlstm.areal_sums(4, of="members")
    assert members.sizes == {"realization": 3, "lead_time": 3, "y": 5, "x": 4}


@pytest.mark.parametrize("cells", [0, 19, 2.5])
def test_a_side_that_does_not_fit_the_grid_is_refused(forecast, refused, cells):
    with refused(ConfigError, "cells"):
        forecast.convlstm.areal_sums(cells)
    with refused(ConfigError, "of"):
        forecast.convlstm.areal_sums(2, of="median")


@pytest.mark.parametrize("layout", ["cf", "weatherbench", "pysteps"])
@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_files_of_every_layout_give_the_same_answers(forecast, tmp_path, layout, suffix):
    path = write_forecast(tmp_path / f"forecast{suffix}", with_layout(forecast, layout))
    with xr.open_dataset(path, decode_timedelta=False) as dataset:
        stored = dataset.convlstm
        members = stored.members().sortby("y")  # pysteps begins in the north
        np.testing.assert_array_equal(members, forecast["rain_member"])
        assert members.dims[0] == {"cf": "realization", "weatherbench": "number"}.get(layout, "ens_number")
        at = stored.at(600).convlstm.members().sortby("y")
        np.testing.assert_array_equal(at, forecast["rain_member"].isel(lead_time=1))
        xr.testing.assert_identical(stored.at(600), stored.at(valid_time="2020-06-04T01:15"))
        if layout == "pysteps":  # it has the members alone
            with pytest.raises(DataError, match="got members only"):
                stored.field()
        else:
            np.testing.assert_array_equal(stored.field(), forecast["rain"])
            np.testing.assert_array_equal(stored.probability(5), forecast.convlstm.probability(5))


def test_several_initial_times_are_refused(forecast, refused):
    several = xr.concat([with_layout(forecast, "weatherbench")] * 2, "init_time")
    with refused(DataError, "rain_field"):
        several.convlstm.field()
    np.testing.assert_array_equal(several.isel(init_time=[1]).convlstm.field(), forecast["rain"])


def test_a_map_has_the_colours_of_the_report_the_unit_and_both_times(forecast):
    ax = forecast.convlstm.plot(600)
    (mesh,) = ax.collections
    np.testing.assert_array_equal(mesh.get_array().filled(np.nan), forecast["rain"].values[1])
    scale = rain_scale("mm/h")
    for value, number in ((0.0, 0), (0.15, 1), (7.0, 6), (200.0, 10)):
        assert mpl.colors.to_hex(mesh.to_rgba([value])[0]) == scale.colours[number]
    assert ax.get_title() == "2020-06-04 01:15 UTC, +10 min"
    assert mesh.colorbar.ax.get_ylabel().endswith("(mm/h)")
    assert ax.get_aspect() == 1
    again = forecast.convlstm.at(600).convlstm.plot(ax=ax)
    assert again is ax


def test_a_map_of_a_probability(forecast):
    ax = forecast.convlstm.plot(valid_time="2020-06-04T01:15", threshold=1)
    (mesh,) = ax.collections
    np.testing.assert_array_equal(mesh.get_array().filled(np.nan), forecast[PROBABILITY].sel(threshold=1).values[1])
    assert mesh.colorbar.ax.get_ylabel() == "probability of 1 mm/h or more"


def test_rows_without_coordinates_begin_at_the_top(forecast):
    assert forecast.drop_vars(["y", "x"]).convlstm.plot(600).yaxis_inverted()
    assert not forecast.convlstm.plot(600).yaxis_inverted()


def test_a_map_of_several_times_asks_for_one(forecast, refused):
    with refused(ConfigError, "lead_time"):
        forecast.convlstm.plot()


def test_the_class_of_forecasts_adds_the_attribute():
    script = "import xarray; from convlstm.nowcast import Nowcaster; assert hasattr(xarray.Dataset, 'convlstm')"
    subprocess.run([sys.executable, "-c", script], check=True)
