"""Data files of a stranger: they read no other file, and take no more memory than they declare."""

import bz2
import gzip
import json
import lzma
import struct
import zlib

import h5py
import netCDF4
import numpy as np
import pytest
import zarr

from convlstm.data import open_frames
from convlstm.data.formats import hdf5, sizes, zarr_chunks
from convlstm.data.formats.zarr_store import open_zarr
from convlstm.errors import DataError
from convlstm.files import DRAFT


def refused(path, message):
    with pytest.raises(DataError, match=message) as caught:
        open_frames(path)
    assert "\n" not in str(caught.value)


def external_link(file, secret):
    del file["rain"]
    file["rain"] = h5py.ExternalLink(str(secret), "/rain")


def external_storage(file, secret):
    del file["rain"]
    file.create_dataset("rain", (5, 4, 6), "i2", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file, secret):
    del file["rain"]
    layout = h5py.VirtualLayout((5, 4, 6), "i2")
    layout[:] = h5py.VirtualSource(str(secret), "rain", (5, 4, 6))
    file.create_virtual_dataset("rain", layout)


def in_a_group(file, secret):
    file.create_group("a/b")["c"] = h5py.ExternalLink(str(secret), "/rain")


@pytest.mark.parametrize("attack", [external_link, external_storage, virtual, in_a_group])
@pytest.mark.parametrize("name", ["rain.nc", "rain.h5"])
def test_netcdf_that_leads_to_another_file_is_refused(tmp_path, rain_dataset, attack, name):
    secret, path = tmp_path / "secret.nc", tmp_path / name
    for file in (secret, path):
        rain_dataset().to_netcdf(file, engine="netcdf4")
    with h5py.File(path, "r+") as file:
        attack(file, secret)
    refused(path, rf"{name}: expected groups and data of this file only, got (the link|/rain, which)")


def test_netcdf_after_a_block_of_the_user_is_checked_too(tmp_path, rain_dataset):
    rain_dataset().to_netcdf(tmp_path / "whole.nc", engine="netcdf4")
    with h5py.File(tmp_path / "whole.nc", "r+") as file:
        external_storage(file, tmp_path / "secret")
    (tmp_path / "rain.nc").write_bytes(bytes(512) + (tmp_path / "whole.nc").read_bytes())
    refused(tmp_path / "rain.nc", r"rain\.nc: expected ")


def with_driver_information(content, place):
    """Return an HDF5 file whose driver information block claims to have 4 GiB."""
    at = place + 24
    base, free, _, _ = struct.unpack_from("<4Q", content, at)
    block = struct.pack("<B3xI8s", 0, 2**32 - 1, b"NCSAmult")
    addresses = struct.pack("<4Q", base, free, len(content) + len(block), len(content))
    return content[:at] + addresses + content[at + 32 :] + block


@pytest.mark.parametrize("block", [0, 512, 2048])
def test_a_driver_information_block_that_takes_4_gib_is_refused(tmp_path, block):
    """The HDF5 library allocates the size that the block claims to have."""
    path = tmp_path / "rain.h5"
    with h5py.File(path, "w", userblock_size=block) as file:
        file["rain"] = np.zeros((2, 3, 4), np.float32)
    path.write_bytes(with_driver_information(path.read_bytes(), block))
    refused(path, r"rain\.h5: expected an HDF5 file without a driver information block, got one with it")


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_circle_of_groups_is_refused(tmp_path, rain_dataset, kind):
    """The NetCDF library follows it until memory ends."""
    rain_dataset().to_netcdf(tmp_path / "rain.nc", engine="netcdf4")
    with h5py.File(tmp_path / "rain.nc", "r+") as file:
        group = file.create_group("more")
        group["circle"] = group if kind == "hard" else h5py.SoftLink("/more")
    refused(tmp_path / "rain.nc", r"rain\.nc: expected .*, got (a second path to a group, circle|the link circle)")


def test_objects_without_number_or_depth_are_refused(tmp_path, rain_dataset, monkeypatch):
    for name, groups in (("wide.nc", "ab"), ("deep.nc", ["/".join("d" * 5)])):
        rain_dataset().to_netcdf(tmp_path / name, engine="netcdf4")
        with h5py.File(tmp_path / name, "r+") as file:
            for group in groups:
                file.create_group(group)
    monkeypatch.setattr(hdf5, "_MOST_OBJECTS", 5)
    refused(tmp_path / "wide.nc", r"wide\.nc: expected at most 5 groups and variables")
    monkeypatch.setattr(hdf5, "_MOST_OBJECTS", 100)
    monkeypatch.setattr(hdf5, "_DEEPEST", 3)
    refused(tmp_path / "deep.nc", r"deep\.nc: expected .* 3 deep, got more")
    assert open_frames(tmp_path / "wide.nc").shape == (5, 1, 4, 6)


def test_a_chunk_much_larger_than_its_array_is_refused(tmp_path, rain_dataset):
    with netCDF4.Dataset(tmp_path / "rain.nc", "w") as dataset:
        for dim, size in (("time", None), ("y", 4), ("x", 6)):
            dataset.createDimension(dim, size)
        dataset.createVariable("rain", "f4", ("time", "y", "x"), chunksizes=(2**24, 4, 6), zlib=True)
        dataset.createVariable("time", "f8", ("time",))[:] = np.arange(5.0)
    refused(tmp_path / "rain.nc", r"rain\.nc: expected chunks of /rain of at most 0\.25 GiB, got 1\.5 GiB")
    rain_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=2, consolidated=False)
    metadata = tmp_path / "rain.zarr" / "rain" / ".zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"chunks": [2**24, 4, 6]}))
    refused(tmp_path / "rain.zarr", r"rain\.zarr: expected chunks of rain of at most 0\.25 GiB, got 0\.75 GiB")


def test_netcdf_that_is_compressed_twice_is_refused(tmp_path, rain_dataset):
    rain_dataset().to_netcdf(tmp_path / "rain.nc", engine="netcdf4")
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, 4, 6))
    properties.set_deflate(9)
    properties.set_deflate(9)
    with h5py.File(tmp_path / "rain.nc", "r+") as file:
        h5py.h5d.create(file.id, b"twice", h5py.h5t.NATIVE_INT16, h5py.h5s.create_simple((5, 4, 6)), properties)
    refused(tmp_path / "rain.nc", r"rain\.nc: expected one compression, got /twice with several")


def test_a_chunk_may_be_larger_than_a_short_array(tmp_path, rain_dataset):
    encoding = {"rain": {"chunks": (1000, 4, 6)}}
    rain_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    assert open_frames(tmp_path / "rain.zarr").shape == (5, 1, 4, 6)


def test_a_chunk_has_a_limit_of_its_own():
    sizes.check_chunk("rain.nc", "rain", 2**30, 2**40)
    with pytest.raises(DataError, match="at most 1 GiB, got 1 GiB"):
        sizes.check_chunk("rain.nc", "rain", 2**30 + 1, 2**40)


COMPRESSORS = {
    2: {
        "blosc": "Blosc",
        "lz4": "LZ4",
        "zstd": "Zstd",
        "zlib": "Zlib",
        "gzip": "GZip",
        "bz2": "BZ2",
        "lzma": "LZMA",
    },
    3: {"blosc": "BloscCodec", "zstd": "ZstdCodec", "gzip": "GzipCodec"},
}
CASES = [(form, name) for form, names in COMPRESSORS.items() for name in names]


def write(dataset, path, form, name):
    import numcodecs

    module = numcodecs if form == 2 else zarr.codecs
    codec = getattr(module, COMPRESSORS[form][name])()
    encoding = {"rain": {"compressors": [codec] if form == 3 else codec, "chunks": dataset["rain"].shape}}
    dataset.to_zarr(path, zarr_format=form, consolidated=False, encoding=encoding)


@pytest.mark.parametrize(("form", "name"), CASES)
def test_stores_of_every_compressor_are_read(tmp_path, rain_dataset, rain_counts, form, name):
    write(rain_dataset(), tmp_path / "rain.zarr", form, name)
    np.testing.assert_allclose(open_frames(tmp_path / "rain.zarr").read(slice(None))[:, 0], rain_counts() * 0.12, 1e-6)


@pytest.mark.parametrize(("form", "name"), CASES)
def test_a_chunk_that_unpacks_to_more_than_declared_is_refused(tmp_path, rain_dataset, form, name, monkeypatch):
    monkeypatch.setattr(zarr_chunks, "_SPARE", 2**20)
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**20)
    write(rain_dataset(np.ones((5, 512, 512), np.int16)), tmp_path / "rain.zarr", form, name)
    large = next(path for path in (tmp_path / "rain.zarr" / "rain").rglob("*[0-9]") if path.is_file()).read_bytes()
    small = tmp_path / "small.zarr"
    write(rain_dataset(), small, form, name)
    chunk = next(path for path in (small / "rain").rglob("*[0-9]") if path.is_file())
    chunk.write_bytes(large)
    refused(small, r"small\.zarr/rain/.*: expected a chunk of at most 1 MiB after unpacking, got . MiB or more")


def write_shards(path, cells, codec, location="end"):
    """Write four chunks in one shard."""
    array = zarr.create_array(
        path,
        name="rain",
        shape=(2 * cells, 2 * cells),
        dtype="i2",
        shards={"shape": (2 * cells, 2 * cells), "index_location": location},
        chunks=(cells, cells),
        compressors=[codec],
        dimension_names=("y", "x"),
        overwrite=True,
    )
    array[:] = 1
    return next(place for place in path.rglob("c/0/0") if place.is_file())


@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated:RuntimeWarning")
@pytest.mark.parametrize("name", COMPRESSORS[3])
@pytest.mark.parametrize("rows", [slice(None), slice(0, 3)])
def test_a_chunk_in_a_shard_that_unpacks_to_more_than_declared_is_refused(tmp_path, name, rows, monkeypatch):
    monkeypatch.setattr(zarr_chunks, "_SPARE", 2**12)
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**20)
    codec = getattr(zarr.codecs, COMPRESSORS[3][name])()
    large = write_shards(tmp_path / "large.zarr", 512, codec).read_bytes()
    small = write_shards(tmp_path / "small.zarr", 8, codec)
    np.testing.assert_array_equal(open_zarr(tmp_path / "small.zarr", 2**20)["rain"][rows].values, 1)
    small.write_bytes(large)
    with pytest.raises(DataError, match=r"small\.zarr/rain/c/0/0: expected a chunk of at most 0 MiB after unpacking"):
        open_zarr(tmp_path / "small.zarr", 2**20)["rain"][rows].values  # noqa: B018


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed`")
def test_shards_whose_chunks_cannot_be_checked_are_refused(tmp_path):
    codec = zarr.codecs.GzipCodec()
    write_shards(tmp_path / "rain.zarr", 8, codec)
    path = tmp_path / "rain.zarr" / "rain" / "zarr.json"
    metadata = json.loads(path.read_text())
    gzip_codec = {"name": "gzip", "configuration": {"level": 1}}
    sharding = metadata["codecs"][0]
    inner = {**sharding["configuration"], "chunk_shape": [4, 4]}
    big = {"name": "bytes", "configuration": {"endian": "big"}}
    bad = {
        "not compressed, with a plain": [sharding, gzip_codec],
        "index at the end, got sharding_indexed, bytes": [
            {**sharding, "configuration": sharding["configuration"] | {"index_location": "start"}}
        ],
        "a plain little-endian index": [
            {**sharding, "configuration": sharding["configuration"] | {"index_codecs": [big]}}
        ],
        "shards without shards": [{**sharding, "configuration": inner | {"codecs": [sharding]}}],
    }
    inner["index_codecs"] = [sharding["configuration"]["index_codecs"][0], gzip_codec]
    bad["with a plain little-endian index at"] = [{**sharding, "configuration": inner}]
    for message, codecs in bad.items():
        path.write_text(json.dumps(metadata | {"codecs": codecs}))
        with pytest.raises(DataError, match=message):
            open_zarr(tmp_path / "rain.zarr", 2**20)


def test_a_chunk_whose_entry_has_one_number_of_a_missing_chunk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_chunks, "_SPARE", 2**12)
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**20)
    index = zarr_chunks.ShardIndex(1, 0)
    shard = b"data" + struct.pack("<2Q", 0, 2**64 - 1)
    assert [bytes(part[:4]) for part in index.parts(shard)] == [b"data"]
    assert list(index.parts(b"data" + struct.pack("<2Q", 2**64 - 1, 2**64 - 1))) == []


def test_a_shard_of_too_many_chunks_is_refused(tmp_path):
    write_shards(tmp_path / "rain.zarr", 8, zarr.codecs.GzipCodec(), "end")
    path = tmp_path / "rain.zarr" / "rain" / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["shape"] = metadata["chunk_grid"]["configuration"]["chunk_shape"] = [2**12, 2**12]
    metadata["codecs"][0]["configuration"]["chunk_shape"] = [1, 1]
    path.write_text(json.dumps(metadata))
    with pytest.raises(DataError, match=r"at most 4,194,304 chunks in a shard, got 16,777,216"):
        open_zarr(tmp_path / "rain.zarr", 2**20)


SIZED = [
    (name, size)
    for name in COMPRESSORS[2]
    for size in (0, 1, 300, 2**17, 2**20 + 7)
    if size > 1 or name not in ("blosc", "lz4")  # these libraries refuse nothing to pack
]


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_the_size_after_unpacking_is_known_before(name, size):
    import numcodecs

    content = np.random.default_rng(0).integers(0, 3, size, np.uint8).tobytes()
    packed = bytes(getattr(numcodecs, COMPRESSORS[2][name])().encode(content))
    expected = 0 if name in ("zlib", "gzip") and len(packed) * 1032 <= 2**25 else size
    assert zarr_chunks._SIZES[name](packed, 2**25) == expected


def test_streams_of_several_parts_are_counted(monkeypatch):
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**30)
    content = bytes(2**22)
    parts = {
        "gzip": gzip.compress(content),
        "zlib": zlib.compress(content),
        "bz2": bz2.compress(content),
        "lzma": lzma.compress(content),
    }
    for name, part in parts.items():
        assert zarr_chunks._SIZES[name](part + part, 2**30) == 2**23
        assert 2**21 <= zarr_chunks._SIZES[name](part + part, 2**20) <= 2**23


def test_zstandard_without_a_size_has_that_of_its_blocks():
    repeated = (1 << 1 | 1000 << 3).to_bytes(3, "little") + b"\0"  # a block of 1000 times one byte
    last = (1 | 2 << 1 | 5 << 3).to_bytes(3, "little") + bytes(5)  # a compressed block
    frame = struct.pack("<IBB", 0xFD2FB528, 0, 0) + repeated + last
    skipped = struct.pack("<II", 0x184D2A53, 4) + bytes(4)
    assert zarr_chunks._zstd(frame, 2**30) == 1000 + 2**17
    assert zarr_chunks._zstd(skipped + frame + frame, 2**30) == 2 * (1000 + 2**17)
    assert zarr_chunks._zstd(frame[:8], 2**30) == 0  # cut off
    for data in (b"\0\0\0\0" + frame, skipped + b"\0\0\0\0" + frame, skipped * 10_001):
        assert zarr_chunks._zstd(data, 2**30) is None


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_many_empty_frames_are_refused(compress, monkeypatch):
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**30)
    name = {"gzip": "gzip", "bz2": "bz2", "lzma": "lzma"}[compress.__module__]
    assert zarr_chunks._SIZES[name](compress(b"") * 10_001, 2**30) is None
    assert zarr_chunks._SIZES[name](compress(b"") * 100 + compress(b"1"), 2**30) == 1


def test_padding_between_frames_of_gzip_is_skipped(monkeypatch):
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**30)
    assert zarr_chunks._SIZES["gzip"]((gzip.compress(b"12") + bytes(2**18)) * 3, 2**30) == 6


def test_the_time_of_counting_grows_with_the_size_alone(monkeypatch):
    """Each part of the output copied the rest of the input."""
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**30)
    copied = []

    class Stream(zarr_chunks._Deflate):
        def decompress(self, data, most):
            copied.append(len(data) + len(self._stream.unconsumed_tail))
            return super().decompress(data, most)

    packed = zlib.compress(bytes(2**28), 1)
    assert zarr_chunks._counted(Stream)(packed, 2**30) == 2**28
    assert max(copied) <= zarr_chunks._INPUT


def write_checksum(dataset, path, codec, location):
    """Write a store of format 2 whose chunks are compressed, and then have a checksum."""
    import numcodecs

    encoding = {"rain": {"compressors": None, "filters": [codec, numcodecs.CRC32C(location=location)]}}
    dataset.to_zarr(path, zarr_format=2, consolidated=False, encoding=encoding)


def test_a_checksum_in_front_of_compressed_bytes_is_refused(tmp_path, rain_dataset):
    """It would hide the size from the check."""
    import numcodecs

    write_checksum(rain_dataset(), tmp_path / "rain.zarr", numcodecs.Zstd(), "start")
    refused(tmp_path / "rain.zarr", r"one compression, after all other codecs, got zstd, crc32c at the start")


@pytest.mark.parametrize("name", list(COMPRESSORS[2]))
def test_a_checksum_at_the_end_is_allowed(tmp_path, rain_dataset, name, monkeypatch):
    monkeypatch.setattr(zarr_chunks, "_DEFLATE_RATIO", 2**30)
    import numcodecs

    write_checksum(rain_dataset(), tmp_path / "rain.zarr", getattr(numcodecs, COMPRESSORS[2][name])(), "end")
    assert open_frames(tmp_path / "rain.zarr").read(slice(None)).shape == (5, 1, 4, 6)


def test_a_chunk_of_other_bytes_than_its_compression_is_refused(tmp_path, rain_dataset):
    write(rain_dataset(), tmp_path / "rain.zarr", 2, "zstd")
    chunk = next(path for path in (tmp_path / "rain.zarr" / "rain").glob("*[0-9]"))
    chunk.write_bytes(b"1234" + chunk.read_bytes())
    refused(
        tmp_path / "rain.zarr", r"rain/0\.0\.0: expected a chunk of at most 10,000 frames of zstd, got more, or other"
    )


def test_a_compression_that_another_codec_hides_is_refused(tmp_path, rain_dataset):
    import numcodecs

    encoding = {"rain": {"filters": [numcodecs.Zlib()], "compressors": numcodecs.Zstd()}}
    rain_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=2, consolidated=False, encoding=encoding)
    refused(
        tmp_path / "rain.zarr", r"rain\.zarr/rain: expected one compression, after all other codecs, got zlib, zstd"
    )


def test_a_checked_store_travels_between_processes(tmp_path, rain_dataset):
    import pickle

    rain_dataset().to_zarr(tmp_path / "rain.zarr", zarr_format=3, consolidated=False)
    frames = pickle.loads(pickle.dumps(open_frames(tmp_path / "rain.zarr", max_bytes=1)))  # noqa: S301
    assert frames.read(slice(None)).shape == (5, 1, 4, 6)


def test_a_pattern_of_files_changes_nothing_in_its_folder(tmp_path, rain_dataset):
    rain_dataset().to_netcdf(tmp_path / "rain.nc")
    (tmp_path / f".other.nc.abcdefgh{DRAFT}").mkdir()
    assert open_frames(str(tmp_path / "*.nc")).shape == (5, 1, 4, 6)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_store_whose_replacement_was_interrupted_is_completed_by_its_reader(tmp_path, rain_dataset):
    left = tmp_path / f".rain.zarr.abcdefgh{DRAFT}"
    left.mkdir()
    rain_dataset().to_zarr(left / "rain.zarr", zarr_format=2, consolidated=False)
    (left / "rain.zarr~").mkdir()  # the old one
    assert open_frames(tmp_path / "rain.zarr").shape == (5, 1, 4, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["rain.zarr"]
