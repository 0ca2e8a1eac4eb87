"""Many files, and data that is compressed or elsewhere: read as one file would be, or refused with the file's name."""

import bz2
import gzip
import http.server
import json
import os
import pickle
import tempfile
import threading
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from tests.data.radar_files import minutes, radolan_bytes

from convlstm.data import open_files, open_frames, places
from convlstm.data.sources import open_dataset
from convlstm.errors import DataError, DependencyError

DAY = 12  # frames of a file


@pytest.fixture
def whole(rain_dataset, rain_counts):
    """A sequence of 36 frames, packed."""
    return rain_dataset(rain_counts(3 * DAY, 4, 6))


@pytest.fixture
def days(whole, tmp_path):
    """The sequence in three files, the name of the last one first in the alphabet."""
    folder = tmp_path / "days"
    folder.mkdir()
    for number, name in enumerate(("b.nc", "c.nc", "a.nc")):
        whole.isel(time=slice(number * DAY, (number + 1) * DAY)).to_netcdf(folder / name)
    return folder


def rewrite(path, change):
    """Change a file in place."""
    with xr.open_dataset(path, mask_and_scale=False, decode_times=False) as dataset:
        changed = change(dataset.load())
    changed.to_netcdf(path)


def refused(source, message, **options):
    with pytest.raises(DataError, match=message) as caught:
        open_frames(source, **options)
    assert "\n" not in str(caught.value)


def test_files_of_a_folder_pattern_or_list_are_one_sequence(days, whole, tmp_path):
    whole.to_netcdf(tmp_path / "whole.nc")
    expected = open_frames(tmp_path / "whole.nc")
    (days / "readme.txt").write_text("rain")
    sources = (days, str(days), f"{days}/*.nc", f"{tmp_path}/**/[abc].nc", [days / "b.nc", f"{days}/[ac].nc"])
    for source in sources:
        frames = open_frames(source)
        np.testing.assert_array_equal(frames.read(slice(None)), expected.read(slice(None)))
        np.testing.assert_array_equal(frames.time.values, expected.time.values)
        assert frames.channels[0].packed.dtype == np.int16
        xr.testing.assert_identical(frames.grid, expected.grid)
        assert frames.attrs == expected.attrs


def test_any_index_of_joined_files_reads_the_files_it_needs(days, whole, monkeypatch):
    opened = []
    original = open_files.OpenFiles.read
    monkeypatch.setattr(
        open_files.OpenFiles, "read", lambda self, number, *rest: opened.append(number) or original(self, number, *rest)
    )
    with open_dataset(days, 2**30) as dataset:
        rain = dataset["rain"].variable
        for key in (
            (slice(10, 14), slice(1, 3), slice(None)),
            (np.array([30, 2, 2, 15]), slice(None), np.array([5, 0])),
            (7, 2, slice(None, None, -1)),
            (slice(30, None, -9), -1, 3),
            (np.array([], int), slice(None), slice(None)),
        ):
            opened.clear()
            counts = whole["rain"].variable
            np.testing.assert_array_equal(rain[key].values, counts[key].values)
            frames = np.atleast_1d(np.arange(36)[key[0]])
            assert len(opened) == len(np.unique(frames // DAY))


def test_joined_files_are_read_after_the_function_has_returned(days, monkeypatch):
    monkeypatch.setattr(open_files, "MOST_OPEN", 1)
    dataset = open_dataset(days, 2**30)
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 (our own)
    np.testing.assert_array_equal(copy["rain"].values, dataset["rain"].values)
    handles = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert sum(str(days) in handle for handle in handles) <= 2
    dataset.close()
    copy.close()


def test_times_with_another_reference_in_each_file(days):
    def from_its_start(dataset):
        passed = (dataset["time"].values - dataset["time"].values[0]) // 60
        first = minutes(0) + (minutes(1) - minutes(0)) * (int(dataset["time"].values[0]) // 300)
        return dataset.assign_coords(time=("time", passed, {"units": f"minutes since {first:%Y-%m-%d %H:%M}"}))

    for path in days.iterdir():
        rewrite(path, from_its_start)
    frames = open_frames(days)
    assert frames.time_step == 300
    assert frames.time.values[13] == np.datetime64("2018-05-13T01:05")


def test_files_of_a_calendar_of_360_days(days):
    for path in days.iterdir():
        rewrite(path, lambda dataset: dataset.assign_coords(time=dataset["time"].assign_attrs(calendar="360_day")))
    frames = open_frames(days)
    assert frames.time.values[0].calendar == "360_day"
    assert frames.time_step == 300
    rewrite(days / "a.nc", lambda dataset: dataset.assign_coords(time=dataset["time"].assign_attrs(calendar="noleap")))
    refused(days, "expected one calendar in all files")


def test_files_packed_in_different_ways_are_unpacked(days, whole):
    def packed_again(dataset):
        counts = dataset["rain"].values
        values = (counts - 40).astype(np.int16) * np.int16(2)
        values[0, 0, 0] = -32768
        attrs = {"units": "mm/h", "scale_factor": 0.06, "add_offset": 4.8, "_FillValue": np.int16(-32768)}
        return dataset.assign(rain=(("time", "y", "x"), values, attrs))

    rewrite(days / "a.nc", packed_again)
    frames = open_frames(days)
    assert frames.channels[0].packed.dtype == np.float32
    expected = whole["rain"].values * 0.12
    expected[2 * DAY, 0, 0] = np.nan
    np.testing.assert_allclose(frames.read(slice(None))[:, 0], expected, rtol=1e-5)


def test_stores_with_the_fill_value_0_that_are_packed_in_different_ways_are_refused(tmp_path, whole):
    """Unpacked, a dry cell and a missing one would be the same."""
    for number, factor in enumerate((1, 2)):
        part = whole.isel(time=slice(number * DAY, (number + 1) * DAY)).copy(deep=True)
        part["rain"] = part["rain"].copy(data=part["rain"].values * np.int16(factor))
        part["rain"].attrs = {"units": "mm/h", "scale_factor": 0.12 / factor, "_FillValue": np.int16(0)}
        part.to_zarr(tmp_path / f"{number}.zarr", zarr_format=2, consolidated=False)
    zeros = (whole["rain"].values == 0).any()
    assert zeros
    single = open_frames(tmp_path / "0.zarr").read(slice(None))
    assert np.isfinite(single).all()
    stores = [tmp_path / "0.zarr", tmp_path / "1.zarr"]
    refused(stores, r"zarr: expected rain packed as in the other files, or with another fill value than 0")


def test_one_file_with_the_time_in_its_name_is_read_as_in_a_folder(tmp_path, whole):
    for number in range(2):
        frame = whole.isel(time=number, drop=True)
        frame.to_netcdf(tmp_path / f"rain_2020060100{5 * number:02}.nc")
    folder = open_frames(tmp_path)
    alone = open_frames(tmp_path / "rain_202006010005.nc", time_step=300.0)
    assert alone.time.values.tolist() == folder.time.values[1:].tolist()
    np.testing.assert_array_equal(alone.read(slice(None)), folder.read(slice(1, 2)))


def test_one_sum_alone_is_a_sum_over_one_step(tmp_path, make_rain):
    frame = make_rain().isel(time=[3])
    frame.assign(rain=(frame["rain"] / 12).assign_attrs(units="mm")).to_netcdf(tmp_path / "sum.nc")
    rate = open_frames(tmp_path / "sum.nc", time_step=300.0).read(slice(None))[:, 0]
    np.testing.assert_allclose(rate, frame["rain"].values, rtol=1e-6)


def test_one_sum_alone_has_no_increase(tmp_path, whole):
    sums = whole.isel(time=[0]).assign(rain=whole["rain"].isel(time=[0]).assign_attrs(units="mm"))
    sums.to_netcdf(tmp_path / "sum.nc")
    refused(tmp_path / "sum.nc", "rain: expected two sums in a row, got one frame", time_step=300.0, accumulated=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.assign_coords(time=d["time"] - 300),
            r"a\.nc: expected times after those of .*c\.nc, which ends at ",
        ),
        (
            lambda d: d.isel(x=slice(5)),
            r"a\.nc: expected the dimensions of rain as in .*b\.nc \(y: 4, x: 6\), got y: 4, x: 5",
        ),
        (
            lambda d: d.assign_coords(x=d["x"] + 500),
            r"a\.nc: expected the grid: x as in .*b\.nc \(6 values from 0\.0 to",
        ),
        (lambda d: d.isel(y=slice(None, None, -1)), r"a\.nc: expected the grid: y as in"),
        (lambda d: d.rename(rain="rr"), r"a\.nc: expected the variables as in .*b\.nc \(rain\), got rr"),
        (lambda d: d.drop_vars("x"), r"a\.nc: expected the coordinates as in"),
        (
            lambda d: d.assign(rain=d["rain"].assign_attrs(units="mm")),
            r"a\.nc: expected the units of rain as in .* got mm",
        ),
        (lambda d: d.isel(time=[0, 2, 1]), r"a\.nc: expected times that increase from frame to frame"),
        (lambda d: d.drop_vars("time"), r"a\.nc: expected times of its frames, got none"),
        (lambda d: d.transpose("y", "x", "time"), None),
    ],
    ids=["overlap", "size", "grid", "order", "name", "coordinate", "unit", "times", "no times", "axes"],
)
def test_files_that_do_not_fit_are_refused_by_name(days, whole, change, message):
    rewrite(days / "a.nc", change)
    if message is None:  # the order of the axes may differ
        np.testing.assert_allclose(open_frames(days).read(slice(None))[:, 0], whole["rain"].values * 0.12, rtol=1e-6)
    else:
        refused(days, message)


def test_only_the_requested_variables_have_to_be_in_every_file(days):
    rewrite(days / "a.nc", lambda dataset: dataset.assign(quality=dataset["rain"]))
    refused(days, r"a\.nc: expected the variables as in .*b\.nc \(rain\), got quality, rain")
    assert open_frames(days, variables=("rain",)).shape == (36, 1, 4, 6)
    refused(days, r"b\.nc: expected the variable quality, got the variables rain", variables=("quality",))


@pytest.mark.parametrize(
    "name",
    ["rain_{:%Y%m%d%H%M}.nc", "{:%Y%m%d_%H%M}_10km.nc", "radar-{:%Y-%m-%dT%H:%M:%S}Z.nc", "x{:%Y%m%dT%H%M%S}.nc"],
)
def test_the_time_of_a_frame_is_in_the_name_of_its_file(tmp_path, whole, name):
    frames = whole.isel(time=slice(3)).drop_vars("time")
    for number in range(3):
        frames.isel(time=number).to_netcdf(tmp_path / name.format(minutes(number)))
    read = open_frames(tmp_path)
    assert read.time.values.tolist() == [np.datetime64(minutes(n), "ns").item() for n in range(3)]
    np.testing.assert_allclose(read.read(slice(None))[:, 0], whole["rain"].values[:3] * 0.12, rtol=1e-6)


def test_the_time_of_a_frame_is_a_scalar_or_an_attribute(tmp_path, whole):
    for number in range(3):
        frame = whole.isel(time=number)
        if number == 2:
            frame = frame.drop_vars("time").assign_attrs(valid_time="2018-05-10T00:10:00Z")
        frame.to_netcdf(tmp_path / f"{number}_20200101.nc")
    assert str(open_frames(tmp_path).time.values[2])[:16] == "2018-05-10T00:10"


def test_names_without_a_time_or_with_two_are_refused(tmp_path, whole):
    frames = whole.drop_vars("time")
    for names, message in (
        (("1.nc", "2.nc"), "expected a time axis, a scalar time, or one time in the file name, got none"),
        (("20180513_20180514.nc", "20180514_20180515.nc"), "got 2018-05-13T.*, 2018-05-14T"),
    ):
        for number, name in enumerate(names):
            frames.isel(time=number).to_netcdf(tmp_path / name)
        refused([tmp_path / name for name in names], message)


def test_a_pattern_without_a_match(tmp_path):
    refused(f"{tmp_path}/*.nc", r"\*\.nc: expected a pattern of files, got no match")
    refused([], "paths: expected at least one path")


@pytest.mark.parametrize(("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_files(tmp_path, whole, suffix, compress):
    whole.to_netcdf(tmp_path / "rain.nc")
    path = tmp_path / f"rain.nc{suffix}"
    path.write_bytes(compress((tmp_path / "rain.nc").read_bytes()))
    frames = open_frames(path)
    assert frames.shape == (36, 1, 4, 6)
    folder = tmp_path / "radar"
    folder.mkdir()
    for number in range(3):
        content = radolan_bytes(np.full((900, 900), number, np.uint16), minutes(number))
        (folder / f"yw_{number}{suffix}").write_bytes(compress(content))
    rain = open_frames(folder)
    np.testing.assert_allclose(rain.read(slice(None), (slice(1), slice(1))).ravel(), [0, 0.12, 0.24], rtol=1e-6)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path_factory, monkeypatch):
    """Other tests, in other processes, have temporary copies too."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


def temporary_copies():
    return set(Path(tempfile.gettempdir()).glob("convlstm-*"))


def test_a_temporary_copy_lives_as_long_as_its_variables(tmp_path, whole):
    before = temporary_copies()
    whole.to_netcdf(tmp_path / "rain.nc")
    (tmp_path / "rain.nc.gz").write_bytes(gzip.compress((tmp_path / "rain.nc").read_bytes()))
    variable = open_dataset(tmp_path / "rain.nc.gz", 2**30)["rain"].variable
    np.testing.assert_array_equal(variable[3:5].values, whole["rain"].values[3:5])
    assert len(temporary_copies() - before) == 1
    del variable
    assert temporary_copies() == before


def test_a_compressed_file_that_expands_too_far_or_is_cut(tmp_path, monkeypatch):
    before = temporary_copies()
    path = tmp_path / "rain.nc.gz"
    path.write_bytes(gzip.compress(bytes(5 * 2**20)))
    monkeypatch.setattr(places, "MOST_EXPANDED", 4 * 2**20)
    refused(path, r"rain\.nc\.gz: expected at most 0\.00391 GiB")
    path.write_bytes(gzip.compress(b"CDF\x01" + bytes(1000))[:-9])
    refused(path, r"rain\.nc\.gz: expected a compressed file that is whole, got Compressed file ended")
    path.write_bytes(gzip.compress(b"some text"))
    refused(path, r"rain\.nc\.gz: expected data that can be read")
    assert temporary_copies() == before


@pytest.fixture
def memory():
    """The file system of fsspec in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs[:] = [""]
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("form", [2, 3])
def test_a_zarr_store_at_an_address(memory, whole, form):
    whole.to_zarr("memory://archive/rain.zarr", zarr_format=form, consolidated=False)
    for address in ("memory://archive/rain.zarr", Path("memory://archive/rain.zarr")):
        frames = open_frames(address)
        np.testing.assert_allclose(frames.read(slice(None))[:, 0], whole["rain"].values * 0.12, rtol=1e-6)


def test_files_at_addresses(memory, days, whole):
    for path in days.iterdir():
        memory.pipe_file(f"/days/{path.name}", path.read_bytes())
    memory.pipe_file("/days/readme.txt", b"rain")
    before = temporary_copies()
    for source in ("memory://days", "memory://days/*.nc", [f"memory://days/{name}.nc" for name in "abc"]):
        frames = open_frames(source)
        np.testing.assert_allclose(frames.read(slice(None))[:, 0], whole["rain"].values * 0.12, rtol=1e-6)
        assert temporary_copies() == before
    refused("memory://days/none.nc", r"memory://days/none\.nc: expected an address that answers")
    refused("memory://days/*.grib", r"memory://days/\*\.grib: expected files of a known kind, got none")


def test_a_pickle_codec_at_an_address_is_refused(memory, whole):
    whole.to_zarr("memory://rain.zarr", zarr_format=2, consolidated=False)
    metadata = json.loads(memory.cat_file("/rain.zarr/rain/.zarray"))
    metadata |= {"filters": [{"id": "pickle", "protocol": 5}]}
    memory.pipe_file("/rain.zarr/rain/.zarray", json.dumps(metadata).encode())
    refused("memory://rain.zarr", r"memory://rain\.zarr.*pickle")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Print nothing."""


@pytest.fixture
def server(tmp_path):
    """The address of a server of `tmp_path`."""
    pytest.importorskip("aiohttp")
    handler = partial(_Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()
        thread.join()


def test_data_on_a_server(server, tmp_path, days, whole):
    whole.to_zarr(tmp_path / "rain.zarr", zarr_format=3, consolidated=False)
    expected = whole["rain"].values * 0.12
    sources = [f"{server}/days/{name}.nc" for name in "abc"]
    np.testing.assert_allclose(open_frames(sources).read(slice(None))[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(open_frames(Path(f"{server}/days/b.nc")).read(slice(1))[0, 0], expected[0], rtol=1e-6)
    (tmp_path / "rain.zarr" / ".zmetadata").unlink(missing_ok=True)
    refused(f"{server}/days/missing.nc", r"/days/missing\.nc: expected an address that answers, got .*404")


def test_protocols_that_are_not_read(monkeypatch):
    refused("ftp://host/rain.nc", "ftp://host/rain.nc: expected an address with http, https, s3, .* got ftp")
    monkeypatch.setitem(places.PROTOCOLS, "s3", "no_such_package")
    with pytest.raises(
        DependencyError, match=r"s3://bucket/rain\.zarr: expected no_such_package installed.*\[remote\]"
    ):
        open_frames("s3://bucket/rain.zarr")
    assert places.find_places(Path("file:///data/rain.nc")) == ["/data/rain.nc"]
