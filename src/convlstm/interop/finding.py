"""Find the arrays of each ConvLSTM layer in a foreign file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from convlstm.errors import WeightsError
from convlstm.interop.layout import ANY_PATH, Layout
from convlstm.spec.types import Array

Parts = dict[str, str]
"""From the name of an array within a layer to its full name in the file."""
Layer = dict[str, str]
"""From a direction to the path of its arrays."""

_FORWARD = re.compile(r"(^|\.)forward(?=[_.]|$)")
_LISTED = 8


def flatten(arrays: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    """Return a tree of arrays as NumPy arrays by dotted name; a slash within a name counts as a dot."""
    flat: dict[str, Array] = {}
    for name, value in arrays.items():
        key = prefix + str(name).replace("/", ".")
        flat |= flatten(value, f"{key}.") if isinstance(value, Mapping) else {key: np.asarray(value)}
    return flat


def named(layout: Layout, arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Return a tree of arrays by dotted name, each under the foreign layer's own name."""
    return {layout.layer_name(key): array for key, array in flatten(arrays).items()}


def find(layout: Layout, flat: Mapping[str, Array], *, anywhere: bool = False) -> dict[str, Parts]:
    """Return the names of the arrays of each layer of this layout by its path, in natural order (2 before 10).

    With `anywhere` a path may be any, so that some other convolution may be among the layers. Shapes that do not fit
    exclude a path, unless the path alone shows the layout: reading such a layer raises an error.
    """
    places: dict[str, Parts] = {}
    for key in flat:
        for part in layout.known:
            if key == part or key.endswith(f".{part}"):
                places.setdefault(key[: -len(part)].rstrip("."), {})[part] = key
    complete = {
        place: parts
        for place, parts in places.items()
        if (anywhere or is_certain(layout, place)) and _has_kernels(layout, parts, flat)
    }
    layers = {
        place: parts for place, parts in complete.items() if _is_telling(layout, place) or fits(layout, parts, flat)
    }
    return dict(sorted(layers.items(), key=lambda item: _natural(item[0])))


def is_certain(layout: Layout, place: str) -> bool:
    """Return whether the path shows a layer of this layout; otherwise a user has to name it."""
    return re.fullmatch(layout.within, place) is not None


def _is_telling(layout: Layout, place: str) -> bool:
    """Return whether the path alone shows the layout; the top level does not, nor does any path of some layouts."""
    return bool(place) and layout.within != ANY_PATH and is_certain(layout, place)


def _has_kernels(layout: Layout, parts: Parts, flat: Mapping[str, Array]) -> bool:
    """Return whether all kernels are there; a dense LSTM may use the same names for matrices."""
    kernels = [part for name in layout.kernels for part in layout.parts(name)]
    return all(part in parts and flat[parts[part]].ndim > 2 for part in kernels)


def fits(layout: Layout, parts: Parts, flat: Mapping[str, Array]) -> bool:
    """Return whether the shapes can be those of a layer of this layout, for layouts with one kernel over [x; h].

    That kernel has four gates, and more input channels than h. A normalisation has a scale and a bias for each row, and
    whole groups. The module around it has no further arrays, such as running statistics or a second convolution.
    """
    if len(layout.kernels) > 1:
        return True
    rows, columns = (flat[parts[layout.kernels[0]]].shape[axis] for axis in layout.axes)
    has_gates = rows % 4 == 0 and columns > rows // 4
    if not layout.norm_scale:
        return bool(has_gates)
    scales = (layout.norm_scale, *layout.biases)
    has_scales = all(part in parts and flat[parts[part]].shape == (rows,) for part in scales)
    if not has_scales:
        return False
    module = parts[layout.norm_scale].rsplit(".", 2)[0]
    is_alone = all(key in parts.values() for key in flat if key.startswith(f"{module}."))
    return bool(has_gates and rows % layout.norm_channels == 0 and is_alone)


def choose(
    layout: Layout, flat: Mapping[str, Array], parts_by_path: Mapping[str, Parts], names: Sequence[str]
) -> list[Layer]:
    """Return the path of each layer to read by direction, first to last.

    `names` are parts of paths, in order; none reads all layers, and raises WeightsError if their order is ambiguous.
    A layer that only its shapes show is read if it is named.
    """
    certain = {place: parts for place, parts in parts_by_path.items() if is_certain(layout, place)}
    layers, every = (pair_directions(layout, places) for places in (certain, parts_by_path))
    if not (every if names else layers):
        raise WeightsError(
            layout.name,
            expected=f"a layer of {layout.source}",
            received=listed(sorted(flat)) or "no array at all",
            hint="Pass the arrays of such a layer under their original names.",
        )
    others = left_out(flat, certain)
    if not names:
        _check_one_stack(layout, layers, others)
        return layers
    chosen: list[Layer] = []
    for name in names:
        matches = _named(name, layers) or _named(name, every) or _unknown(name, every)
        _check_one_stack(layout, matches, [key for key in others if _is_named(key, name)])
        chosen += matches
    return chosen


def _check_one_stack(layout: Layout, layers: Sequence[Layer], others: Sequence[str]) -> None:
    """Raise an error for layers that may not follow one another; `others` are arrays that may lie between them."""
    paths = [layer["forward"] for layer in layers]
    is_one_object = layout.one_object and all(re.fullmatch(layout.one_object, path) for path in paths)
    # within one object the last number counts the layers, elsewhere any number may
    numbers = r"\d+(?!.*\d)" if is_one_object else r"_?\d+"
    stacks = {re.sub(numbers, "", path) for path in paths}
    between = [] if is_one_object else others
    if len(paths) > 1 and (len(stacks) > 1 or between):
        raise WeightsError(
            "layer",
            expected="the names of the layers in order, because there is more than one plain stack",
            received=listed(paths) + (f" and {listed(between)}" if between else ""),
            hint="Name each layer with `--layer` (`layers=[...]` in Python); `--list` shows them.",
        )


def left_out(flat: Mapping[str, Array], read: Mapping[str, Parts]) -> list[str]:
    """Return the names of arrays of no layer, without those of an optimiser."""
    taken = {key for parts in read.values() for key in parts.values()}
    return sorted(key for key in flat if key not in taken and not key.startswith("optimizer"))


def check_all_known(place: str, parts: Parts, flat: Mapping[str, Array], source: str) -> None:
    """Raise WeightsError for a layer with unknown arrays, which would be lost."""
    for key in flat:
        inside = not place or key.startswith(f"{place}.")
        if inside and key not in parts.values() and flat[key].dtype.kind == "f":
            raise WeightsError(
                key,
                expected=f"only the known arrays of a layer of {source}",
                received="a further array, such as a normalisation or peephole",
                hint="Train without it, or choose another layout.",
            )


def listed(names: Iterable[str]) -> str:
    """Return names for a message, the first few of many."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(name or "(top level)" for name in names[:_LISTED]) + more


def _pair(parts_by_path: Mapping[str, Parts]) -> list[Layer]:
    twins = {place: _FORWARD.sub(r"\1backward", place) for place in parts_by_path if _FORWARD.search(place)}
    reverse = {twin for twin in twins.values() if twin in parts_by_path}
    return [
        {"forward": place} | ({"reverse": twins[place]} if twins.get(place) in reverse else {})
        for place in parts_by_path
        if place not in reverse
    ]


def pair_directions(layout: Layout, places: Mapping[str, Parts]) -> list[Layer]:
    """Return the paths of each layer by direction, in the order of the places."""
    return _pair(places) if layout.two_ways else [{"forward": place} for place in places]


def _is_named(path: str, name: str) -> bool:
    """Return whether a name given by the user is a path or a part of it."""
    return f".{name.replace('/', '.').strip('.')}." in f".{path}."


def _named(name: str, layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if _is_named(layer["forward"], name)]


def _unknown(name: str, layers: Sequence[Layer]) -> NoReturn:
    raise WeightsError(
        "layer",
        expected=f"one of {listed([layer['forward'] for layer in layers])}",
        received=repr(name),
        hint="Pass one of these paths, or a part of one.",
    )


def _natural(place: str) -> list[tuple[int, str]]:
    # compare the number before the word, so that `name` of Keras sorts before `name_1`
    return [(int(digits or -1), word) for word, digits in re.findall(r"([^\d]*?)_?(\d+|$)", place)]
