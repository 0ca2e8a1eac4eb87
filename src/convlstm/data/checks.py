"""Checks of options, one line each."""

from __future__ import annotations

import math

from convlstm.errors import ConfigError


def require_finite(option: str, numbers: object) -> None:
    """Raise a `ConfigError` unless the value, or each of a tuple, is a finite number."""
    for value in numbers if isinstance(numbers, tuple) else (numbers,):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(option, expected="a finite number", received=repr(value), hint="Pass a finite number.")


def require_positive(option: str, numbers: float | tuple[float, ...]) -> None:
    """Raise a `ConfigError` unless the value, or each of a tuple, is a finite number above 0."""
    require_finite(option, numbers)
    for value in numbers if isinstance(numbers, tuple) else (numbers,):
        if value <= 0:
            raise ConfigError(option, expected="a number above 0", received=value, hint=f"Increase {option}.")


def require_count(option: str, value: int, *, least: int = 1) -> None:
    """Raise a `ConfigError` for an integer below the minimum."""
    if value < least:
        raise ConfigError(option, expected=f"{least} or more", received=value, hint=f"Increase {option}.")
