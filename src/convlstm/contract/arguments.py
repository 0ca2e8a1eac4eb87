"""Reading loosely written options into one strict form.

A tuple speaks of spatial axes, a list of layers: `kernel_size=[(3, 3), 5]` is 3×3 in the first layer and
5×5 in the second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

from convlstm.errors import SpecError

MAX_LAYERS = 1000
"""More layers than any model has: a file that asks for a thousand million is refused before they are listed."""


def integer(name: str, value: object, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`, or raise SpecError."""
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum:
        return int(value)
    raise SpecError(
        name, expected=f"an integer of at least {minimum}", received=repr(value), mend="give a whole number."
    )


def number(name: str, value: object, minimum: float, maximum: float = float("inf")) -> float:
    """Return `value` as a finite float between `minimum` and `maximum`, or raise SpecError."""
    if isinstance(value, Real) and not isinstance(value, bool):
        result = _float(value)
        if isfinite(result) and minimum <= result <= maximum:
            return result
    bound = f"at least {minimum:g}" if maximum == float("inf") else f"from {minimum:g} to {maximum:g}"
    raise SpecError(name, expected=f"a finite number {bound}", received=repr(value), mend="give such a number.")


def rate(name: str, value: object) -> float:
    """Return a dropout or zoneout rate: at least 0 and below 1."""
    result = number(name, value, 0.0, 1.0)
    if result < 1.0:
        return result
    raise SpecError(
        name,
        expected="a rate from 0 to below 1",
        received=repr(value),
        mend="a rate of 1 would drop everything.",
    )


def flag(name: str, value: object) -> bool:
    """Return a true bool, or raise SpecError: 1 and "yes" are refused."""
    if isinstance(value, bool):
        return value
    raise SpecError(name, expected="True or False", received=repr(value), mend="give a bool.")


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of the `allowed` words, or raise SpecError that lists them."""
    if isinstance(value, str) and value in allowed:
        return value
    raise SpecError(
        name, expected=f"one of {', '.join(allowed)}", received=repr(value), mend="choose one of these words."
    )


def per_axis(name: str, value: object, rank: int, minimum: int) -> tuple[int, ...]:
    """Return one integer per spatial axis; a single integer stands for all axes."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return (integer(name, value, minimum),) * rank
    if isinstance(value, (tuple, list)) and len(value) == rank:
        return tuple(integer(name, item, minimum) for item in value)
    raise SpecError(
        name,
        expected=f"an integer or {rank} of them, one per spatial axis",
        received=repr(value),
        mend="give a tuple of the right length; a list would speak of layers.",
    )


def per_layer(name: str, value: object, num_layers: int) -> list[object]:
    """Return one item per layer; anything but a list (or an already strict tuple) stands for every layer."""
    if not _speaks_of_layers(name, value):
        return [value] * num_layers
    assert isinstance(value, (list, tuple))
    if len(value) == num_layers:
        return list(value)
    raise SpecError(
        name,
        expected=f"one value or a list of {num_layers}, one per layer",
        received=f"{len(value)} of them",
        mend="make the list as long as num_layers.",
    )


def layer_count(num_layers: object, options: dict[str, object]) -> int:
    """Return the number of layers: as given, or the length of the first per-layer list, or 1."""
    for name, value in options.items():
        # a tuple of words may be meant for axes: it never makes layers
        words = name == "padding" and isinstance(value, tuple)
        if num_layers is None and isinstance(value, (list, tuple)) and _speaks_of_layers(name, value) and not words:
            num_layers = len(value)
    count = integer("num_layers", 1 if num_layers is None else num_layers, 1)
    if count > MAX_LAYERS:
        raise SpecError("num_layers", expected=f"at most {MAX_LAYERS}", received=count, mend="use fewer layers.")
    return count


def _float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits, as JSON may hold
        return inf


def _speaks_of_layers(name: str, value: object) -> bool:
    if isinstance(value, tuple):  # the strict form that a spec itself holds
        return name in ("hidden_channels", "groups") or any(isinstance(item, (tuple, str)) for item in value)
    return isinstance(value, list)


def check_keys(argument: str, options: object, cls: type[Any]) -> None:
    """Refuse a mapping whose keys are not exactly a dataclass's fields (those with defaults may be left out).

    Args:
        argument: Name to put in the error.
        options: What was read from a file.
        cls: The dataclass to be built from it.

    Raises:
        SpecError: naming the first key at fault.

    Example:
        >>> from convlstm.contract.spec import ConvLSTMSpec
        >>> check_keys("spec", {"in_channels": 1, "hidden_channels": 2, "kernel_size": 3}, ConvLSTMSpec)
    """
    if not isinstance(options, dict):
        raise SpecError(
            argument, expected="a mapping of options", received=type(options).__name__, mend="see the docs."
        )
    names = [item.name for item in fields(cls)]
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise SpecError(
            argument,
            expected=f"options among {', '.join(names)}",
            received=repr(unknown[0]),
            mend="remove it.",
        )
    for item in fields(cls):
        if item.default is MISSING and item.name not in options:
            raise SpecError(argument, expected=f"the option {item.name!r}", received="none", mend="add it.")


def check_options(
    options: Mapping[str, object], known: Collection[str], whole: str = "see ConvLSTMSpec for all of them."
) -> None:
    """Refuse a keyword that no option has, with the nearest that one has.

    Args:
        options: Keywords as they were given.
        known: Names of the options.
        whole: What to do where none is near.

    Raises:
        SpecError: naming the first unknown keyword.

    Example:
        >>> check_options({"peephole": "channel"}, ["peephole", "norm"])
    """
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise SpecError(
                name,
                expected="an option of the layer",
                received="a keyword that it does not have",
                mend=f"perhaps {near[0]} is meant." if near else whole,
            )
