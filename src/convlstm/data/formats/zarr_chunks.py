"""Chunks of a Zarr store that unpack to at most the size that their array declares.

A few kilobytes can unpack to gigabytes, and the libraries allocate what the compressed bytes ask for. So the size is
computed before a chunk is unpacked: from its header for Blosc, LZ4 and Zstandard, else by unpacking it in parts.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import SuffixByteRequest
from zarr.storage import WrapperStore

from convlstm.errors import DataError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest, Store
    from zarr.core.buffer import Buffer, BufferPrototype

_SPARE = 2**24  # bytes that a chunk may have more than declared: texts have no size, and filters may change it
_PART = 2**20  # bytes that are unpacked at once
_INPUT = 2**16  # bytes that a decompressor receives at once, because it copies what it has not used yet
_MOST_FRAMES = 10_000  # that a chunk is made of; the libraries write one
_ZEROS = re.compile(rb"\0*")  # that may follow a frame of gzip
_DEFLATE_RATIO = 1032  # the largest of zlib and gzip
_ZSTD_FRAME, _ZSTD_SKIPPED = 0xFD2FB528, 0x184D2A50
_ZSTD_BLOCK = 2**17  # bytes of the largest compressed block
_CHECKSUM, _CHECKSUM_BYTES = "crc32c", 4  # at the end of a chunk
SHARDING = "sharding_indexed"
_INDEX_ENTRY = 16  # bytes: an offset and a length
_NO_CHUNK = 2**64 - 1  # both, for a chunk of the fill value
_MOST_INDEX = 2**26  # bytes


@dataclass(frozen=True)
class ShardIndex:
    """The index of a shard: offset and length of each of its chunks.

    Args:
        chunks: Number of chunks in a shard.
        checksum_bytes: Bytes after the numbers.
    """

    chunks: int
    checksum_bytes: int

    @property
    def size(self) -> int:
        """The bytes of the index."""
        return _INDEX_ENTRY * self.chunks + self.checksum_bytes

    def parts(self, shard: bytes) -> Iterator[bytes]:
        """Yield the bytes of each chunk of a whole shard."""
        start = len(shard) - self.size
        if start < 0:
            return  # the library reports a shard that is cut off
        numbers = np.frombuffer(shard, "<u8", 2 * self.chunks, start).reshape(-1, 2)
        for offset, length in numbers[(numbers != _NO_CHUNK).any(axis=1)].tolist():
            yield shard[offset : offset + length]


@dataclass(frozen=True)
class Unpacking:
    """How the chunks of an array are compressed, and the bytes that one may have after unpacking.

    Args:
        source: The array, for messages.
        codec: The compression.
        most: Bytes that a chunk may have after unpacking.
        checksum_bytes: Bytes at the end of a chunk.
        index: The index, if the chunks are in shards.
    """

    source: str
    codec: str
    most: int
    checksum_bytes: int
    index: ShardIndex | None = None

    def compressed(self, data: bytes, byte_range: ByteRequest | None) -> Iterable[bytes]:
        """Return the compressed chunks in what was read."""
        if self.index is None:
            return [data]
        if byte_range is None:
            return self.index.parts(data)
        return [] if isinstance(byte_range, SuffixByteRequest) else [data]


def unpacking(
    source: str, codecs: Sequence[str], chunk_bytes: int, index: ShardIndex | None = None
) -> Unpacking | None:
    """Return how chunks are unpacked, from the codecs in the order of writing; None if they are not compressed.

    A second compression, or a codec after it, would hide the size, and is an error; a checksum at the end does not hide
    it. In a shard the codecs are those of its chunks.
    """
    names = [codec.removeprefix("numcodecs.") for codec in codecs]
    compressions = [name for name in names if name in _SIZES]
    if not compressions:
        return None
    after = names[names.index(compressions[0]) + 1 :]
    if set(after) - {_CHECKSUM}:
        raise DataError(
            source,
            expected="one compression, after all other codecs",
            received=", ".join(names),
            hint="Write the file again with one compressor.",
        )
    return Unpacking(source, compressions[0], 2 * chunk_bytes + _SPARE, _CHECKSUM_BYTES * len(after), index)


def shard_index(source: str, shard: Sequence[str], index: Sequence[str], *, chunks: int, is_plain: bool) -> ShardIndex:
    """Return the index of shards from the codecs of shard and index, or raise an error for one that is not plain.

    `is_plain` means that its numbers are little-endian and that it is at the end. At the start, a chunk could be at the
    place of the index.
    """
    names = list(shard)[list(shard).index(SHARDING) + 1 :]
    checksums = [name for name in index if name == _CHECKSUM]
    if not is_plain or names or [name for name in index if name != _CHECKSUM] != ["bytes"] or len(checksums) > 1:
        raise DataError(
            source,
            expected="shards that are not compressed, with a plain little-endian index at the end",
            received=", ".join([*shard, *index]),
            hint="Write the file again with the codecs that Zarr chooses.",
        )
    result = ShardIndex(chunks, _CHECKSUM_BYTES * len(checksums))
    if result.size > _MOST_INDEX:
        raise DataError(
            source,
            expected=f"at most {_MOST_INDEX // _INDEX_ENTRY:,} chunks in a shard",
            received=f"{chunks:,}",
            hint="Write the file again with larger chunks.",
        )
    return result


class CheckedStore(WrapperStore["Store"]):
    """A store whose chunks are checked before they are unpacked.

    Args:
        store: The store.
        arrays: How the chunks of the arrays of its root are unpacked, by name.
    """

    def __init__(self, store: Store, arrays: Mapping[str, Unpacking]) -> None:
        super().__init__(store)
        self._arrays = arrays

    def _with_store(self, store: Store) -> CheckedStore:
        return CheckedStore(store, self._arrays)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of a key."""
        value = await self._store.get(key, prototype, byte_range)
        self._check(key, value, byte_range)
        return value

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return the bytes of several keys."""
        pairs = list(key_ranges)
        values = await self._store.get_partial_values(prototype, pairs)
        for (key, byte_range), value in zip(pairs, values, strict=True):
            self._check(key, value, byte_range)
        return values

    def _check(self, key: str, value: Buffer | None, byte_range: ByteRequest | None) -> None:
        name, _, part = key.partition("/")
        array = self._arrays.get(name)
        if array is None or value is None or not part or part.rpartition("/")[2] in (".zarray", ".zattrs", "zarr.json"):
            return
        for data in array.compressed(value.to_bytes(), byte_range):
            self._check_chunk(array, part, data)

    def _check_chunk(self, array: Unpacking, part: str, data: bytes) -> None:
        size = _SIZES[array.codec](data[: len(data) - array.checksum_bytes], array.most)
        if size is None:
            raise DataError(
                f"{array.source}/{part}",
                expected=f"a chunk of at most {_MOST_FRAMES:,} frames of {array.codec}",
                received="more, or other bytes",
                hint="Write the file again.",
            )
        if size > array.most:
            raise DataError(
                f"{array.source}/{part}",
                expected=f"a chunk of at most {array.most / 2**20:.0f} MiB after unpacking",
                received=f"{size / 2**20:.0f} MiB or more",
                hint="Write the file again, because a chunk is larger than declared.",
            )


def _blosc(data: bytes, most: int) -> int:
    return int(struct.unpack_from("<I", data, 4)[0]) if len(data) >= 16 else 0


def _lz4(data: bytes, most: int) -> int:
    return int(struct.unpack_from("<I", data)[0]) if len(data) >= 4 else 0


def _zstd(data: bytes, most: int) -> int | None:
    """Return the size that the frames declare, which the library allocates, or else the most that their blocks have.

    It is None if other bytes are between the frames, or for too many frames. Source: RFC 8878, Zstandard Compression.
    """
    size = start = frames = 0
    try:
        while size <= most and start + 4 <= len(data):
            magic = struct.unpack_from("<I", data, start)[0]
            is_skipped = magic & ~0xF == _ZSTD_SKIPPED
            frames += 1
            if frames > _MOST_FRAMES or not (is_skipped or magic == _ZSTD_FRAME):
                return None
            if is_skipped:
                start += 8 + struct.unpack_from("<I", data, start + 4)[0]
                continue
            frame, start = _zstd_frame(data, start + 4)
            size += frame
    except (struct.error, IndexError):
        pass  # the library reports a frame that is cut off
    return size


def _zstd_frame(data: bytes, start: int) -> tuple[int, int]:
    """Return the size of a frame after its magic number, and where it ends."""
    flags = data[start]
    is_single = bool(flags & 0x20)
    start += 1 + (not is_single) + (0, 1, 2, 4)[flags & 3]
    width = (1 if is_single else 0, 2, 4, 8)[flags >> 6]
    declared = int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
    start += width
    size, is_last = 0, False
    while not is_last:
        header = data[start] | data[start + 1] << 8 | data[start + 2] << 16
        is_last, kind, length = bool(header & 1), header >> 1 & 3, header >> 3
        is_repeated = kind == 1  # one byte, repeated
        size += length if kind < 2 else _ZSTD_BLOCK
        start += 3 + (1 if is_repeated else length)
    return (declared if width else size), start + (4 if flags & 4 else 0)


class _Deflate:
    """A decompressor of zlib and gzip with the methods of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(47)  # either format

    @property
    def eof(self) -> bool:
        """Whether the frame has ended."""
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        """Whether the next bytes need more input."""
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the frame."""
        return self._stream.unused_data

    def decompress(self, data: bytes | memoryview, most: int) -> bytes:
        """Unpack at most this many bytes."""
        return self._stream.decompress(self._stream.unconsumed_tail + data, most)


def _counted(make: Callable[[], Any]) -> Callable[[bytes, int], int | None]:
    """Return a function that unpacks in parts, and counts the bytes; it returns None for too many frames."""

    def count(data: bytes, most: int) -> int | None:
        size = start = frames = 0
        while start < len(data) and size <= most:
            frames += 1
            if frames > _MOST_FRAMES:
                return None
            unpacked, start = _count_frame(make(), data, start, most - size)
            size += unpacked
        return size

    return count


def _count_frame(stream: Any, data: bytes, start: int, most: int) -> tuple[int, int]:
    """Return the size of a frame, up to a little more than `most`, and where the next one starts."""
    view, size = memoryview(data), 0
    while size <= most and not stream.eof:
        part = view[start : start + _INPUT] if stream.needs_input else b""
        if stream.needs_input and not part:
            break  # the library reports a frame that is cut off
        start += len(part)
        size += len(stream.decompress(part, _PART))
    if stream.eof:
        padding = _ZEROS.match(data, start - len(stream.unused_data))
        assert padding is not None  # it also matches nothing
        start = padding.end()
    return size, start


def _deflate(data: bytes, most: int) -> int | None:
    return 0 if len(data) * _DEFLATE_RATIO <= most else _counted(_Deflate)(data, most)


_SIZES: dict[str, Callable[[bytes, int], int | None]] = {
    "blosc": _blosc,
    "lz4": _lz4,
    "zstd": _zstd,
    "zlib": _deflate,
    "gzip": _deflate,
    "bz2": _counted(bz2.BZ2Decompressor),
    "lzma": _counted(lzma.LZMADecompressor),
}
