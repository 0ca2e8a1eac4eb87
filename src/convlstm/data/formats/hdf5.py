"""Safe access to HDF5 files: no link, external storage or virtual dataset can lead to another file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from convlstm.data.formats.packages import load_package
from convlstm.data.formats.sizes import check_chunk, check_size
from convlstm.errors import DataError
from convlstm.superblock import has_driver_information

EXTRA = "radar"

# numbers of filters: deflate, szip, bzip2, LZF, Blosc, LZ4 and Zstandard
_COMPRESSIONS = {1, 4, 307, 32000, 32001, 32004, 32015}
_MOST_OBJECTS = 10_000
_DEEPEST = 64


def check_contained(path: Path, extra: str) -> None:
    """Raise an error for a file that leads to other files, or has too large chunks or too many objects.

    Links to other files, external storage and virtual datasets would put the content of any file that the user can
    read into the result. Files that are not HDF5 are ignored.
    """
    h5py = load_package("h5py", extra, str(path))
    if not h5py.is_hdf5(path):
        return
    with open_hdf5(path, extra) as file:
        for dataset in _datasets(h5py, file):
            _check_not_external(dataset)
            if dataset.chunks is not None:
                item = dataset.dtype.itemsize
                check_chunk(path, dataset.name, math.prod(dataset.chunks) * item, math.prod(dataset.shape) * item)
                _check_filters(dataset)


def _datasets(h5py: Any, file: Any) -> Iterator[Any]:
    """Yield every dataset of a file; other links, and second paths to a group, are errors.

    The NetCDF library follows links to other files, and circles of groups until memory ends.
    """
    seen, waiting, count = {h5py.h5o.get_info(file.id).addr}, [(file, 0)], 0
    while waiting:
        group, depth = waiting.pop()
        for name in group:
            count += 1
            if count > _MOST_OBJECTS or depth > _DEEPEST:
                raise DataError(
                    file.filename,
                    expected=f"at most {_MOST_OBJECTS:,} groups and variables, {_DEEPEST} deep",
                    received="more",
                    hint="Copy the variables that you need into a file of their own.",
                )
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _unsafe(group, f"the link {name}")
            item = group[name]
            if isinstance(item, h5py.Dataset):
                yield item
            elif isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    raise _unsafe(group, f"a second path to a group, {name}")
                seen.add(address)
                waiting.append((item, depth + 1))


def open_hdf5(path: Path, extra: str = EXTRA) -> Any:
    """Return an open `h5py.File`; `extra` is named where h5py is missing."""
    h5py = load_package("h5py", extra, str(path))
    if has_driver_information(path):
        raise DataError(
            str(path),
            expected="an HDF5 file without a driver information block",
            received="one with it",
            hint="Copy its content into one file, with h5repack.",
        )
    return h5py.File(path, "r")


def child(group: Any, name: str) -> Any | None:
    """Return a group or dataset by the steps of its path, or None; a link that is not plain is an error."""
    h5py = load_package("h5py", EXTRA, str(group.file.filename))
    for step in name.split("/"):
        link = group.get(step, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise _unsafe(group, f"the link {step}")
        group = group[step]
    return group


def member(group: Any, name: str) -> Any:
    """Return a group or dataset by the steps of its path; it is an error if there is none."""
    found = child(group, name)
    if found is None:
        raise DataError(
            group.file.filename,
            expected=f"the group or dataset {name}",
            received="none",
            hint="Choose a file of the whole product.",
        )
    return found


def children(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the groups prefix1, prefix2, … in this order, with their names."""
    numbers = (name[len(prefix) :] for name in group if name.startswith(prefix))
    for number in sorted(int(text) for text in numbers if text.isdecimal()):
        yield f"{prefix}{number}", child(group, f"{prefix}{number}")


def check_dataset(dataset: Any, max_bytes: int) -> tuple[int, int]:
    """Return the sizes (rows, columns) of a dataset that holds its own numbers; any other is an error."""
    name = dataset.file.filename
    _check_not_external(dataset)
    if dataset.ndim != 2 or dataset.dtype.kind not in "iuf":
        raise DataError(
            name,
            expected="numbers over rows and columns",
            received=f"{dataset.name} of type {dataset.dtype} with shape {dataset.shape}",
            hint="Choose another product.",
        )
    size = math.prod(dataset.shape) * 8
    check_size(name, size, max_bytes)
    check_chunk(name, dataset.name, math.prod(dataset.chunks or (0,)) * 8, size)
    return int(dataset.shape[0]), int(dataset.shape[1])


def _check_not_external(dataset: Any) -> None:
    """Raise an error for a dataset whose numbers are in another file."""
    if dataset.external or dataset.is_virtual:
        raise _unsafe(dataset, f"{dataset.name}, which is stored in another file")


def _check_filters(dataset: Any) -> None:
    """Raise an error for a dataset that is compressed twice: it can unpack to a million times its size."""
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if sum(code in _COMPRESSIONS for code in filters) > 1:
        raise DataError(
            dataset.file.filename,
            expected="one compression",
            received=f"{dataset.name} with several",
            hint="Write the file again with one compressor.",
        )


def text(node: Any, name: str) -> str | None:
    """Return an attribute as text, or None."""
    value = None if node is None else node.attrs.get(name)
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else None
    if value is None:
        return None
    return value.decode("ascii", "replace").strip("\x00 ") if isinstance(value, bytes) else str(value).strip("\x00 ")


def number(node: Any, name: str) -> float | None:
    """Return an attribute as a number, or None."""
    value = text(node, name)
    try:
        return None if value is None else float(value)
    except ValueError as error:
        raise DataError(
            node.file.filename,
            expected=f"a number as {name}",
            received=repr(value[:40] if value else value),
            hint="Correct the attribute in the file.",
        ) from error


def required(node: Any, name: str, path: Path) -> float:
    """Return an attribute as a number; it is an error if there is none."""
    value = number(node, name)
    if value is None:
        raise missing_attribute(path, name)
    return value


def missing_attribute(path: Path, name: str) -> DataError:
    """Return the error for an attribute that is not there."""
    return DataError(
        str(path), expected=f"the attribute {name}", received="none", hint="Choose a file of the whole product."
    )


def _unsafe(node: Any, what: str) -> DataError:
    return DataError(
        node.file.filename,
        expected="groups and data of this file only",
        received=what,
        hint="Copy the data into one file, for example with `h5repack`.",
    )
