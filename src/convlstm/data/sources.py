"""Open data of any kind at any place as one dataset, which is read when it is indexed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.formats.kinds import ZARR, marked, open_file
from convlstm.data.formats.lazy import Key, lazy_variable
from convlstm.data.formats.zarr_store import is_store, open_zarr
from convlstm.data.joining import join
from convlstm.data.places import LocalCopy, Source, find_places, is_address, is_remote_store
from convlstm.data.selection import Selection, select
from convlstm.errors import ConvLSTMError, DataError


def open_dataset(
    source: Source,
    max_bytes: int,
    *,
    variables: Sequence[str] = (),
    dims: Mapping[str, str | None] | None = None,
    selection: Selection | None = None,
) -> xr.Dataset:
    """Open data with packed numbers and undecoded times; several files are joined along time.

    The variables are read when they are indexed, also after this function has returned. `close` of the dataset closes
    the files and removes temporary copies.

    Args:
        source: A file, a Zarr store, a folder of files, a pattern such as "days/*.nc", an address, or several of these.
        max_bytes: Maximum size in bytes of the coordinates, and of one frame of a radar product.
        variables: Names of the variables; () takes all.
        dims: The caller's dimension for "time", "y" and "x", or None; for joining only.
        selection: Values of other dimensions, by name.

    Returns:
        The dataset.

    Raises:
        DataError: If a file is not readable, or files do not fit together.
        DependencyError: If a kind of file or address needs a package that is not installed.
    """
    places = find_places(source)
    opener = partial(open_place, max_bytes=max_bytes, selection=selection or {})
    if len(places) > 1:
        return join(places, opener, variables=variables, dims=dims)
    dataset = opener(places[0])
    if any(variable.ndim > 2 for variable in dataset.data_vars.values()):
        return dataset
    try:  # one frame, whose time is in the name of its file or in an attribute
        joined = join(places, opener, variables=variables, dims=dims)
    except ConvLSTMError:
        return dataset  # the reader says what is missing
    dataset.close()
    return joined


def open_place(place: str, max_bytes: int, selection: Selection) -> xr.Dataset:
    """Open one file or store, and select."""
    if is_address(place) and is_remote_store(place):
        return select(marked(open_zarr(place, max_bytes), ZARR), selection)
    path = Path(place)
    if not is_address(place) and path.is_dir() and is_store(path):
        return select(marked(open_zarr(path, max_bytes), ZARR), selection)
    if not is_address(place) and not path.is_file():
        raise DataError(
            place,
            expected="a file or a Zarr folder",
            received="a device or pipe" if path.exists() else "nothing there",
            hint="Correct the path.",
        )
    copy = LocalCopy(place)
    try:
        dataset = open_file(copy.path, max_bytes)
        return select(_kept(dataset, copy) if copy.is_temporary else dataset, selection)
    except ConvLSTMError as error:
        renamed = copy.rename(error)
        copy.close()
        raise renamed from error
    except BaseException:
        copy.close()
        raise


def _kept(dataset: xr.Dataset, copy: LocalCopy) -> xr.Dataset:
    """Return a dataset whose variables keep the temporary copy of their file until they are no longer used."""

    def lazily(name: Hashable) -> xr.Variable:
        variable = dataset[name].variable
        lazy = lazy_variable(
            variable.dims, variable.shape, variable.dtype, partial(_read, copy, variable), variable.attrs
        )
        lazy.encoding = dict(variable.encoding)
        return lazy

    def close() -> None:
        dataset.close()
        copy.close()

    kept = dataset.assign({name: lazily(name) for name in dataset.data_vars})
    kept.encoding = dict(dataset.encoding)
    kept.set_close(close)
    return kept


def _read(copy: LocalCopy, variable: xr.Variable, key: Key) -> NDArray[Any]:
    return np.asarray(variable[key].values)
