"""Numbers that stay in the file: the same values as in memory, in bounded memory, and errors of one line."""

import pickle

import netCDF4
import numpy as np
import pytest
import xarray as xr

from convlstm.data import Batches, LogRain, open_frames
from convlstm.data import stored as stored_module
from convlstm.data.frames import frames_at_once, in_parts
from convlstm.data.sampling import WetSampler
from convlstm.data.stored import BlockCache, StoredArray, packed_numbers
from convlstm.data.summary import summarise
from convlstm.errors import DataError

SHAPE = (23, 17, 14)
DIMS = ("time", "y", "x")
# by name: how each store is written
STORES = {
    "chunked netcdf": {"chunksizes": (4, 5, 6), "zlib": True},
    "contiguous netcdf": {"contiguous": True},
    "zarr2": {"chunks": (5, 17, 7)},
    "zarr3 with shards": {"chunks": (2, 5, 7), "shards": (6, 10, 14)},
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Join chunks to blocks of 200 bytes at least, so that small arrays have many."""
    monkeypatch.setattr(stored_module, "_BLOCK_BYTES", 200)


def numbers(dtype="i2", shape=SHAPE):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def write(tmp_path, values, store, *, attrs=None):
    """Write rain every five minutes and return the path."""
    coords = {"time": ("time", np.arange(len(values)) * 300, {"units": "seconds since 2020-01-01"})}
    rain = xr.Dataset({"rain": (DIMS, values, attrs or {"units": "mm/h"})}, coords=coords)
    encoding = {"rain": STORES[store]}
    if "zarr" in store:
        path = tmp_path / "rain.zarr"
        rain.to_zarr(path, zarr_format=int(store[4]), encoding=encoding, consolidated=False)
    else:
        path = tmp_path / "rain.nc"
        rain.to_netcdf(path, encoding=encoding)
    return path


def stored_array(values, cache=None, chunks=None, **options):
    variable = xr.Variable(DIMS, values, encoding={"preferred_chunks": chunks or {}})
    return StoredArray(variable, DIMS, cache or BlockCache(10**6), "rain.nc", **options)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("store", STORES)
def test_every_part_of_an_array_in_a_file_is_that_of_the_array_in_memory(tmp_path, store):
    values = numbers()
    array = open_frames(write(tmp_path, values, store), max_bytes=4000).channels[0].packed
    assert isinstance(array, StoredArray)
    assert (array.shape, array.dtype, len(array), array.nbytes) == (SHAPE, np.int16, 23, values.nbytes)
    random = np.random.default_rng(1)
    for _ in range(30):
        first, last = sorted(random.integers(0, 24, 2))
        index = [slice(first, last), random.integers(-23, 23, 4), np.arange(first, last), slice(None, None, 3)]
        top, left = random.integers(0, 12, 2)
        window = (slice(top, top + random.integers(1, 9)), slice(left, None, random.integers(1, 4)))
        key = (index[random.integers(4)], *window)
        np.testing.assert_array_equal(array[key], values[key])
    np.testing.assert_array_equal(array[5:7], values[5:7])
    later = array.without_first().without_first()
    np.testing.assert_array_equal(later[:, 2:5], values[2:, 2:5])
    chosen = random.random(23) > 0.5
    np.testing.assert_array_equal(array[chosen], values[chosen])
    with pytest.raises(IndexError, match="of 23"):
        array[np.array([23])]


@pytest.mark.parametrize("order", [("y", "time", "x"), ("x", "y", "time")])
def test_dimensions_in_another_order_are_read_in_ours(order):
    values = numbers()
    field = xr.DataArray(values, dims=DIMS).transpose(*order)
    array = StoredArray(field.variable, DIMS, BlockCache(10**6), "rain.nc")
    np.testing.assert_array_equal(array[3:9, 2:5], values[3:9, 2:5])


@pytest.mark.usefixtures("small_blocks")
def test_arrays_of_dask_are_read_in_their_chunks(monkeypatch):
    dask_array = pytest.importorskip("dask.array")
    values = numbers()
    chunked = dask_array.from_array(values, chunks=((4, 1, 18), (17,), (9, 5)))
    array = StoredArray(xr.Variable(DIMS, chunked), DIMS, BlockCache(10**6), "rain.nc")
    np.testing.assert_array_equal(array[2:20, 3:8], values[2:20, 3:8])
    assert array._edges[0].tolist() == [0, 4, 5, 23]
    # a large chunk, such as that of a whole file, is read in parts
    monkeypatch.setattr(stored_module, "_LARGE_BLOCK", 1000)
    array = StoredArray(xr.Variable(DIMS, chunked), DIMS, BlockCache(10**6), "rain.nc")
    assert array._edges[0].tolist() == list(range(24))
    np.testing.assert_array_equal(array[2:20, 3:8], values[2:20, 3:8])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [">i2", "<f4", "u1", ">f8"])
def test_numbers_have_the_byte_order_of_the_machine(dtype):
    values = numbers(dtype)
    array = stored_array(values)
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    assert array[2:4].dtype == array.dtype
    np.testing.assert_array_equal(array[2:4], values[2:4])


def test_integers_without_a_sign_are_read_as_such():
    values = np.array([-1, 5], np.int8).reshape(2, 1, 1)
    assert stored_array(values, unsigned=True)[:].ravel().tolist() == [255, 5]
    field = xr.DataArray(values, dims=DIMS, attrs={"_Unsigned": "true"})
    assert packed_numbers(field, DIMS, BlockCache(10**6), "rain.nc", in_memory=True).ravel().tolist() == [255, 5]


def test_no_more_is_held_than_the_limit_and_recent_blocks_are_read_once():
    cache = BlockCache(3000)
    array = stored_array(numbers(), cache, {"time": 2, "y": 17, "x": 14})  # blocks of 952 bytes
    array._edges = tuple(np.array(edges) for edges in ([*range(0, 23, 2), 23], [0, 17], [0, 14]))
    reads, read = [], array._read
    array._read = lambda *cut: (reads.append(cut[0].start), read(*cut))[1]
    for first in range(22):
        array[first : first + 2]
        assert cache.held_bytes <= 3000
    assert reads == [*range(0, 23, 2)]
    array[20:23]
    assert len(reads) == 12
    array[0:2]
    assert reads[12:] == [0]


def test_a_sparse_index_reads_its_frames_only():
    cache = BlockCache(10**6)
    array = stored_array(numbers(), cache)
    np.testing.assert_array_equal(array[np.array([0, 9, 22])], numbers()[[0, 9, 22]])
    assert cache.held_bytes == 0


def test_another_process_receives_an_array_without_its_blocks(tmp_path):
    frames = open_frames(write(tmp_path, numbers(), "zarr2"), max_bytes=4000)
    frames.read(slice(0, 5))
    cache = frames.channels[0].packed._cache
    assert cache.held_bytes > 0
    copy = pickle.loads(pickle.dumps(frames))  # noqa: S301 (our own)
    assert copy.channels[0].packed._cache.held_bytes == 0
    assert copy.channels[0].packed._cache.max_bytes == 4000
    np.testing.assert_array_equal(copy.read(slice(2, 7)), frames.read(slice(2, 7)))


def test_a_part_beyond_the_limit_is_refused_before_it_is_allocated(monkeypatch):
    array = stored_array(numbers())
    monkeypatch.setattr(stored_module, "MAX_READ", 2 * 10 * 17 * 14)
    assert len(array[:10]) == 10
    with pytest.raises(DataError, match=r"rain.nc: expected values read at once of at most .* Select a part"):
        array[:11]


def test_small_data_are_in_memory_and_the_file_is_closed(tmp_path):
    path = write(tmp_path, numbers(), "chunked netcdf")
    frames = open_frames(path, max_bytes=4 * numbers().nbytes)
    assert isinstance(frames.channels[0].packed, np.ndarray)
    with netCDF4.Dataset(path, "a") as dataset:  # refused for a file that is open for reading
        dataset["rain"][:] = 0
    np.testing.assert_array_equal(frames.read(slice(0, 3))[:, 0], numbers()[:3])
    assert isinstance(open_frames(path, max_bytes=4 * numbers().nbytes - 1).channels[0].packed, StoredArray)


@pytest.mark.usefixtures("small_blocks")
def test_a_damaged_chunk_is_an_error_of_the_file_when_it_is_read(tmp_path):
    path = write(tmp_path, numbers(), "zarr2")
    frames = open_frames(path, max_bytes=2000)
    for chunk in (path / "rain").glob("3.*"):
        chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(DataError, match=r"rain\.zarr: expected data that can be read"):
        frames.read(slice(15, 18))


@pytest.mark.parametrize("store", ["chunked netcdf", "zarr3 with shards"])
def test_batches_and_summary_are_those_of_data_in_memory(tmp_path, store, monkeypatch):
    monkeypatch.setattr(stored_module, "_BLOCK_BYTES", 4000)
    values = np.where(numbers("f4", (30, 24, 20)) > 60, numbers("f4", (30, 24, 20)) / 10, 0).astype("f4")
    values[3, :4] = np.nan
    path = write(tmp_path, values, store)
    whole, parts = open_frames(path), open_frames(path, max_bytes=20_000)
    assert isinstance(parts.channels[0].packed, StoredArray)
    assert summarise(whole) == summarise(parts)
    options = {"input_length": 3, "horizon": 2, "batch_size": 3, "crop": 16, "augment": True, "seed": 4}
    batches = [Batches(frames, np.arange(26), LogRain(), **options) for frames in (whole, parts)]
    for step in (0, 7, 3):
        pair = [each.batch(step) for each in batches]
        for name in ("inputs", "targets", "weight"):
            np.testing.assert_array_equal(*(getattr(batch, name) for batch in pair))
    assert parts.channels[0].packed._cache.held_bytes <= 20_000


def test_sums_since_a_start_and_a_second_variable_are_those_of_data_in_memory(tmp_path):
    sums = np.cumsum(numbers("f4"), axis=0).astype("f4")
    dataset = xr.Dataset(
        {"tp": (DIMS, sums, {"units": "mm"}), "t2m": (DIMS, numbers("f4"), {"units": "K"})},
        coords={"time": ("time", np.arange(23) * 3600, {"units": "seconds since 2020-01-01"})},
    )
    dataset.to_netcdf(tmp_path / "sums.nc")
    options = {"variables": ("tp", "t2m"), "accumulated": True}
    whole, parts = (open_frames(tmp_path / "sums.nc", **options, max_bytes=size) for size in (2**20, 4000))
    assert isinstance(parts.channels[1].packed, StoredArray)
    np.testing.assert_array_equal(whole.read(slice(3, 9)), parts.read(slice(3, 9)))
    np.testing.assert_array_equal(parts.read(slice(3, 4))[0, 0], numbers("f4")[4])
    np.testing.assert_array_equal(parts.read(slice(3, 4))[0, 1], numbers("f4")[4])


def test_a_fill_value_of_zero_in_a_large_zarr_is_judged_by_a_sample(tmp_path):
    values = numbers("i2") + 1
    attrs = {"units": "K", "_FillValue": np.int16(0)}
    path = write(tmp_path, values, "zarr2", attrs=attrs)
    assert np.isfinite(open_frames(path, max_bytes=4000).read(slice(None))).all()
    values[4, 2, 2] = 0
    (tmp_path / "zero").mkdir()
    path = write(tmp_path / "zero", values, "zarr2", attrs=attrs)
    with pytest.raises(DataError, match="the fill value 0 and values of 0"):
        open_frames(path, max_bytes=4000)


def test_the_wetness_of_a_long_sequence_is_coarser(monkeypatch, tmp_path):
    from convlstm.data import sampling

    values = numbers("f4", (30, 64, 48))
    frames = open_frames(write(tmp_path, values, "contiguous netcdf"))
    fine = WetSampler(frames, np.arange(26), 5, (16, 16))
    assert fine._cumulative.shape == (31, 4, 3)
    monkeypatch.setattr(sampling, "_MOST_SUMS", 30 * 4 * 3 - 1)
    coarse = WetSampler(frames, np.arange(26), 5, (16, 16))
    assert coarse._cumulative.shape == (31, 2, 2)
    random = np.random.default_rng(0)
    for _ in range(100):
        start, (rows, columns) = coarse(random)
        assert 0 <= start < 26
        assert rows.stop - rows.start == columns.stop - columns.start == 16
        assert rows.stop <= 64
        assert columns.stop <= 48


def test_the_wetness_of_a_very_long_sequence_is_that_of_every_nth_frame(monkeypatch, tmp_path):
    from convlstm.data import sampling

    values = np.repeat(numbers("f4", (10, 32, 32)), 3, axis=0)
    frames = open_frames(write(tmp_path, values, "contiguous netcdf"))
    whole = WetSampler(frames, np.arange(0, 21, 3), 9, (16, 16))
    monkeypatch.setattr(sampling, "_MOST_READ", values.size // 5)
    thinned = WetSampler(frames, np.arange(0, 21, 3), 9, (16, 16))  # every third frame, so that a window has three
    np.testing.assert_allclose(thinned._cumulative[::3], whole._cumulative[::3], rtol=1e-6)
    assert not np.array_equal(thinned._cumulative, whole._cumulative)


def test_many_frames_are_read_in_parts_of_bounded_size():
    assert (frames_at_once(96 * 96), frames_at_once(2**20), frames_at_once(2**30)) == (64, 4, 1)
    assert [part.tolist() for part in in_parts(np.arange(5), 2**21)] == [[0, 1], [2, 3], [4]]
