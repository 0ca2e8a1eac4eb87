"""Packages that only some kinds of files need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from convlstm.errors import DependencyError, install


def load_package(name: str, extra: str, what: str) -> Any:
    """Return a module of an extra, or raise an error that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyError(
            what,
            expected=f"{name.partition('.')[0]} installed",
            received=f"no module {error.name!r}",
            hint=f"Run: {install(extra)}.",
        ) from error
