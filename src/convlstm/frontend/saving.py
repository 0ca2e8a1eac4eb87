"""Checks of the arguments of `save`, `to_canonical` and `load_canonical`, for every framework."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

from convlstm.errors import WeightsError
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec


def has_spec(module: object) -> bool:
    """Return whether a module was built from a spec."""
    return isinstance(getattr(module, "spec", None), (ConvLSTMSpec, ForecasterSpec))


def check_path(path: object, module: object) -> None:
    """Raise an error for a path that is not one, as in a call with the order of `torch.save`."""
    if isinstance(path, (str, PathLike)):
        return
    swapped = isinstance(module, (str, PathLike))
    raise WeightsError(
        "path",
        expected="a file name",
        received=type(path).__name__,
        hint="Swap the arguments: `save(path, module)`." if swapped else "Pass the file name first.",
    )


def check_module(module: object, parts: Iterable[tuple[str, Any]], *, package: str, save_all: str) -> None:
    """Raise an error for a module without a spec; the hint names the first of its parts that has one.

    Args:
        module: The argument of `save`, `to_canonical` or `load_canonical`.
        parts: Expressions of the modules in `module`, outer ones first, and these modules.
        package: The package of the framework's layers, for the hint.
        save_all: The call that saves any module of the framework.
    """
    if has_spec(module):
        return
    inside = [expression for expression, part in parts if has_spec(part)]
    hint = f"Pass a layer, cell or forecaster of `{package}`."
    if inside:
        hint = f"Pass the part `{inside[0]}`. To save all of it, call `{save_all}`."
    raise WeightsError(
        "module",
        expected=f"a layer, cell or forecaster of {package}",
        received=type(module).__name__,
        hint=hint,
    )


def expression_of(path: Sequence[str | int]) -> str:
    """Return the expression of a part of `module`: `module.layers[0]` for ("layers", 0).

    Example:
        >>> expression_of("encoder.layers.0".split("."))
        'module.encoder.layers[0]'
    """
    return "module" + "".join(f"[{name}]" if str(name).isdigit() else f".{name}" for name in path)
