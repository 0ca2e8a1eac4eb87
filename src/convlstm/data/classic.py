"""Check the length of a classic NetCDF file: the NetCDF library reads zeros beyond the end of a truncated file."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from typing import BinaryIO

from convlstm.errors import DataError

FORMATS = (b"CDF\x01", b"CDF\x02", b"CDF\x05")
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


def check_complete(path: Path) -> None:
    """Raise an error for a classic NetCDF file that is shorter than its header says; ignore other files.

    Source: NetCDF Classic, 64-bit Offset and 64-bit Data Format Specifications, Unidata.
    """
    with path.open("rb") as file:
        if file.read(4) not in FORMATS:
            return
        file.seek(0)
        try:
            needed, expected = _data_end(_Header(file)), "{} bytes, as its header says"
        except (struct.error, KeyError, IndexError):
            needed, expected = sys.maxsize, "a whole header"
    size = path.stat().st_size
    if size < needed:
        raise DataError(
            str(path),
            expected=expected.format(needed),
            received=f"{size} bytes",
            hint="Download the file again, because it is truncated.",
        )


class _Header:
    """A reader of the numbers in a header."""

    def __init__(self, file: BinaryIO) -> None:
        version = file.read(4)[3]
        self._file = file
        self._count = ">Q" if version == 5 else ">I"
        self._offset = ">I" if version == 1 else ">Q"

    def count(self) -> int:
        return self._number(self._count)

    def offset(self) -> int:
        return self._number(self._offset)

    def type_size(self) -> int:
        return _TYPE_SIZES[self._number(">I")]

    def items(self) -> range:
        self._number(">I")  # the kind of list, which its position also determines
        return range(self.count())

    def skip_name(self) -> None:
        self._skip(self.count())

    def skip_attributes(self) -> None:
        for _ in self.items():
            self.skip_name()
            self._skip(self.type_size() * self.count())

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._file.read(struct.calcsize(form)))[0])

    def _skip(self, size: int) -> None:
        self._file.seek(_padded(size), 1)


def _data_end(header: _Header) -> int:
    """Return the position of the last byte of data, without padding."""
    records = header.count()
    lengths = []
    for _ in header.items():
        header.skip_name()
        lengths.append(header.count())
    header.skip_attributes()
    fixed, recorded = [0], []
    for _ in header.items():
        header.skip_name()
        shape = [lengths[header.count()] for _ in range(header.count())]
        header.skip_attributes()
        size = header.type_size()
        header.count()  # the variable's size again, which overflows for large ones
        begin = header.offset()
        if shape[:1] == [0]:  # the unlimited dimension has length 0 here
            recorded.append((begin, size * math.prod(shape[1:])))
        else:
            fixed.append(begin + size * math.prod(shape))
    step = recorded[0][1] if len(recorded) == 1 else sum(_padded(size) for _, size in recorded)
    return max(*fixed, *(begin + step * (records - 1) + size for begin, size in recorded if records), 0)


def _padded(size: int) -> int:
    return size + -size % 4
