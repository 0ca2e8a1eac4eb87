"""The digest of the content of forecasts and evaluations, and the check of them.

A digest covers names, dimensions, units and values. NetCDF has checksums of its own for arrays, but none for single
numbers such as the initial time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import encode_cf_variable

from convlstm.data.library_errors import reading
from convlstm.data.opening import opened
from convlstm.errors import DataError
from convlstm.verification.evaluation_folder import DESCRIPTION_FILE, FILES

DIGEST = "content_sha256"
"""Attribute of a file with the digest of its content."""

FILE_DIGESTS = "files"
"""Entry of the description of an evaluation with the digest of each other file."""

SEAL = "seal"
"""Entry of the description of an evaluation with the digest of all other entries."""

_HINT = "Make the file again, or copy it again from its source."
_MOST_BYTES = 2**30  # of the coordinates
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


def file_digest(path: Path) -> str:
    """Return the digest of one file of an evaluation: of its content for NetCDF, and of its bytes for a table."""
    with reading(str(path)):
        if path.suffix != ".nc":
            return hashlib.sha256(path.read_bytes()).hexdigest()
        with opened(path, _MOST_BYTES) as dataset:
            digest = content_digest(dataset)
            if dataset.attrs.get(DIGEST) != digest:
                raise _other_digest(path, "content")
            return digest


def seal(description: Mapping[str, Any]) -> str:
    """Return the digest of a description without its seal."""
    content = {key: value for key, value in description.items() if key != SEAL}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_forecast(path: Path) -> tuple[str, str]:
    """Read a forecast whole, and return what it is and its digest.

    Raises:
        DataError: if it cannot be read, its content has another digest, or a number in it is infinite.
    """
    with opened(path, _MOST_BYTES) as dataset:
        digest, stored = content_digest(dataset), dataset.attrs.get(DIGEST)
        for name, variable in dataset.variables.items():
            if variable.dtype.kind == "f" and any(np.isinf(block).any() for block in _blocks(variable)):
                raise DataError(str(path), expected="finite numbers", received=f"infinite ones in {name}", hint=_HINT)
        text = " × ".join(f"{size} {name}" for name, size in dataset.sizes.items())
    if stored is None:
        return f"data without a digest, {text}", digest
    if stored != digest:
        raise _other_digest(path, "content")
    return f"forecast, {text}", digest


def check_evaluation(folder: Path) -> tuple[str, str]:
    """Read the files of an evaluation, and return what it is and the digest of its description.

    Raises:
        DataError: if a file is missing or has another digest.
    """
    path = folder / DESCRIPTION_FILE
    description = _description(path)
    if description[SEAL] != seal(description):
        raise _other_digest(path, "entries")
    for name, digest in description[FILE_DIGESTS].items():
        if not (folder / name).is_file():
            raise DataError(str(folder / name), expected="a file of the evaluation", received="none", hint=_HINT)
        if file_digest(folder / name) != digest:
            raise _other_digest(folder / name, "content")
    return f"evaluation of {len(description['methods'])} methods", str(description[SEAL])


def _description(path: Path) -> dict[str, Any]:
    """Return the content of a description, which must have its methods, its seal and a digest for each file."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        received = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(str(path), expected="a readable JSON file", received=received, hint=_HINT) from error
    files = content.get(FILE_DIGESTS) if isinstance(content, dict) else None
    is_whole = isinstance(files, dict) and set(files) == set(FILES) - {DESCRIPTION_FILE}
    if not is_whole or SEAL not in content or not isinstance(content.get("methods"), list):
        hint = "Evaluate again: an earlier version wrote no digests."
        raise DataError(str(path), expected="digests of all files", received="other entries", hint=hint)
    result: dict[str, Any] = content
    return result


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


def _other_digest(path: Path, what: str) -> DataError:
    return DataError(
        str(path), expected="the content that was written", received=f"{what} with another digest", hint=_HINT
    )
