"""Turn every error of the libraries that read files into a `DataError`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from convlstm.errors import ConvLSTMError, DataError


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise errors as `data_errors` does, without warnings of the libraries on what is checked here."""
    with data_errors(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def data_errors(name: str) -> Iterator[None]:
    """Raise any error of the libraries that read a file as a `DataError`."""
    try:
        yield
    except (ConvLSTMError, MemoryError):
        raise
    # the libraries raise many types for a damaged file: OSError, RuntimeError, KeyError, zlib.error
    except Exception as error:
        raise DataError(
            name,
            expected="data that can be read",
            received=(str(error).splitlines() or [type(error).__name__])[0][:200],
            hint="Check the format, or download the file again.",
        ) from error
