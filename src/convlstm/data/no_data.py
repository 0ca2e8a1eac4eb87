"""Numbers that mean missing data: those that a file declares, those of the caller, and those that nobody declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from convlstm.data.frames import Channel, spread
from convlstm.errors import DataError

_COMMON_CODES = (-99.0, -999.0, -9999.0, -99999.0, -32767.0, -32768.0)


def numbers(values: Any, dtype: np.dtype[Any]) -> list[float]:
    """Return an attribute as numbers of the packed type; numbers out of its range cannot occur in the data."""
    found: NDArray[Any] = np.ravel([] if values is None else values)
    if found.dtype.kind not in "iuf":
        return []
    if dtype.kind == "f":
        return [float(number) for number in found.astype(dtype) if np.isfinite(number)]
    if dtype.kind == "u" and found.dtype.kind == "i" and found.dtype.itemsize == dtype.itemsize:
        found = found.view(dtype)
    info = np.iinfo(dtype)
    return [int(number) for number in found if number == np.round(number) and info.min <= number <= info.max]


def declared_codes(attrs: Mapping[str, Any], dtype: np.dtype[Any], *, is_file: bool) -> list[float]:
    """Return the packed numbers that mean missing data; NetCDF has a default for each type wider than a byte."""
    declared = [number for key in ("_FillValue", "missing_value") for number in numbers(attrs.get(key), dtype)]
    if not declared and is_file and dtype.itemsize > 1:
        declared = numbers(netCDF4.default_fillvals[dtype.str[1:]], dtype)
    return declared


def without_default_fill(codes: list[float], attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> list[float]:
    """Return the codes without 0, the fill value of chunks that Zarr writes by default, unless it is a missing value.

    Rain of 0 is no missing value.
    """
    also_missing = numbers(attrs.get("missing_value"), dtype)
    return [code for code in codes if code != 0 or code in also_missing]


def packed_codes(values: Sequence[float], dtype: np.dtype[Any], scale: float, offset: float) -> list[float]:
    """Return the packed numbers of values in the unit of the file."""
    packed = [(float(value) - offset) / scale for value in values]
    if dtype.kind != "f":
        packed = [round(number) if abs(number - round(number)) < 1e-6 else number for number in packed]
    return numbers(packed, dtype)


def check_codes(channel: Channel) -> None:
    """Raise an error for a code such as -999 far below all other values, judged by a sample of frames.

    For rain, `Channel.read` refuses every negative value.
    """
    plain = replace(channel, conversion=replace(channel.conversion, reflectivity=False))
    values = plain.read(spread(len(channel.packed), channel.packed[0].size))
    lowest = np.nanmin(values, initial=np.inf, where=~np.isnan(values))
    if lowest not in _COMMON_CODES:
        return
    others = values[values > lowest]
    if others.size and others.min() - lowest > others.max() - others.min():
        raise DataError(
            channel.name,
            expected="values of one range, or a declared number for no data",
            received=f"{lowest:g} far below all other values ({others.min():.4g} to {others.max():.4g})",
            hint=f"Pass `--missing={lowest:g}` if it means no data, or `--missing none` if it is a value.",
        )
