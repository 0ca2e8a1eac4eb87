"""Safe access to HDF5 files: no link, external storage or virtual dataset can lead to another file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from convlstm.data.formats.packages import load_package
from convlstm.data.formats.sizes import check_size
from convlstm.errors import DataError

EXTRA = "radar"


def open_hdf5(path: Path) -> Any:
    """Return an open `h5py.File`."""
    return load_package("h5py", EXTRA, str(path)).File(path, "r")


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
    if dataset.external or dataset.is_virtual:
        raise _unsafe(dataset, f"{dataset.name}, which is stored in another file")
    if dataset.ndim != 2 or dataset.dtype.kind not in "iuf":
        raise DataError(
            name,
            expected="numbers over rows and columns",
            received=f"{dataset.name} of type {dataset.dtype} with shape {dataset.shape}",
            hint="Choose another product.",
        )
    check_size(name, math.prod(dataset.shape) * 8, max_bytes)
    return int(dataset.shape[0]), int(dataset.shape[1])


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
