"""Limits of sizes that a file declares."""

from __future__ import annotations

from convlstm.errors import DataError


def check_size(source: object, size: int, max_bytes: int) -> None:
    """Raise an error for data of more than `max_bytes`, before allocation."""
    if size > max_bytes:
        raise DataError(
            str(source),
            expected=f"at most {max_bytes / 2**30:.3g} GiB",
            received=f"{size / 2**30:.3g} GiB declared",
            hint="Select a part in time or space first.",
        )
