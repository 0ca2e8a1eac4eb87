"""Numbers that stay in their file: read where they are indexed, in blocks of its chunks, and kept within a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.library_errors import data_errors
from convlstm.errors import DataError

MAX_READ = 4 * 2**30
"""Bytes of the largest part that is read at once, and of the largest chunk."""

_BLOCK_BYTES = 2**22  # least size of a block, made of several chunks if they are smaller
_LARGE_BLOCK = 2**26  # chunks of Dask above this size are read in parts
_SPARSE = 4  # an index is sparse if it takes less than one of so many frames between its first and its last
_AT_ONCE = 4  # frames of a sparse index that are read at once, each of them a whole chunk in memory

Edges = NDArray[np.intp]


class BlockCache:
    """The last blocks that were read from some arrays, `max_bytes` in all at most, or a single larger block."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._blocks: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, size: int, read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return the block of a key, read unless it is kept; its `size` in bytes makes space before it is read."""
        with self._lock:  # training reads the next sample in another thread
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
            while self._blocks and self.held_bytes + size > self.max_bytes:
                self.held_bytes -= self._blocks.popitem(last=False)[1].nbytes
            block = read()
            self._blocks[key] = block
            self.held_bytes += block.nbytes
            return block

    def __reduce__(self) -> tuple[object, ...]:
        """Send an empty cache to another process."""
        return BlockCache, (self.max_bytes,)


class StoredArray:
    """An array (time, y, x) in an open file, whose parts are read on indexing.

    Args:
        variable: The array, not read yet, with further dimensions of no length; it keeps its file open.
        dims: Its dimensions of time, y and x.
        cache: The blocks that are kept, of this and other arrays.
        path: Name of the file in errors.
        unsigned: Whether integers are read as unsigned ones of the same size.
        edges: First frame of each block and the number of frames, and the same for rows and columns; None takes whole
            chunks.
    """

    def __init__(
        self,
        variable: xr.Variable,
        dims: tuple[Hashable, Hashable, Hashable],
        cache: BlockCache,
        path: str,
        *,
        unsigned: bool = False,
        edges: Sequence[Edges] | None = None,
    ) -> None:
        self._variable, self._dims, self._cache, self._path, self._unsigned = variable, dims, cache, path, unsigned
        self.dtype = _packed_type(variable.dtype, unsigned=unsigned)
        self.shape: tuple[int, ...] = tuple(variable.sizes[dim] for dim in dims)
        chunks = [_chunk_edges(variable, dims, axis) for axis in range(3)]
        self._edges = tuple(_block_edges(chunks, self.dtype.itemsize) if edges is None else edges)
        self._check(int(np.prod([np.diff(edges).max() for edges in self._edges])), "chunks")

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all values in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Return a part: frames as a slice or an array of numbers, then rows and columns as slices."""
        index, rows, columns = (*(key if isinstance(key, tuple) else (key,)), slice(None), slice(None))[:3]
        frames = np.arange(*index.indices(len(self))) if isinstance(index, slice) else _positive(index, len(self))
        ranges = [range(*part.indices(n)) for part, n in zip((rows, columns), self.shape[1:], strict=True)]
        self._check(len(frames) * len(ranges[0]) * len(ranges[1]), "values read at once")
        if len(frames) and np.ptp(frames) >= _SPARSE * len(frames):
            parts = [frames[n : n + _AT_ONCE] for n in range(0, len(frames), _AT_ONCE)]
            area = slice(*rows.indices(self.shape[1])), slice(*columns.indices(self.shape[2]))
            return np.concatenate([self._read(part, *area) for part in parts])
        return self._from_blocks(frames, *ranges)

    def without_first(self) -> StoredArray:
        """Return the array without its first frame."""
        variable = self._variable.isel({self._dims[0]: slice(1, None)})
        first = self._edges[0][self._edges[0] > 1] - 1
        edges = (np.concatenate([[0], first]).astype(np.intp), *self._edges[1:])
        return StoredArray(variable, self._dims, self._cache, self._path, unsigned=self._unsigned, edges=edges)

    def _from_blocks(self, frames: NDArray[np.intp], rows: range, columns: range) -> NDArray[Any]:
        """Return a part that is put together from whole blocks."""
        result = np.empty((len(frames), len(rows), len(columns)), self.dtype)
        block_of_frame = np.searchsorted(self._edges[0], frames, side="right") - 1
        for time in np.unique(block_of_frame).tolist():
            into = np.flatnonzero(block_of_frame == time)
            taken = frames[into] - self._edges[0][time]
            for y, into_rows, taken_rows in _overlaps(self._edges[1], rows):
                for x, into_columns, taken_columns in _overlaps(self._edges[2], columns):
                    block = self._block(time, y, x)
                    result[into, into_rows, into_columns] = block[taken, taken_rows, taken_columns]
        return result

    def _block(self, *place: int) -> NDArray[Any]:
        cut = [slice(int(edges[n]), int(edges[n + 1])) for edges, n in zip(self._edges, place, strict=True)]
        size = int(np.prod([part.stop - part.start for part in cut])) * self.dtype.itemsize
        return self._cache.get((id(self), *place), size, lambda: self._read(*cut))

    def _read(self, frames: slice | NDArray[np.intp], rows: slice, columns: slice) -> NDArray[Any]:
        index = dict(zip(self._dims, (frames, rows, columns), strict=True))
        with data_errors(self._path):
            return _native(self._variable.isel(index).transpose(*self._dims).values, unsigned=self._unsigned)

    def _check(self, values: int, what: str) -> None:
        """Raise an error for more than `MAX_READ`, before allocation."""
        if values * self.dtype.itemsize > MAX_READ:
            raise DataError(
                self._path,
                expected=f"{what} of at most {MAX_READ / 2**30:.3g} GiB",
                received=f"{values * self.dtype.itemsize / 2**30:.3g} GiB",
                hint="Select a part in time or space first, or write the file with smaller chunks.",
            )


def packed_numbers(
    field: xr.DataArray,
    dims: tuple[Hashable, Hashable, Hashable],
    cache: BlockCache,
    path: str,
    *,
    in_memory: bool,
) -> NDArray[Any] | StoredArray:
    """Return the packed numbers of a field (time, y, x), which are loaded or stay in the file."""
    if in_memory:
        return numbers_in_memory(field.transpose(*dims))
    return StoredArray(field.variable, dims, cache, path, unsigned=_is_unsigned(field))


def numbers_in_memory(field: xr.DataArray) -> NDArray[Any]:
    """Return the packed numbers of a field, of native byte order."""
    return _native(field.values, unsigned=_is_unsigned(field))


def _is_unsigned(field: xr.DataArray) -> bool:
    """Return whether an attribute says that integers, which a file has only with a sign, have none."""
    return str(field.attrs.get("_Unsigned", "")).lower() == "true"


def _packed_type(dtype: np.dtype[Any], *, unsigned: bool) -> np.dtype[Any]:
    """Return the type of numbers in memory: of native byte order, and unsigned if integers are to be so."""
    native = dtype.newbyteorder("=")
    return np.dtype(f"u{native.itemsize}") if unsigned and native.kind == "i" else native


def _native(values: NDArray[Any], *, unsigned: bool) -> NDArray[Any]:
    numbers = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    return numbers.view(_packed_type(values.dtype, unsigned=unsigned))


def _positive(index: NDArray[np.integer[Any]], count: int) -> NDArray[np.intp]:
    frames = np.flatnonzero(index) if np.asarray(index).dtype == bool else np.asarray(index, np.intp)
    if frames.size and not -count <= frames.min() <= frames.max() < count:
        raise IndexError(f"frames {frames.min()} to {frames.max()} of {count}")
    return np.where(frames < 0, frames + count, frames)


def _overlaps(edges: Edges, wanted: range) -> list[tuple[int, slice, slice]]:
    """Return for each block that a range of rows or columns needs: its number, the part of the result, and of it."""
    if not len(wanted):
        return []
    overlaps = []
    first, last = np.searchsorted(edges, (wanted[0], wanted[-1]), side="right") - 1
    for block in range(first, last + 1):
        start, stop = (int(edges[n]) for n in (block, block + 1))
        begin = -(-max(start - wanted.start, 0) // wanted.step)  # the first number of the range in this block
        end = min(-(-(stop - wanted.start) // wanted.step), len(wanted))
        if begin < end:
            taken = slice(wanted[begin] - start, wanted[end - 1] - start + 1, wanted.step)
            overlaps.append((block, slice(begin, end), taken))
    return overlaps


def _chunk_edges(variable: xr.Variable, dims: tuple[Hashable, ...], axis: int) -> Edges:
    """Return the first index of each chunk along an axis, and the length of the axis; of any index without chunks."""
    dim, length = dims[axis], variable.sizes[dims[axis]]
    stored = variable.encoding.get("preferred_chunks", {}).get(dim)
    step = max(int(stored), 1) if isinstance(stored, int | np.integer) else 1
    if variable.chunks is None:
        unchunked_row = axis == 2 and not isinstance(stored, int | np.integer)
        return np.append(np.arange(0, length, length if unchunked_row else step), length).astype(np.intp)
    edges = np.concatenate([[0], np.cumsum(variable.chunksizes[dim])]).astype(np.intp)
    largest = np.prod([max(sizes) for sizes in variable.chunksizes.values()]) * variable.dtype.itemsize
    if axis or largest <= _LARGE_BLOCK:
        return edges
    parts = [np.arange(start, stop, step) for start, stop in pairwise(edges)]
    return np.append(np.concatenate(parts), length).astype(np.intp)


def _block_edges(chunks: Sequence[Edges], itemsize: int) -> list[Edges]:
    """Return the edges of blocks of whole chunks: small chunks are joined along the row, the column, then time."""
    edges = list(chunks)
    size = int(np.prod([np.diff(part).max() for part in chunks])) * itemsize
    for axis in (2, 1, 0):
        count = len(edges[axis]) - 1
        joined = int(np.clip(_BLOCK_BYTES // size, 1, count))
        edges[axis] = np.append(edges[axis][:-1:joined], edges[axis][-1])
        size *= joined
    return edges
