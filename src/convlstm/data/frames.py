"""A gridded sequence as the packed numbers of its file, in memory or still in the file, unpacked on reading."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.stored import StoredArray
from convlstm.data.units import Conversion, Field, dbz_to_mm_per_hour
from convlstm.errors import DataError

Index = slice | NDArray[np.integer]
Window = tuple[slice, slice]

_FRAMES_AT_ONCE = 64
_VALUES_AT_ONCE = 2**22
_SAMPLE_VALUES = 2**22
_LEAST_SAMPLE = 16  # frames, or pairs of them


def spread(count: int, size: int, *, frames_each: int = 1) -> NDArray[np.intp]:
    """Return frames spread evenly over `count` of `size` values: all of them, or as many as a sample may have."""
    most = max(_SAMPLE_VALUES // (size * frames_each), _LEAST_SAMPLE)
    return np.linspace(0, count - 1, min(count, most)).astype(np.intp)


def frames_at_once(size: int) -> int:
    """Return the number of frames of `size` values to read at once where many are read, to limit the memory."""
    return int(np.clip(_VALUES_AT_ONCE // size, 1, _FRAMES_AT_ONCE))


def in_parts(index: NDArray[np.integer], size: int) -> list[NDArray[np.integer]]:
    """Return the numbers of frames of `size` values in parts to read one after another."""
    at_once = frames_at_once(size)
    return [index[first : first + at_once] for first in range(0, len(index), at_once)]


@dataclass(frozen=True, eq=False)
class Channel:
    """One variable with the packed numbers of its file and their conversion to physical values."""

    packed: NDArray[np.number] | StoredArray  # (time, height, width)
    scale: float = 1.0  # factor on a packed number, including the change of unit
    offset: float = 0.0  # number to add after that
    missing: tuple[float, ...] = ()  # packed numbers that mean missing data
    valid: tuple[float, float] = (-np.inf, np.inf)  # minimum and maximum of the valid packed numbers
    units: str = ""  # unit of the result of `read`
    name: str = ""  # of the variable, for messages
    long_name: str = ""  # of the variable, for titles
    conversion: Conversion = field(default_factory=lambda: Conversion(""))
    factor: float = 1.0  # the part of `scale` that changes the unit
    least: float = -np.inf  # lower values cannot be what the variable measures, as rain below 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes (time, height, width) of the result of `read`."""
        return self.packed.shape

    def read(self, index: Index, window: Window = (slice(None), slice(None))) -> Field:
        """Return physical values (time, height, width), float32; NaN for missing and infinite values.

        Values below `least` are a `DataError`.
        """
        packed = self.packed[(index, *window)]
        values = packed.astype(np.result_type(packed.dtype, np.float32))
        if self.scale != 1 or self.offset != 0:
            values *= self.scale
            values += self.offset
        absent = ~np.isfinite(values)
        for number in self.missing:
            absent |= packed == number
        for beyond, bound in ((np.less, self.valid[0]), (np.greater, self.valid[1])):
            if np.isfinite(bound):
                absent |= beyond(packed, bound)
        values[absent] = np.nan
        if self.conversion.reflectivity:
            return dbz_to_mm_per_hour(values)
        if self.least > -np.inf and (values < self.least).any():
            raise self._below(packed.flat[np.nanargmin(values)])
        return values.astype(np.float32, copy=False)

    def infinite(self, index: Index) -> int:
        """Return the number of infinite values in some frames, which `read` returns as NaN."""
        return int(np.isinf(self.packed[index]).sum()) if self.packed.dtype.kind == "f" else 0

    def _below(self, number: np.number) -> DataError:
        in_file = self._text_in_file(number)
        return DataError(
            self.name,
            expected=f"values of at least 0 {self.conversion.source}".rstrip() + " for rain",
            received=in_file,
            hint=f"Pass `--missing={in_file}` (`missing=({in_file},)` in Python) if it means no data, "
            "or `--missing none` if these are small negative values.",
        )

    def _text_in_file(self, number: np.number) -> str:
        """Return the value of a packed number in the unit of the file, with as many digits as it takes to find it."""
        scale, offset = self.scale / self.factor, self.offset / self.factor
        value = float(number) * scale + offset
        is_float = self.packed.dtype.kind == "f"
        for digits in (6, 9, 12):
            text = f"{value:.{digits}g}"
            packed = (float(text) - offset) / scale
            if is_float:
                with np.errstate(over="ignore"):
                    packed = float(np.float64(packed).astype(self.packed.dtype))
            if abs(packed - float(number)) <= (0 if is_float else 1e-6):
                return text
        return repr(value)


@dataclass(frozen=True, eq=False)
class Frames:
    """A gridded sequence, the result of `open_frames`.

    Args:
        variables: Names of the variables, one for each channel.
        units: Unit of the result of `read`: "mm/h" for rain, also for sums in the file; "dBZ" for reflectivity;
            else the unit in the file, joined by ", " if the variables differ.
        time: Times of the frames, datetime64 or cftime, 1-D.
        seconds: Seconds from the first frame, (time,).
        time_step: Usual time between frames in seconds.
        grid: Spatial coordinates and grid mapping, to be copied into outputs; the grid mapping's name is its
            attribute `grid_mapping`.
        attrs: Attributes of the file, such as title, institution, source and licence.
        time_dim: Name of the time dimension.
        y_dim: Name of the dimension of rows.
        x_dim: Name of the dimension of columns.
        channels: The data, as packed numbers.

    Example:
        >>> from convlstm.data import open_frames, sample_path
        >>> frames = open_frames(sample_path())
        >>> frames.shape, frames.units, frames.time_step
        ((588, 1, 96, 96), 'mm/h', 300.0)
    """

    variables: tuple[str, ...]
    units: str
    time: xr.DataArray
    seconds: NDArray[np.float64]
    time_step: float
    grid: xr.Dataset
    attrs: dict[str, str]
    time_dim: str
    y_dim: str
    x_dim: str
    channels: tuple[Channel, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The sizes (time, channel, height, width).

        Example:
            >>> from convlstm.data import open_frames, sample_path
            >>> open_frames(sample_path()).shape
            (588, 1, 96, 96)
        """
        time, height, width = self.channels[0].shape
        return time, len(self.channels), height, width

    def read(self, index: Index, window: Window = (slice(None), slice(None))) -> Field:
        """Return physical values of some frames.

        Args:
            index: Frames, as a slice or an array of numbers.
            window: Rows and columns, for a part of the grid.

        Returns:
            (time, channel, height, width), float32, in `units`; NaN where there is no data.

        Example:
            >>> from convlstm.data import open_frames, sample_path
            >>> open_frames(sample_path()).read(slice(0, 3), (slice(8), slice(8))).shape
            (3, 1, 8, 8)
        """
        return np.stack([channel.read(index, window) for channel in self.channels], axis=1)
