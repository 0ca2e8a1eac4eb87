"""Open data of unknown origin, and turn every error of the libraries into a `DataError`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xarray as xr

from convlstm.data.places import Source, name_of
from convlstm.data.sources import open_dataset
from convlstm.errors import ConvLSTMError, DataError


@contextmanager
def opened(source: Source, max_bytes: int, **options: Any) -> Iterator[xr.Dataset]:
    """Open data with packed numbers and undecoded times, and close it at the end of the block.

    The coordinates, which xarray reads at once, may have at most `max_bytes`. Any error of the libraries, now or in the
    block, becomes a `DataError`. The options are those of `open_dataset`.
    """
    try:
        # xarray, zarr and cf-xarray warn about problems that are checked here
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_dataset(source, max_bytes, **options) as dataset:
                yield dataset
    except ConvLSTMError:
        raise
    # the libraries raise many types for a damaged file: OSError, RuntimeError, KeyError, zlib.error
    except Exception as error:
        raise DataError(
            name_of(source),
            expected="data that can be read",
            received=(str(error).splitlines() or [type(error).__name__])[0][:200],
            hint="Check the format, or download the file again.",
        ) from error
