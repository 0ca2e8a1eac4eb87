"""The digest of the content of forecasts, and the check of them.

A digest covers names, dimensions, units and values. NetCDF has checksums of its own for arrays, but none for single
numbers such as the initial time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import encode_cf_variable

from convlstm.data.opening import opened
from convlstm.errors import DataError

DIGEST = "content_sha256"
"""Attribute of a file with the digest of its content."""

HINT = "Make the file again, or copy it again from its source."
MOST_BYTES = 2**30
"""Bytes that the coordinates of a file may have."""

_BLOCK = 2**26  # bytes of a variable that are read at once


def content_digest(dataset: xr.Dataset) -> str:
    """Return the SHA-256 of names, dimensions, units and values, as they are stored; times may be decoded."""
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = _stored(dataset.variables[name], name)
        units = variable.attrs.get("units")
        facts = [name, list(map(str, variable.dims)), list(variable.shape), _kind(variable)]
        digest.update(json.dumps([*facts, None if units is None else str(units)]).encode())
        for block in _blocks(variable):
            digest.update(_plain(block).data)
    return digest.hexdigest()


def with_digest(dataset: xr.Dataset) -> xr.Dataset:
    """Return an encoded dataset with the digest of its content as an attribute."""
    return dataset.assign_attrs({DIGEST: content_digest(dataset)})


def other_digest(path: Path, what: str) -> DataError:
    """Return the error of a file that has changed."""
    return DataError(
        str(path), expected="the content that was written", received=f"{what} with another digest", hint=HINT
    )


def check_forecast(path: Path) -> tuple[str, str]:
    """Read a forecast whole, and return what it is and its digest.

    Raises:
        DataError: if it cannot be read, its content has another digest, or a number in it is infinite.
    """
    with opened(path, MOST_BYTES) as dataset:
        digest, stored = content_digest(dataset), dataset.attrs.get(DIGEST)
        for name, variable in dataset.variables.items():
            if variable.dtype.kind == "f" and any(np.isinf(block).any() for block in _blocks(variable)):
                raise DataError(str(path), expected="finite numbers", received=f"infinite ones in {name}", hint=HINT)
        text = " × ".join(f"{size} {name}" for name, size in dataset.sizes.items())
    if stored is None:
        return f"data without a digest, {text}", digest
    if stored != digest:
        raise other_digest(path, "content")
    return f"forecast, {text}", digest


def _stored(variable: xr.Variable, name: str) -> xr.Variable:
    """Return a variable with its dates and durations as the numbers that are stored."""
    is_object = variable.dtype.kind == "O" and variable.size and not isinstance(variable.values.flat[0], str)
    return encode_cf_variable(variable, name=name) if variable.dtype.kind in "mMb" or is_object else variable


def _kind(variable: xr.Variable) -> str:
    return "text" if variable.dtype.kind in "OUS" else str(variable.dtype)


def _blocks(variable: xr.Variable) -> Iterator[NDArray[Any]]:
    """Yield the values in C order, in blocks of limited size; texts are one block."""
    if variable.ndim == 0 or variable.nbytes <= _BLOCK or _kind(variable) == "text":
        yield variable.values
        return
    rows = max(_BLOCK // (variable.nbytes // len(variable)), 1)
    for first in range(0, len(variable), rows):
        part = variable[first : first + rows]
        yield from _blocks(part[0] if rows == 1 else part)


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as a contiguous array of numbers, or of the bytes of texts."""
    if values.dtype.kind in "OUS":
        return np.frombuffer(json.dumps([str(value) for value in values.reshape(-1)]).encode(), np.uint8)
    return np.ascontiguousarray(values)
