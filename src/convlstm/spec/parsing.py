"""Reading loosely written options into one strict form.

A value may be given once for all, per spatial axis, per layer, or both: `kernel_size=(3, 5)` is 3×5 in every layer,
`kernel_size=[(3, 3), 5]` is 3×3 in the first layer and 5×5 in the second. JSON and YAML have no tuples, so a list of
numbers is also read per axis; where its length fits axes and layers alike, it is refused.
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
        name, expected=f"an integer of at least {minimum}", received=repr(value), hint="give a whole number."
    )


def number(name: str, value: object, minimum: float, maximum: float = float("inf")) -> float:
    """Return `value` as a finite float between `minimum` and `maximum`, or raise SpecError."""
    if isinstance(value, Real) and not isinstance(value, bool):
        result = _float(value)
        if isfinite(result) and minimum <= result <= maximum:
            return result
    bound = f"at least {minimum:g}" if maximum == float("inf") else f"from {minimum:g} to {maximum:g}"
    raise SpecError(name, expected=f"a finite number {bound}", received=repr(value), hint="give such a number.")


def rate(name: str, value: object) -> float:
    """Return a dropout or zoneout rate: at least 0 and below 1."""
    result = number(name, value, 0.0, 1.0)
    if result < 1.0:
        return result
    raise SpecError(
        name,
        expected="a rate from 0 to below 1",
        received=repr(value),
        hint="a rate of 1 would drop everything.",
    )


def flag(name: str, value: object) -> bool:
    """Return a true bool, or raise SpecError: 1 and "yes" are refused."""
    if isinstance(value, bool):
        return value
    raise SpecError(name, expected="True or False", received=repr(value), hint="give a bool.")


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of the `allowed` words, or raise SpecError that lists them."""
    if isinstance(value, str) and value in allowed:
        return value
    raise SpecError(
        name, expected=f"one of {', '.join(allowed)}", received=repr(value), hint="choose one of these words."
    )


def per_axis(name: str, value: object, rank: int, minimum: int) -> tuple[int, ...]:
    """Return one integer per spatial axis; a single integer applies to all axes."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return (integer(name, value, minimum),) * rank
    if isinstance(value, (tuple, list)) and len(value) == rank:
        return tuple(integer(name, item, minimum) for item in value)
    raise SpecError(
        name,
        expected=f"an integer, or {rank} of them, one per spatial axis",
        received=repr(value),
        hint=f"pass one integer for all axes or a tuple of {rank}.",
    )


def per_layer(name: str, value: object, num_layers: int) -> list[object]:
    """Return one item per layer; anything but a list or tuple applies to every layer."""
    if not isinstance(value, (list, tuple)):
        return [value] * num_layers
    if len(value) == num_layers:
        return list(value)
    raise SpecError(
        name,
        expected=f"one value, or a list of {num_layers}, one per layer",
        received=repr(value),
        hint=f"pass num_layers={len(value)}, or one value per layer.",
    )


def per_layer_and_axis(name: str, value: object, num_layers: int, rank: int) -> list[object]:
    """Return one item per layer, each a string, an integer or one integer per spatial axis.

    A list of numbers whose length fits the spatial axes alone is read per axis, one that fits the layers alone per
    layer. One that fits both is refused, unless all its numbers are equal or there is one layer.

    Args:
        name: Name of the option.
        value: One value, a tuple or list per axis, or a list per layer of any of these.
        num_layers: Number of layers.
        rank: Number of spatial axes.

    Returns:
        One item per layer.

    Raises:
        SpecError: for a list that fits neither, or both.

    Example:
        >>> per_layer_and_axis("kernel_size", [3, 5], 1, 2)
        [(3, 5)]
        >>> per_layer_and_axis("kernel_size", [3, 5, 5], 3, 2)
        [3, 5, 5]
    """
    if not isinstance(value, (list, tuple)):
        return [value] * num_layers
    if any(isinstance(item, (list, tuple, str)) for item in value):
        return per_layer(name, value, num_layers)
    fits_axes, fits_layers = len(value) == rank, len(value) == num_layers
    if isinstance(value, tuple) or (fits_axes and not fits_layers) or (fits_axes and num_layers == 1):
        return [tuple(value)] * num_layers
    if fits_axes and fits_layers and any(item != value[0] for item in value):
        axes, layers = [list(value)] * num_layers, [[item] * rank for item in value]
        raise SpecError(
            name,
            expected="values per spatial axis or per layer",
            received=f"{value!r}, which can be read as either",
            hint=f"pass {axes} for values per axis, or {layers} for values per layer.",
        )
    if fits_layers:
        return list(value)
    raise SpecError(
        name,
        expected=f"one value, {rank} of them (one per spatial axis), or {num_layers} (one per layer)",
        received=repr(value),
        hint=f"pass one of these, or num_layers={len(value)} if there are as many layers.",
    )


def layer_count(num_layers: object, hidden_channels: object) -> int:
    """Return the number of layers: `num_layers`, or the length of a list of hidden channels, or 1."""
    if num_layers is None:
        num_layers = len(hidden_channels) if isinstance(hidden_channels, (list, tuple)) else 1
    count = integer("num_layers", num_layers, 1)
    if count > MAX_LAYERS:
        raise SpecError("num_layers", expected=f"at most {MAX_LAYERS}", received=count, hint="use fewer layers.")
    return count


def spatial_dims(dims: object, kernel_size: object, num_layers: int) -> int:
    """Return the number of spatial axes: as given, or as a kernel of 1 to 3 numbers has, or 2.

    Args:
        dims: The option `spatial_dims`, or None.
        kernel_size: The option `kernel_size`. A list of numbers counts only if there is one layer and it has 2 or 3.
        num_layers: Number of layers.

    Returns:
        1, 2 or 3.

    Raises:
        SpecError: for a given number out of this range.

    Example:
        >>> spatial_dims(None, (3, 3, 3), 1), spatial_dims(None, [(3,), (5,)], 2), spatial_dims(None, 3, 1)
        (3, 1, 2)
    """
    if dims is not None:
        rank = integer("spatial_dims", dims, 1)
        if rank > 3:
            raise SpecError("spatial_dims", expected="1, 2 or 3", received=rank, hint="choose one of these.")
        return rank
    if isinstance(kernel_size, (list, tuple)):
        nested = [item for item in kernel_size if isinstance(item, (list, tuple))]
        kernel = nested[0] if nested else kernel_size
        is_per_axis = bool(nested) or isinstance(kernel, tuple) or (num_layers == 1 and len(kernel) > 1)
        if is_per_axis and len(kernel) in (1, 2, 3):
            return len(kernel)
    return 2


def _float(value: Real) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits, as JSON may hold
        return inf


def check_keys(argument: str, options: object, cls: type[Any]) -> None:
    """Refuse a mapping whose keys are not exactly a dataclass's fields (those with defaults may be left out).

    Args:
        argument: Name to put in the error.
        options: What was read from a file.
        cls: The dataclass to be built from it.

    Raises:
        SpecError: naming the first key at fault.

    Example:
        >>> from convlstm.spec.stack import ConvLSTMSpec
        >>> check_keys("spec", {"in_channels": 1, "hidden_channels": 2, "kernel_size": 3}, ConvLSTMSpec)
    """
    if not isinstance(options, dict):
        raise SpecError(
            argument, expected="a mapping of options", received=type(options).__name__, hint="see the docs."
        )
    names = [item.name for item in fields(cls)]
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise SpecError(
            argument,
            expected=f"options among {', '.join(names)}",
            received=repr(unknown[0]),
            hint="remove it.",
        )
    for item in fields(cls):
        if item.default is MISSING and item.name not in options:
            raise SpecError(argument, expected=f"the option {item.name!r}", received="none", hint="add it.")


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
                hint=f"perhaps {near[0]} is meant." if near else whole,
            )
