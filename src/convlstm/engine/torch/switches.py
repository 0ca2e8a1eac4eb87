"""Environment variables that switch an optional implementation off."""

from __future__ import annotations

import os

from convlstm.errors import ConfigError


def is_enabled(switch: str, implementation: str) -> bool:
    """Return whether an environment variable is unset or 1; 0 runs without the implementation."""
    value = os.environ.get(switch, "1")
    if value not in ("0", "1"):
        raise ConfigError(
            switch,
            expected="0 or 1",
            received=repr(value),
            hint=f"Set {switch}=0 to run without {implementation}, or unset it.",
        )
    return value == "1"
