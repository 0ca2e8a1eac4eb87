"""Arrays that are read when they are indexed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import DTypeLike, NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

Key = tuple[int | slice | NDArray[np.integer[Any]], ...]
Reader = Callable[[Key], NDArray[Any]]


class LazyArray(BackendArray):
    """An array whose values a function reads, by an integer, a slice or an array of integers for each axis."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, read: Reader) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._read = read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)


def lazy_variable(
    dims: tuple[Any, ...],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    read: Reader,
    attrs: Mapping[Any, Any],
    chunks: Mapping[Any, int] | None = None,
) -> xr.Variable:
    """Return a variable whose values are read when it is indexed; `chunks` are the sizes that are read at once."""
    variable = xr.Variable(dims, indexing.LazilyIndexedArray(LazyArray(shape, dtype, read)), dict(attrs))
    variable.encoding["preferred_chunks"] = dict(chunks or {})
    return variable


def outer(values: NDArray[Any], key: Key) -> NDArray[Any]:
    """Index each axis on its own, as `LazyArray` does."""
    for axis in reversed(range(len(key))):
        values = values[(slice(None),) * axis + (key[axis],)]
    return values
