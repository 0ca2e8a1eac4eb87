"""Parse options into one normalised form.

An option takes one value, one per spatial axis, one per layer, or one per layer and axis. `kernel_size=(3, 5)` is 3×5
in every layer; `kernel_size=[(3, 3), 5]` is 3×3 in the first layer and 5×5 in the second. JSON and YAML have no
tuples, so a list of numbers is also read per axis; if its length fits both the axes and the layers, it is an error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any

from convlstm.errors import SpecError
from convlstm.spec.choices import FOREIGN_NAMES, FOREIGN_OPTIONS

MAX_LAYERS = 1000
"""Limit on the number of layers, checked before a list of them is built."""

MAX_ITEMS = 1000
"""Limit on the length of a list of thresholds or widths."""

MAX_SPAN = 2**15
"""Limit on the points of an axis that a dilated kernel, a padding or a stride spans."""

TINY = 1e-300
"""Minimum of a number that must be above 0."""


def integer(name: str, value: object, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`, or raise SpecError."""
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum:
        return int(value)
    raise SpecError(
        name, expected=f"an integer of at least {minimum}", received=repr(value), hint=_integer_hint(value, minimum)
    )


def _integer_hint(value: object, minimum: int) -> str:
    if isinstance(value, float) and value.is_integer() and value >= minimum:
        return f"Pass the integer {int(value)}."
    return f"Pass an integer of at least {minimum}."


def number(name: str, value: object, minimum: float, maximum: float = inf) -> float:
    """Return `value` as a finite float between `minimum` and `maximum`, or raise SpecError."""
    if isinstance(value, Real) and not isinstance(value, bool):
        result = _float(value)
        if isfinite(result) and minimum <= result <= maximum:
            return result
    if minimum == -inf:
        allowed = "a finite number"
    elif maximum == inf:
        allowed = "a finite number above 0" if minimum == TINY else f"a finite number of at least {minimum:g}"
    else:
        allowed = f"a finite number from {minimum:g} to {maximum:g}"
    raise SpecError(name, expected=allowed, received=repr(value), hint=f"Pass {allowed}.")


def rate(name: str, value: object) -> float:
    """Return a dropout or zoneout rate: at least 0 and below 1."""
    if isinstance(value, Real) and not isinstance(value, bool):
        result = _float(value)
        if 0.0 <= result < 1.0:
            return result
    raise SpecError(
        name,
        expected="a number of at least 0 and below 1",
        received=repr(value),
        hint=f"Pass a rate such as `{name}=0.1`.",
    )


def increasing(name: str, value: object) -> tuple[float, ...]:
    """Return a list of finite numbers that increase, possibly empty, as a tuple of floats."""
    check_length(name, value)
    if isinstance(value, (tuple, list)) and all(isinstance(v, Real) and not isinstance(v, bool) for v in value):
        numbers = tuple(_float(v) for v in value)
        if all(isfinite(v) for v in numbers) and list(numbers) == sorted(set(numbers)):
            return numbers
    raise SpecError(
        name,
        expected="finite numbers that increase",
        received=repr(value),
        hint=f"Pass a list such as `{name}=[0.1, 1, 5]`.",
    )


def check_length(name: str, value: object) -> None:
    """Raise SpecError for a list of more than `MAX_ITEMS`, which a model file can hold."""
    if isinstance(value, (tuple, list)) and len(value) > MAX_ITEMS:
        raise SpecError(name, expected=f"at most {MAX_ITEMS} items", received=len(value), hint="Use fewer items.")


def flag(name: str, value: object) -> bool:
    """Return `value` if it is a bool, or raise SpecError (also for 1 and "yes")."""
    if isinstance(value, bool):
        return value
    raise SpecError(name, expected="True or False", received=repr(value), hint=f"Pass `{name}=True` or `{name}=False`.")


def choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of the `allowed` strings, or raise SpecError that lists them."""
    if isinstance(value, str) and value in allowed:
        return value
    similar = get_close_matches(str(value).lower(), allowed, n=1)
    hint = f"Pass {similar[0]!r}." if similar else f"Pass one of the listed values, such as {allowed[0]!r}."
    raise SpecError(name, expected=f"one of {', '.join(allowed)}", received=repr(value), hint=hint)


def per_axis(name: str, value: object, rank: int, minimum: int) -> tuple[int, ...]:
    """Return one integer per spatial axis; a single integer applies to all axes."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return (integer(name, value, minimum),) * rank
    if isinstance(value, (tuple, list)) and len(value) == rank:
        return tuple(integer(name, item, minimum) for item in value)
    raise SpecError(
        name,
        expected=f"an integer, or {rank} integers, one per spatial axis",
        received=repr(value),
        hint=f"Pass one integer for all axes, or a tuple of {rank} integers.",
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
        hint=f"Pass `num_layers={len(value)}`, or one value per layer.",
    )


def per_layer_and_axis(name: str, value: object, num_layers: int, rank: int) -> list[object]:
    """Return one item per layer, each a string, an integer or one integer per spatial axis.

    A list of numbers is read per axis if its length fits the spatial axes only, and per layer if it fits the layers
    only. A list that fits both is an error, unless all its numbers are equal or there is one layer.

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
            received=f"{value!r}, which can mean either",
            hint=f"Pass {axes} for values per axis, or {layers} for values per layer.",
        )
    if fits_layers:
        return list(value)
    raise SpecError(
        name,
        expected=f"one value, {rank} values (one per spatial axis), or {num_layers} (one per layer)",
        received=repr(value),
        hint=f"Pass `num_layers={len(value)}` too if these are values per layer.",
    )


def layer_count(num_layers: object, hidden_channels: object) -> int:
    """Return the number of layers: `num_layers`, or the length of a list of hidden channels, or 1."""
    if num_layers is None:
        num_layers = len(hidden_channels) if isinstance(hidden_channels, (list, tuple)) else 1
    count = integer("num_layers", num_layers, 1)
    if count > MAX_LAYERS:
        raise SpecError("num_layers", expected=f"at most {MAX_LAYERS}", received=count, hint="Use fewer layers.")
    return count


def spatial_dims(dims: object, kernel_size: object, num_layers: int) -> int:
    """Return the number of spatial axes: `dims`, or the length of a kernel of 1 to 3 numbers, or 2.

    A list of 2 or 3 numbers is a kernel only if there is one layer.
    """
    if dims is not None:
        rank = integer("spatial_dims", dims, 1)
        if rank > 3:
            raise SpecError(
                "spatial_dims", expected="1, 2 or 3", received=rank, hint="Pass `spatial_dims=2` for images."
            )
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
    except OverflowError:  # an integer of hundreds of digits, which JSON allows
        return inf


def check_keys(argument: str, options: object, cls: type[Any]) -> None:
    """Raise SpecError unless the keys of a mapping are a dataclass's fields; those with defaults may be missing."""
    if not isinstance(options, dict):
        raise SpecError(
            argument,
            expected="a mapping of options",
            received=type(options).__name__,
            hint=f"Pass the result of `{cls.__name__}.to_dict`.",
        )
    names = [item.name for item in fields(cls)]
    unknown = sorted(set(options) - set(names))
    if unknown:
        raise SpecError(
            argument,
            expected=f"options among {', '.join(names)}",
            received=repr(unknown[0]),
            hint=f"Remove {unknown[0]!r}.",
        )
    for item in fields(cls):
        if item.default is MISSING and item.name not in options:
            raise SpecError(argument, expected=f"the option {item.name!r}", received="none", hint=f"Add {item.name!r}.")


def check_options(options: Mapping[str, object], known: Collection[str], fallback: str | None = None) -> None:
    """Raise SpecError for a keyword that is not an option, with a hint at the right name.

    `fallback` is the hint for a keyword that resembles no option; None for the options of a layer.
    """
    for name in options:
        if name not in known:
            raise SpecError(
                name,
                expected="an option of the layer",
                received="an unknown keyword",
                hint=_keyword_hint(name, known, fallback),
            )


def _keyword_hint(name: str, known: Collection[str], fallback: str | None) -> str:
    """Return the hint for an unknown keyword: the name of the same option here, a similar name, or the fallback."""
    same = [option for option in FOREIGN_NAMES.get(name, ()) if option in known]
    if not same and fallback is None and "filters" not in known:  # the names of ConvLSTMSpec, not those of Keras
        if name in FOREIGN_OPTIONS:
            return FOREIGN_OPTIONS[name]
        same = list(FOREIGN_NAMES.get(name, ()))[-1:]
    similar = same or get_close_matches(name, known, n=1, cutoff=0.85)
    if similar:
        return f"Use `{similar[0]}`."
    return fallback or "List all options with `help(convlstm.ConvLSTMSpec)`."
