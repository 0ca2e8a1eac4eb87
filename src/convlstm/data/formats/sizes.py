"""Limits of sizes that a file declares."""

from __future__ import annotations

from convlstm.errors import DataError

MOST_CHUNK = 2**30
"""Bytes of the largest chunk, which is read whole."""

_FREE_CHUNK = 2**28  # bytes that a chunk may have in an array that is smaller, to which frames can be added


def check_size(source: object, size: int, max_bytes: int) -> None:
    """Raise an error for data of more than `max_bytes`, before allocation."""
    if size > max_bytes:
        raise DataError(
            str(source),
            expected=f"at most {max_bytes / 2**30:.3g} GiB",
            received=f"{size / 2**30:.3g} GiB declared",
            hint="Select a part in time or space first.",
        )


def check_chunk(source: object, name: str, chunk_bytes: int, array_bytes: int) -> None:
    """Raise an error for chunks that take much memory, or much more than their array: a small file can declare both."""
    most = min(max(array_bytes, _FREE_CHUNK), MOST_CHUNK)
    if chunk_bytes > most:
        raise DataError(
            str(source),
            expected=f"chunks of {name} of at most {most / 2**30:.3g} GiB",
            received=f"{chunk_bytes / 2**30:.3g} GiB",
            hint="Write the file with smaller chunks.",
        )
