"""Checks of options, one line each."""

from __future__ import annotations

import math

from convlstm.errors import ConfigError


def require_finite(option: str, numbers: object) -> None:
    """Raise an error unless all values are finite numbers.

    Args:
        option: Name of the option.
        numbers: Its value, or a tuple of several.

    Raises:
        ConfigError: if a value is NaN, infinite, a bool or not a number.

    Example:
        >>> require_finite("floor", -3.5)
    """
    for value in numbers if isinstance(numbers, tuple) else (numbers,):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(option, expected="a finite number", received=repr(value), hint="Pass a finite number.")


def require_positive(option: str, numbers: float | tuple[float, ...]) -> None:
    """Raise an error unless all values are finite numbers above 0.

    Args:
        option: Name of the option.
        numbers: Its value, or a tuple of several.

    Raises:
        ConfigError: if a value is not.

    Example:
        >>> require_positive("scale", 10.0)
    """
    require_finite(option, numbers)
    for value in numbers if isinstance(numbers, tuple) else (numbers,):
        if value <= 0:
            raise ConfigError(option, expected="a number above 0", received=value, hint=f"Increase {option}.")


def require_count(option: str, value: int, *, least: int = 1) -> None:
    """Raise an error for an integer that is too small.

    Args:
        option: Name of the option.
        value: Its value.
        least: Minimum.

    Raises:
        ConfigError: if the value is below the minimum.

    Example:
        >>> require_count("batch_size", 8)
    """
    if value < least:
        raise ConfigError(option, expected=f"{least} or more", received=value, hint=f"Increase {option}.")
