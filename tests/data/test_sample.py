"""The shipped radar sample, and, where it is at hand, the file that it was cut from."""

import os
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

from convlstm.data import open_frames, sample_path

SCRIPT = Path(__file__).parents[2] / "scripts" / "cut_radolan_sample.py"
WHOLE = os.environ.get("CONVLSTM_RADOLAN", "")
needs_whole = pytest.mark.skipif(not WHOLE, reason="CONVLSTM_RADOLAN does not name the file of pycomlink 0.6.0")


def test_it_is_small_and_says_where_it_comes_from():
    assert 500_000 < sample_path().stat().st_size < 1_000_000
    frames = open_frames(sample_path())
    assert frames.attrs["attribution"] == "Datenbasis: Deutscher Wetterdienst (DWD), RADOLAN YW; eigene Bearbeitung"
    assert "GeoNutzV" in frames.attrs["license"]
    assert "/" not in frames.attrs["history"]


def test_its_numbers():
    frames = open_frames(sample_path())
    assert (frames.shape, frames.units, frames.time_step) == ((588, 1, 96, 96), "mm/h", 300)
    assert frames.channels[0].packed.dtype == np.int16
    rain = frames.read(slice(None))
    assert np.isfinite(rain).all()
    # figures that the script printed
    wet = [100 * np.mean(rain[part] >= 1) for part in (slice(396), slice(396, 468), slice(468, 588))]
    np.testing.assert_allclose(wet, [10.06, 8.39, 8.33], atol=0.005)
    assert rain.max() == pytest.approx(236.88)
    # runs of whole hours, at least four each
    edges = np.flatnonzero(np.diff(frames.seconds) != 300) + 1
    runs = np.diff([0, *edges, 588])
    assert runs.tolist() == [72, 48, 120, 84, 72, 72, 120]


def test_any_reader_of_cf_reads_it():
    with xr.open_dataset(sample_path()) as dataset:
        rate = dataset["rainfall_rate"]
        assert rate.attrs["units"] == "mm/h"
        assert str(dataset["time"].values[0]) == "2018-05-10T10:00:00.000000000"
        np.testing.assert_allclose(np.diff(dataset["x"]), 1)
        np.testing.assert_allclose(rate.values, open_frames(sample_path()).read(slice(None))[:, 0], rtol=1e-6)


@needs_whole
def test_the_script_cuts_the_same_sample_again(tmp_path):
    subprocess.run([sys.executable, SCRIPT, WHOLE, "-o", tmp_path / "again.nc"], check=True, capture_output=True)
    with netCDF4.Dataset(tmp_path / "again.nc") as again, netCDF4.Dataset(sample_path()) as shipped:
        for dataset in (again, shipped):
            dataset.set_auto_maskandscale(False)
        assert again.history == shipped.history
        for name in ("time", "y", "x", "rainfall_rate"):
            np.testing.assert_array_equal(again[name][:], shipped[name][:])


@needs_whole
def test_the_whole_file_is_read_when_its_unit_is_said():
    frames, sample = open_frames(WHOLE, units="mm"), open_frames(sample_path())
    assert (frames.shape, frames.units, frames.time_step) == ((3168, 1, 190, 228), "mm/h", 300)
    same = np.flatnonzero(np.isin(frames.time.values, sample.time.values))[::50]
    part = frames.read(same, (slice(0, 96), slice(75, 171)))
    np.testing.assert_allclose(part, sample.read(slice(None, None, 50)), rtol=1e-6)
    assert set(frames.grid.variables) == {"latitudes", "longitudes"}
    # 2.5 % of the cells never have data
    assert np.isnan(frames.read(np.arange(0, 3168, 50))).all(0).mean() == pytest.approx(0.0254, abs=1e-3)
