"""The superblock of HDF5 files, whose fields the HDF5 library trusts before it reads anything else."""

from __future__ import annotations

from pathlib import Path

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIRST_PLACE = 512  # after 0, the library looks at 512, 1024, 2048, …
# length before the addresses, by version; versions 2 and 3 have no address of a driver
_BEFORE_ADDRESSES = {0: 24, 1: 28}
_ADDRESSES, _DRIVER = 4, 3  # base, free space, end of file, driver information
_LONGEST_ADDRESS = 32


def has_driver_information(path: Path) -> bool:
    """Return whether an HDF5 file names a driver information block.

    Only the drivers of split files need one. The library allocates the size that is written there, up to 4 GiB, before
    it compares it with the size of the file (HDF5 1.14.6).
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while place < size:
            file.seek(place)
            start = file.read(_BEFORE_ADDRESSES[1] + _ADDRESSES * _LONGEST_ADDRESS)
            if start.startswith(_SIGNATURE):
                return _names_driver(start)
            place = 2 * place or _FIRST_PLACE
    return False


def _names_driver(start: bytes) -> bool:
    if len(start) < min(_BEFORE_ADDRESSES.values()) or start[8] not in _BEFORE_ADDRESSES:
        return False
    version, width = start[8], start[13]
    first = _BEFORE_ADDRESSES[version] + _DRIVER * width
    address = start[first : first + width]
    return address != b"\xff" * len(address)
