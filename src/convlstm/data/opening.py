"""Open data of unknown origin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xarray as xr

from convlstm.data.in_memory import undecoded
from convlstm.data.library_errors import reading
from convlstm.data.places import Source, name_of
from convlstm.data.selection import select
from convlstm.data.sources import open_dataset


@contextmanager
def opened(source: Source | xr.Dataset, max_bytes: int, **options: Any) -> Iterator[xr.Dataset]:
    """Open data as `open_source` does, and close it at the end of the block, whose errors become a `DataError`."""
    with reading(name_of(source)), open_source(source, max_bytes, **options) as dataset:
        yield dataset


def open_source(source: Source | xr.Dataset, max_bytes: int, **options: Any) -> xr.Dataset:
    """Open data with packed numbers and undecoded times; it stays open as long as its variables are used.

    The coordinates, which xarray reads at once, may have at most `max_bytes`. The options are those of `open_dataset`.
    A dataset in memory is returned in this form.
    """
    with reading(name_of(source)):
        if isinstance(source, xr.Dataset):
            return select(undecoded(source), options.get("selection") or {})
        return open_dataset(source, max_bytes, **options)
