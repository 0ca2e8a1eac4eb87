"""Units of rain, their conversion to mm/h, and the Z–R relation to dBZ."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convlstm.errors import DataError

Field = NDArray[np.float32]

RAIN_RATE = "mm/h"
REFLECTIVITY = "dBZ"
SECONDS_PER_HOUR = 3600.0

# Accepted spellings, normalised by `_normalised`, with the factor to mm/h.
_RATES = {
    **dict.fromkeys(("mm/h", "mm h-1", "kg m-2 h-1", "kg/m2/h"), 1.0),
    **dict.fromkeys(("mm/day", "mm day-1", "mm d-1", "kg m-2 day-1", "kg m-2 d-1"), 1 / 24),
    **dict.fromkeys(("mm/s", "mm s-1"), SECONDS_PER_HOUR),
}
# These measure rain only where the variable is known to be rain: wind is in m s-1, evaporation in kg m-2 s-1.
_RATES_OF_RAIN_ONLY = {
    **dict.fromkeys(("kg m-2 s-1", "kg/m2/s", "kg/(m2 s)"), SECONDS_PER_HOUR),
    **dict.fromkeys(("m s-1", "m/s"), 1000 * SECONDS_PER_HOUR),
}
_AMOUNTS = {**dict.fromkeys(("mm", "kg m-2", "kg/m2"), 1.0), "m": 1000.0}

_RAIN_NAMES = frozenset(
    {
        "rainfall_rate",
        "rainfall_flux",
        "rainfall_amount",
        "precipitation_flux",
        "precipitation_amount",
        "convective_precipitation_rate",
        "lwe_precipitation_rate",
        "lwe_thickness_of_precipitation_amount",
        "thickness_of_rainfall_amount",
        "stratiform_precipitation_flux",
        "convective_precipitation_flux",
    }
)
_RAIN_WORDS = re.compile(r"rain|precip", re.IGNORECASE)
_KNOWN = "mm/h, mm h-1, kg m-2 h-1, mm/day, mm/s, kg m-2 s-1, m s-1, mm, kg m-2 or m"


@dataclass(frozen=True)
class Conversion:
    """The conversion of the numbers of a file to the result of `Frames.read`."""

    units: str  # "mm/h", "dBZ", or the unit in the file
    factor: float = 1.0  # for amounts, the factor to mm
    amount: bool = False  # a sum over a time step, which is also divided by its hours

    def scale(self, time_step: float) -> float:
        """Return the factor to the new unit; `time_step` is the period of an amount in seconds."""
        return self.factor * SECONDS_PER_HOUR / time_step if self.amount else self.factor


def find_conversion(
    variable: str, units: str | None, *, standard_name: str = "", long_name: str = "", from_caller: bool = False
) -> Conversion:
    """Return the conversion of a variable: rain to mm/h, reflectivity to dBZ, nothing for other variables.

    The CF standard name decides whether a variable is rain. Without one, a variable is rain if its name or
    long name has "rain" or "precip". It also is if its unit is one of rain only ("mm/h"), or the caller gives
    "mm". A standard name of rain with another unit is a `DataError`.
    """
    standard_name = "" if standard_name == "unknown" else standard_name.partition(" ")[0]
    unit = _normalised(units or "")
    if unit == "dbz" or (unit == "db" and standard_name == "equivalent_reflectivity_factor"):
        return Conversion(REFLECTIVITY)
    is_standard_rain = standard_name in _RAIN_NAMES
    if unit in _RATES and (is_standard_rain or not standard_name):
        return Conversion(RAIN_RATE, _RATES[unit])
    is_rain_by_words = not standard_name and bool(_RAIN_WORDS.search(f"{variable} {long_name}"))
    if unit in _RATES_OF_RAIN_ONLY and (is_standard_rain or is_rain_by_words):
        return Conversion(RAIN_RATE, _RATES_OF_RAIN_ONLY[unit])
    if unit in _AMOUNTS and (is_standard_rain or is_rain_by_words or (from_caller and not standard_name)):
        return Conversion(RAIN_RATE, _AMOUNTS[unit], amount=True)
    if is_standard_rain:
        raise DataError(
            f"units of {variable}",
            expected=f"a unit of rain ({_KNOWN})",
            received=repr(units) if units else "none",
            hint="Pass the unit, for example `units='mm'` for sums over one time step.",
        )
    return Conversion(units or "")


def mm_per_hour_to_dbz(rain: ArrayLike, *, a: float = 200.0, b: float = 1.6) -> Field:
    """Return the reflectivity in dBZ of a rain rate in mm/h, by Z = a·R^b.

    Args:
        rain: Rain rate in mm/h.
        a: Factor of the Z–R relation.
        b: Exponent of the Z–R relation.

    Returns:
        Reflectivity in dBZ, float32; −∞ without rain, NaN for NaN.

    Example:
        >>> mm_per_hour_to_dbz([1.0, 10.0]).round(4)
        array([23.0103, 39.0103], dtype=float32)
    """
    with np.errstate(divide="ignore"):
        log_rain = np.log10(np.maximum(np.asarray(rain, dtype=np.float32), np.float32(0)))
    return np.asarray(10 * np.log10(a) + 10 * b * log_rain, dtype=np.float32)


def dbz_to_mm_per_hour(dbz: ArrayLike, *, a: float = 200.0, b: float = 1.6) -> Field:
    """Return the rain rate in mm/h of a reflectivity in dBZ; the inverse of `mm_per_hour_to_dbz`.

    Args:
        dbz: Reflectivity in dBZ.
        a: Factor of the Z–R relation.
        b: Exponent of the Z–R relation.

    Returns:
        Rain rate in mm/h, float32; 0 at −∞, NaN for NaN.

    Example:
        >>> dbz_to_mm_per_hour([23.0103, float("-inf")]).round(4)
        array([1., 0.], dtype=float32)
    """
    log_rain = (np.asarray(dbz, dtype=np.float32) / 10 - np.log10(a)) / b
    return np.asarray(np.power(10, log_rain), dtype=np.float32)


def _normalised(units: str) -> str:
    """Return the normal spelling of a unit: 'mm hr**-1' and 'mm.h^-1' both become 'mm h-1'."""
    unit = re.sub(r"\*\*|\^", "", units.strip().lower())
    unit = re.sub(r"[.·*\s]+", " ", unit)
    unit = re.sub(r"\b(?:hours?|hrs?)(?=-|\b)", "h", unit)
    unit = re.sub(r"\b(?:seconds?|sec)(?=-|\b)", "s", unit)
    unit = re.sub(r"\b(?:millimet(?:er|re)s?)\b", "mm", unit)
    return re.sub(r"\s*/\s*", "/", unit).replace(" per ", "/")
