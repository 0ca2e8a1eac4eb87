"""One position of a further dimension: by a value of its coordinate, or by number where there is none."""

import numpy as np
import pytest
import xarray as xr

from convlstm.data import open_frames
from convlstm.data.selection import parse_selection
from convlstm.errors import ConfigError, DataError


@pytest.fixture
def levels(rain_dataset, rain_counts, tmp_path):
    """Rain at three levels from two members; the members have no coordinate."""
    counts = rain_counts(5, 4, 6)
    values = np.stack([np.stack([counts + 200 * member + 1000 * level for level in range(3)]) for member in range(2)])
    dataset = rain_dataset().drop_vars("rain")
    attrs = {"units": "mm/h", "scale_factor": 0.12}
    dataset["rain"] = (("member", "level", "time", "y", "x"), values.astype(np.int16), attrs)
    level = np.array([0.1, 500, 850], np.float32)
    dataset = dataset.assign_coords(level=("level", level), name=("member", ["first", "second"]))
    dataset.to_netcdf(tmp_path / "levels.nc")
    return tmp_path / "levels.nc"


@pytest.mark.parametrize(
    ("selection", "added"),
    [
        ({"member": 0, "level": 850}, 2000),
        ({"member": 1, "level": 0.1}, 200),
        ({"level": 500.0, "name": "second"}, 1200),
    ],
)
def test_a_value_or_a_position_selects(levels, rain_counts, selection, added):
    frames = open_frames(levels, select=selection)
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], (rain_counts() + added) * 0.12, rtol=1e-6)
    assert float(frames.grid["level"]) == pytest.approx(selection["level"])


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (
            None,
            r"rain: expected only the dimensions time, y and x, got .*Pass one of its values, such as `--select \w+=0",
        ),
        ({"member": 0}, r"got level of size 3. .*`--select level=0.1`"),
        ({"member": 0, "level": 800}, r"select level: expected one of the values 0.1, 500, 850, got 800"),
        ({"member": 2, "level": 850}, r"select member: expected a position from 0 to 1, because member has no coord"),
        ({"member": 0.5, "level": 850}, r"expected a position from 0 to 1.* got 0.5"),
        ({"ensemble": 0}, r"select: expected a dimension of the data \(.*\), got ensemble. .*--select none"),
        ({"name": "third", "level": 850}, r"select name: expected one of the values first, second, got third"),
    ],
)
def test_a_value_that_is_not_there_is_refused(levels, selection, message):
    with pytest.raises(DataError, match=message):
        open_frames(levels, select=selection)


def test_a_time_selects_a_run_of_a_forecast(rain_dataset, rain_counts, tmp_path):
    dataset = xr.concat([rain_dataset(), rain_dataset(rain_counts() + np.int16(9))], "run", data_vars=["rain"])
    hours = ("run", [0, 12], {"units": "hours since 2018-05-09", "standard_name": "forecast_reference_time"})
    dataset.assign_coords(run=hours).to_netcdf(tmp_path / "runs.nc")
    with pytest.raises(DataError, match="--select run=2018-05-09T00:00"):
        open_frames(tmp_path / "runs.nc")
    frames = open_frames(tmp_path / "runs.nc", select={"run": "2018-05-09T12:00"})
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], (rain_counts() + 9) * 0.12, rtol=1e-6)
    with pytest.raises(DataError, match="got 2018-05-09, which 2 positions have"):
        open_frames(tmp_path / "runs.nc", select={"run": "2018-05-09"})


def test_the_only_value_of_a_coordinate_may_be_selected(rain_dataset, tmp_path):
    rain_dataset().assign_coords(level=850.0).to_netcdf(tmp_path / "rain.nc")
    assert open_frames(tmp_path / "rain.nc", select={"level": 850}).shape == (5, 1, 4, 6)
    with pytest.raises(DataError, match="select level: expected one of the values 850, got 500"):
        open_frames(tmp_path / "rain.nc", select={"level": 500})


def test_each_of_many_files_is_selected(levels, tmp_path, rain_counts):
    folder = tmp_path / "files"
    folder.mkdir()
    with xr.open_dataset(levels, mask_and_scale=False, decode_times=False) as dataset:
        for number in range(2):
            dataset.isel(time=slice(3 * number, 3 * number + 3)).to_netcdf(folder / f"{number}.nc")
    frames = open_frames(folder, select={"member": 1, "level": 500})
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], (rain_counts() + 1200) * 0.12, rtol=1e-6)


def test_the_text_of_the_option():
    assert parse_selection(["member=0,level=850", "run=2018-05-13T00:00"]) == {
        "member": 0,
        "level": 850,
        "run": "2018-05-13T00:00",
    }
    assert parse_selection(["none"]) == {}
    for wrong in (["member"], ["member=0,member=1"], ["=3"], ["level="]):
        with pytest.raises(ConfigError, match=r"--select: expected NAME=VALUE, each name once"):
            parse_selection(wrong)
