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

# Accepted spellings, normalised by `_plain`, with the factor to mm/h.
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
    """The conversion of the numbers of a file to the result of `Frames.read`.

    Args:
        units: The resulting unit: "mm/h", "dBZ", or the unit in the file.
        factor: Factor on the numbers; for amounts, the factor to mm.
        amount: Whether they are sums over a time step, which are also divided by its hours.

    Example:
        >>> Conversion("mm/h", 1.0, amount=True).scale(time_step=300)
        12.0
    """

    units: str
    factor: float = 1.0
    amount: bool = False

    def scale(self, time_step: float) -> float:
        """Return the factor to the new unit.

        Args:
            time_step: Period of an amount in seconds.

        Returns:
            The number to multiply by.

        Example:
            >>> Conversion("K").scale(time_step=86400)
            1.0
        """
        return self.factor * SECONDS_PER_HOUR / time_step if self.amount else self.factor


def find_conversion(
    variable: str, units: str | None, *, standard_name: str = "", long_name: str = "", told: bool = False
) -> Conversion:
    """Return the conversion of a variable: rain to mm/h, reflectivity to dBZ, nothing for other variables.

    The CF standard name decides whether a variable is rain. Without a standard name, a variable is rain if its name
    or long name has "rain" or "precip", if its unit is one of rain only ("mm/h"), or if the caller gives "mm".

    Args:
        variable: Name of the variable.
        units: Its unit from the file or the caller; None or "" without one.
        standard_name: Its CF standard name.
        long_name: Its long name.
        told: Whether the unit is from the caller.

    Returns:
        The conversion.

    Raises:
        DataError: if the standard name says rain but the unit is not a unit of rain.

    Example:
        >>> find_conversion("rainfall_amount", "mm", standard_name="rainfall_amount")
        Conversion(units='mm/h', factor=1.0, amount=True)
        >>> find_conversion("air", "K")
        Conversion(units='K', factor=1.0, amount=False)
    """
    standard_name = "" if standard_name == "unknown" else standard_name.partition(" ")[0]
    plain = _plain(units or "")
    if plain == "dbz" or (plain == "db" and standard_name == "equivalent_reflectivity_factor"):
        return Conversion(REFLECTIVITY)
    named_rain = standard_name in _RAIN_NAMES
    if plain in _RATES and (named_rain or not standard_name):
        return Conversion(RAIN_RATE, _RATES[plain])
    hinted = not standard_name and bool(_RAIN_WORDS.search(f"{variable} {long_name}"))
    if plain in _RATES_OF_RAIN_ONLY and (named_rain or hinted):
        return Conversion(RAIN_RATE, _RATES_OF_RAIN_ONLY[plain])
    if plain in _AMOUNTS and (named_rain or hinted or (told and not standard_name)):
        return Conversion(RAIN_RATE, _AMOUNTS[plain], amount=True)
    if named_rain:
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


def _plain(units: str) -> str:
    """Return the normal spelling of a unit: 'mm hr**-1' and 'mm.h^-1' both become 'mm h-1'."""
    plain = re.sub(r"\*\*|\^", "", units.strip().lower())
    plain = re.sub(r"[.·*\s]+", " ", plain)
    plain = re.sub(r"\b(?:hours?|hrs?)(?=-|\b)", "h", plain)
    plain = re.sub(r"\b(?:seconds?|sec)(?=-|\b)", "s", plain)
    plain = re.sub(r"\b(?:millimet(?:er|re)s?)\b", "mm", plain)
    return re.sub(r"\s*/\s*", "/", plain).replace(" per ", "/")
