"""Numbers that mean missing data: those that a file declares, those of the caller, and those that nobody declared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from convlstm.data.frames import Channel, in_parts, spread
from convlstm.data.stored import StoredArray
from convlstm.data.units import RAIN_RATE, Conversion, Field
from convlstm.errors import DataError

_COMMON_CODES = (-99.0, -999.0, -9999.0, -99999.0, -32767.0, -32768.0)
_MOST_COMPARED = 2**24  # values above a code, of those in the sample
_LEAST_GAP = 0.5  # between a code and the other values, in ranges from their 1st to their 99th percentile


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


def declared_codes(attrs: Mapping[Any, Any], dtype: np.dtype[Any], *, is_file: bool) -> list[float]:
    """Return the packed numbers that mean missing data; NetCDF has a default for each type wider than a byte."""
    declared = [number for key in ("_FillValue", "missing_value") for number in numbers(attrs.get(key), dtype)]
    if not declared and is_file and dtype.itemsize > 1:
        declared = numbers(netCDF4.default_fillvals[dtype.str[1:]], dtype)
    return declared


def without_default_fill(
    codes: list[float],
    attrs: Mapping[str, Any],
    variable: str,
    packed: NDArray[np.number] | StoredArray,
    conversion: Conversion,
    missing: Sequence[float] | None,
) -> list[float]:
    """Return the codes without 0, the fill value of chunks that Zarr writes by default, where it is a value.

    Rain of 0 is a value. For other variables, `missing` decides about 0; None is an error if the data have a 0. The
    fill value stays if the attribute `missing_value` has it, or if its physical value is not 0.
    """
    if 0 not in codes or 0 in numbers(attrs.get("missing_value"), packed.dtype) or float(attrs.get("add_offset", 0)):
        return codes
    is_rain = conversion.units == RAIN_RATE and not conversion.reflectivity
    if missing is None and not is_rain:
        if not _has_zero(packed):
            return codes
        raise DataError(
            variable,
            expected="a number for no data other than 0, the default of Zarr",
            received="the fill value 0 and values of 0",
            hint="Pass `--missing=0` if 0 means no data, else `--missing none` or the numbers for no data.",
        )
    return [code for code in codes if code != 0]


def _has_zero(packed: NDArray[np.number] | StoredArray) -> bool:
    """Return whether a number is 0, in a sample of frames of those that stay in the file."""
    if isinstance(packed, StoredArray):
        packed = packed[spread(len(packed), packed.size // len(packed))]
    return not packed.all()


def packed_codes(values: Sequence[float], dtype: np.dtype[Any], scale: float, offset: float) -> list[float]:
    """Return the packed numbers of values in the unit of the file."""
    packed = [(float(value) - offset) / scale for value in values]
    if dtype.kind != "f":
        packed = [round(number) if abs(number - round(number)) < 1e-6 else number for number in packed]
    return numbers(packed, dtype)


def check_codes(channel: Channel, named: Sequence[float] = ()) -> None:
    """Raise an error for a code such as -999 far below all other values, judged by a sample of frames.

    Far is more than half of the range that has 98 % of the other values. The codes `named` by the caller are missing.

    For rain, `Channel.read` refuses every negative value.
    """
    plain = replace(channel, conversion=replace(channel.conversion, reflectivity=False))
    count, *grid = plain.packed.shape
    parts = in_parts(spread(count, math.prod(grid)), math.prod(grid))
    lowest = min(_lowest(plain.read(part)) for part in parts)
    if lowest not in _COMMON_CODES:
        return
    step = -(-sum(len(part) for part in parts) * math.prod(grid) // _MOST_COMPARED)
    others = np.concatenate([_above(plain.read(part), lowest)[::step] for part in parts])
    if not others.size:
        return
    low, high = np.percentile(others, [1, 99])
    if others.min() - lowest > _LEAST_GAP * (high - low):
        declare = ""
        if named:
            codes = ", ".join(f"{code:g}" for code in named)
            declare = f"declare {codes} as `missing_value` in the file and "
        raise DataError(
            channel.name,
            expected="values of one range, or a declared number for no data",
            received=f"{lowest:g} far below all other values ({others.min():.4g} to {others.max():.4g})",
            hint=f"Pass `--missing={lowest:g}` if it means no data. If it is a value, {declare}pass `--missing none`.",
        )


def _lowest(values: Field) -> np.float32:
    return np.nanmin(values, initial=np.inf, where=~np.isnan(values))


def _above(values: Field, lowest: np.float32) -> Field:
    return values[values > lowest]
