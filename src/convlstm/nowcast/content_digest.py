"""The digest of the content of forecasts and evaluations, and the check of them.

A digest covers names, dimensions, units and values. NetCDF has checksums of its own for arrays, but none for single
numbers such as the initial time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from convlstm.data.opening import opened
from convlstm.errors import DataError
from convlstm.verification.evaluation_folder import DESCRIPTION_FILE, FILES

DIGEST = "content_sha256"
"""Attribute of a file with the digest of its content."""

FILE_DIGESTS = "files"
"""Entry of the description of an evaluation with the digest of each other file."""

SEAL = "seal"
"""Entry of the description of an evaluation with the digest of all other entries."""

_HINT = "Make the file again, or copy it again from where it came."
_TIME_STEP = 10_000  # microseconds; files have times as float64, which can change the last digit
_MOST_BYTES = 2**34  # of the coordinates


def content_digest(dataset: xr.Dataset) -> str:
    """Return the SHA-256 of names, dimensions, units and values, whose times may be encoded or not."""
    decoded = xr.decode_cf(dataset, mask_and_scale=False, decode_timedelta=False)
    digest = hashlib.sha256()
    for name in sorted(map(str, decoded.variables)):
        variable = decoded[name]
        values = _plain(variable.values)
        facts = [name, list(map(str, variable.dims)), list(values.shape), str(values.dtype)]
        units = variable.attrs.get("units")
        digest.update(json.dumps([*facts, None if units is None else str(units)]).encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def with_digest(dataset: xr.Dataset) -> xr.Dataset:
    """Return an encoded dataset with the digest of its content as an attribute."""
    return dataset.assign_attrs({DIGEST: content_digest(dataset)})


def file_digest(path: Path) -> str:
    """Return the digest of one file of an evaluation: of its content for NetCDF, and of its bytes for a table."""
    if path.suffix != ".nc":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with opened(path, _MOST_BYTES) as dataset:
        return content_digest(dataset)


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
            if variable.dtype.kind == "f" and np.isinf(variable.values).any():
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
    try:
        description = json.loads(path.read_bytes())
        digests, stored = dict(description[FILE_DIGESTS]), description[SEAL]
    except (OSError, ValueError, KeyError, TypeError) as error:
        received = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(str(path), expected="a description with digests", received=received, hint=_HINT) from error
    if stored != seal(description):
        raise _other_digest(path, "entries")
    if unknown := sorted(digests.keys() - set(FILES)):
        raise DataError(str(path), expected="files of an evaluation", received=", ".join(unknown)[:200], hint=_HINT)
    for name, digest in digests.items():
        if not (folder / name).is_file():
            raise DataError(str(folder / name), expected="a file of the evaluation", received="none", hint=_HINT)
        if file_digest(folder / name) != digest:
            raise _other_digest(folder / name, "content")
    return f"evaluation of {len(description.get('methods', ()))} methods", stored


def _plain(values: Any) -> Any:
    """Return values as an array of numbers or of bytes: times in hundredths of a second, and texts."""
    if values.dtype.kind in "mM":
        microseconds = values.astype(f"{values.dtype.kind}8[us]").astype(np.int64)
        return (microseconds + _TIME_STEP // 2) // _TIME_STEP
    if values.dtype.kind in "OUS":
        return np.frombuffer(json.dumps([str(value) for value in values.reshape(-1)]).encode(), np.uint8)
    return values


def _other_digest(path: Path, what: str) -> DataError:
    return DataError(
        str(path), expected="the content that was written", received=f"{what} with another digest", hint=_HINT
    )
