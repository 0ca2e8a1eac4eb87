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

# Quantities of rain in mm, and periods in seconds, by their normal spelling (`_normalised`).
_QUANTITIES = {"mm": 1.0, "kg m-2": 1.0, "kg/m2": 1.0, "cm": 10.0, "m": 1000.0}
_LENGTHS = frozenset({"m", "cm"})  # of rain only where the variable is known to be rain: wind is in m s-1
_PERIODS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = re.compile(
    rf"(?P<quantity>{'|'.join(_QUANTITIES)})"
    r"(?P<slash>/|(?= ))\s*(?P<open>\()?\s*(?P<count>\d+)?\s*(?P<period>s|min|h|d)\s*(?P<close>\))?(?P<power>-1)?"
)

_RAIN_STANDARD_NAME = re.compile(
    r"(?!.*(probability|number_of|due_to))(\w+_)?(precipitation|rainfall)(_(amount|flux|rate))?"
)
# "rain" as a word or in totalRain, not in "terrain"; "precip", not in "precipitable water".
_RAIN_WORDS = re.compile(r"(?i:(?<![a-z])rain)|(?<=[a-z])Rain|(?i:precip(?!itable))")
_NOT_ONLY_RAIN = re.compile(r"water(?!.?equiv)|path|probab", re.IGNORECASE)  # of drops in a column, or a probability
_SHORT_RAIN_NAMES = re.compile(r"rr\d*h?|tp|pr|prcp|ppt|qpe|apcp", re.IGNORECASE)
# Units of a variable with rain in its name that is no rain, such as a probability, a temperature or a class.
_OTHER_UNITS = frozenset(
    {"%", "1", "percent", "k", "kelvin", "degc", "°c", "celsius", "degrees_celsius"}
    | {"flag", "code", "category", "db", "pa", "hpa", "kpa", "mbar", "dbar", "s"}
)
_LIKE_RAIN = re.compile(r"(mm|kg m-2|kg/m2)(?![a-z])")
_KNOWN = "mm/h, mm/day, mm (5min)-1, kg m-2 s-1, m s-1; mm, kg m-2 or m for sums over one time step"


@dataclass(frozen=True)
class Conversion:
    """The conversion of the numbers of a file to the result of `Frames.read`."""

    units: str  # "mm/h", "dBZ", or the unit in the file
    factor: float = 1.0  # for amounts, the factor to mm
    amount: bool = False  # a sum over a time step, which is also divided by its hours
    reflectivity: bool = False  # dBZ in the file, converted to mm/h by the Z–R relation
    source: str = ""  # unit in the file, or that of the caller
    reason: str = ""  # why the variable is rain or not

    def scale(self, time_step: float) -> float:
        """Return the factor to the new unit; `time_step` is the period of an amount in seconds."""
        return self.factor * SECONDS_PER_HOUR / time_step if self.amount else self.factor


@dataclass(frozen=True)
class _RainUnit:
    """A unit that rain can have."""

    factor: float  # to mm/h, or to mm for an amount
    amount: bool
    has_other_meanings: bool  # a flux of mass or a sum, which other quantities have too
    is_length: bool  # a length or speed, which most variables with such a unit have instead of rain


def find_conversion(
    variable: str,
    units: str | None,
    *,
    standard_name: str = "",
    long_name: str = "",
    from_caller: bool = False,
    rain: bool | None = None,
) -> Conversion:
    """Return the conversion of a variable: rain to mm/h, reflectivity to dBZ, nothing for other variables.

    `rain` decides whether the variable is rain; None follows the CF standard name. Without one, a variable is rain if
    its name or long name is one of rain ("rain", "precip", "rr", "tp"). It is rain too if its unit is one of rain only
    ("mm/h"), or if the caller gives its unit. A variable that may be rain, such as rain water, and rain without a unit
    of rain are a `DataError`.
    """
    standard_name = "" if standard_name == "unknown" else standard_name.partition(" ")[0]
    spelled = _normalised(units or "")
    if spelled == "dbz" or (spelled == "db" and standard_name == "equivalent_reflectivity_factor"):
        if rain:
            return Conversion(
                RAIN_RATE, reflectivity=True, source="dBZ", reason="rain by option, from dBZ with Z = 200 R^1.6"
            )
        return Conversion(REFLECTIVITY, source="dBZ", reason="reflectivity by its unit")
    unit = _rain_unit(spelled)
    reason = _reason(variable, spelled, unit, standard_name, long_name, from_caller) if rain is None else ""
    if rain is False or (rain is None and not reason.startswith("rain")):
        return Conversion(units or "", source=units or "", reason=reason or "no rain by option")
    if unit is None:
        raise DataError(
            f"units of {variable}",
            expected=f"a unit of rain ({_KNOWN})",
            received=repr(units) if units else "none",
            hint="Pass `--units`, for example `--units mm` (`units='mm'` in Python), or `--no-rain` if it is no rain.",
        )
    return Conversion(RAIN_RATE, unit.factor, amount=unit.amount, source=units or "", reason=reason or "rain by option")


def _reason(
    variable: str, spelled: str, unit: _RainUnit | None, standard_name: str, long_name: str, from_caller: bool
) -> str:
    """Return why a variable is rain or not, as a text that starts with "rain" or "no rain"."""
    if standard_name:
        is_rain = _RAIN_STANDARD_NAME.fullmatch(standard_name) is not None
        return f"{'rain' if is_rain else 'no rain'} by its standard name {standard_name}"
    words = f"{variable} {long_name}"
    named = _SHORT_RAIN_NAMES.fullmatch(variable) or _RAIN_WORDS.search(words)
    if named and spelled not in _OTHER_UNITS:
        if not _NOT_ONLY_RAIN.search(words):
            return "rain by its name"
        if unit is None or unit.is_length:
            raise _ambiguous(variable, f"{spelled!r} and the name {words.strip()[:60]!r}")
    return _reason_of_unit(variable, spelled, unit, from_caller)


def _reason_of_unit(variable: str, spelled: str, unit: _RainUnit | None, from_caller: bool) -> str:
    """Return why a variable is rain or not, by its unit alone."""
    if unit is None and not _LIKE_RAIN.match(spelled):
        return "no rain by its unit" if spelled else "no rain: it has no unit, standard name or name of rain"
    if unit is not None and unit.is_length and not (from_caller and unit.amount):
        return "no rain by its unit"
    if unit is not None and not unit.has_other_meanings:
        return "rain by its unit"
    if unit is not None and from_caller and not unit.is_length:
        return "rain by its unit, an option"
    raise _ambiguous(variable, f"{spelled!r}, which other quantities have too")


def _ambiguous(variable: str, received: str) -> DataError:
    return DataError(
        f"units of {variable}",
        expected="a unit, name or standard name that shows whether it is rain",
        received=received,
        hint="Pass `--rain` if it is rain, else `--no-rain` (`rain=True` or `rain=False` in Python).",
    )


def _rain_unit(spelled: str) -> _RainUnit | None:
    """Return the unit of a normal spelling, or None if rain cannot have it."""
    if spelled in _QUANTITIES:
        return _RainUnit(_QUANTITIES[spelled], True, True, spelled in _LENGTHS)
    spelled = re.sub(r"^kg/\(?m2 ?s\)?$|^kg/m2/s$", "kg m-2 s-1", spelled)
    match = _RATE.fullmatch(spelled)
    if match is None or bool(match["slash"]) == bool(match["power"]) or bool(match["open"]) != bool(match["close"]):
        return None
    seconds = int(match["count"] or 1) * _PERIODS[match["period"]]
    if not seconds:
        return None
    quantity = match["quantity"]
    is_flux = quantity.startswith("kg") and match["period"] == "s"
    return _RainUnit(_QUANTITIES[quantity] * SECONDS_PER_HOUR / seconds, False, is_flux, quantity in _LENGTHS)


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
    for words, symbol in (
        ("hours?|hrs?", "h"),
        ("minutes?|mins", "min"),
        ("seconds?|sec", "s"),
        ("days?", "d"),
        ("millimet(?:er|re)s?", "mm"),
        ("centimet(?:er|re)s?", "cm"),
        ("met(?:er|re)s?", "m"),
    ):
        unit = re.sub(rf"(?<![a-z])(?:{words})(?![a-z])", symbol, unit)
    return re.sub(r"\s*/\s*", "/", unit.replace(" per ", "/"))
