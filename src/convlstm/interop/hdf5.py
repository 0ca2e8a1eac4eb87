"""HDF5 files of Keras: plain datasets in plain groups only.

Links, external storage and virtual datasets can read other files, and a shape can exceed the memory. Each raises an
error before any data is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from convlstm.errors import DependencyError, WeightsError
from convlstm.spec.types import Array
from convlstm.superblock import has_driver_information
from convlstm.weights.checkpoint import file_error

_DEEPEST, _MOST_OBJECTS = 64, 10_000


def read(path: Path) -> dict[str, Array]:
    """Return every floating-point dataset of an HDF5 file by its path in the file."""
    h5py = _h5py()
    try:
        if has_driver_information(path):
            expected = "an HDF5 file without a driver information block"
            raise file_error(path, expected, "one with it", "Save the weights again.")
        with h5py.File(path, "r") as file:
            members = dict(_members(h5py, path, file))
            for name, dataset in members.items():
                _check_plain(h5py, path, name, dataset)
            floats = {name: dataset for name, dataset in members.items() if dataset.dtype.kind == "f"}
            promised, there = sum(map(_size, floats.values())), path.stat().st_size
            if promised > there:
                received = f"{promised:,} bytes of data in a file of {there:,}"
                raise file_error(path, "no more data than the file size", received, "Save the weights again.")
            return {name: dataset[()] for name, dataset in floats.items()}
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        # h5py does not define an error class
        if isinstance(error, WeightsError):
            raise
        raise file_error(path, "an intact HDF5 file", str(error), "Copy or download the file again.") from error


def write(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays as plain datasets; the slashes in their names make groups."""
    with _h5py().File(path, "w") as file:
        for name in sorted(arrays):
            file.create_dataset(name, data=arrays[name])


def _members(h5py: Any, path: Path, file: Any) -> Iterator[tuple[str, Any]]:
    """Yield every dataset with its name; visit each object once, so that a cycle of groups ends."""
    seen, waiting = {h5py.h5o.get_info(file.id).addr}, [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            full = f"{prefix}{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise file_error(path, "groups and datasets only", f"the link {full}", "Save the weights again.")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or full.count("/") > _DEEPEST:
                raise file_error(path, "one path per object", f"a second path, {full}", "Save the weights again.")
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                raise file_error(path, f"at most {_MOST_OBJECTS:,} objects", "more", "Save the weights again.")
            if isinstance(item, h5py.Group):
                waiting.append((f"{full}/", item))
            elif isinstance(item, h5py.Dataset):
                yield full, item


def _check_plain(h5py: Any, path: Path, name: str, dataset: Any) -> None:
    """Raise an error for external, virtual or filtered data, and for data larger than its storage."""
    properties = dataset.id.get_create_plist()
    plain = properties.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    if not plain or properties.get_external_count() or properties.get_nfilters():
        raise file_error(
            path, "plain datasets", f"{name}, which is external, virtual or packed", "Save without filters."
        )
    if dataset.dtype.kind == "f" and _size(dataset) != dataset.id.get_storage_size():
        stored = f"{name} of {_size(dataset):,} bytes with {dataset.id.get_storage_size():,} stored"
        raise file_error(path, "datasets of their stored size", stored, "Save the weights again.")


def _size(dataset: Any) -> int:
    return math.prod(dataset.shape or ()) * int(dataset.dtype.itemsize)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DependencyError(
            "h5py", expected="h5py for .h5 files", received="none installed", hint="Run: pip install h5py."
        ) from error
    return h5py
