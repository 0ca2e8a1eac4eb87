"""Convert foreign arrays to a spec and canonical arrays, for all layouts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from convlstm.errors import SpecError, WeightsError
from convlstm.interop.finding import Layer, Parts, check_all_known, choose, find, left_out, listed, named
from convlstm.interop.layout import Converted, Layout, Notes
from convlstm.spec.choices import GATES
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.parsing import check_options
from convlstm.spec.types import Array
from convlstm.weights.canonical import check_weights, layer_prefix

Prepare = Callable[[dict[str, Array], Parts], None]
"""From all arrays, which it may replace, and the names of one layer's arrays; raises an error for an unfit layer."""


def read(
    layout: Layout,
    arrays: Mapping[str, Any],
    *,
    layers: Sequence[str] = (),
    prepare: Prepare | None = None,
    **options: Any,
) -> Converted:
    """Read a stack of foreign layers.

    `layers` are parts of paths that name the layers in order; none reads the only stack. `prepare` is called for each
    chosen layer and direction. `options` are those that the arrays do not show, by the names of `ConvLSTMSpec`.
    """
    check_options(
        options, layout.choices, f"Use one of {', '.join(layout.choices)}." if layout.choices else "Remove it."
    )
    flat = named(layout, arrays)
    parts_by_path = find(layout, flat, anywhere=True)
    chosen = choose(layout, flat, parts_by_path, layers)
    if prepare is not None:
        for place in (place for layer in chosen for place in layer.values()):
            prepare(flat, parts_by_path[place])
    cells = [
        {way: _cell(layout, flat, place, parts_by_path[place]) for way, place in layer.items()} for layer in chosen
    ]
    assumed = _assumed(layout, options, two_ways=any("reverse" in layer for layer in chosen))
    spec = _spec(layout, cells, chosen, assumed | options)
    weights = {
        layer_prefix(index, way if len(cell) > 1 else spec.direction) + name: array
        for index, cell in enumerate(cells)
        for way, parts in cell.items()
        for name, array in parts.items()
    }
    check_weights(spec, weights)
    read_parts = {place: parts_by_path[place] for layer in chosen for place in layer.values()}
    notes = Notes(
        layers=tuple(read_parts),
        differences=(*differences(layout), *_unused(layout, read_parts, flat)),
        assumed=assumed,
        left_out=tuple(left_out(flat, read_parts)),
    )
    return Converted(spec, dict(sorted(weights.items())), notes)


def _assumed(layout: Layout, options: Mapping[str, Any], *, two_ways: bool) -> dict[str, Any]:
    """Return the defaults of the options that were not given; two directions need a merge and no direction."""
    direction = options.get("direction")
    if direction is not None and two_ways:
        raise SpecError(
            "direction",
            expected="None, because the arrays have both directions",
            received=repr(direction),
            hint="Leave `direction` out.",
        )
    if direction == "bidirectional":
        raise SpecError(
            "direction",
            expected="forward or reverse, because the arrays have one direction",
            received=repr(direction),
            hint="Pass the arrays of both directions.",
        )
    needless = "direction" if two_ways else "merge"
    return {name: value for name, value in layout.choices.items() if name not in options and name != needless}


def _cell(layout: Layout, flat: Mapping[str, Array], place: str, parts: Parts) -> dict[str, Array]:
    check_all_known(place, parts, flat, layout.source)
    sources = [_joined(layout, flat, parts, name) for name in layout.kernels]
    kernels = [_kernel(layout, key, array) for key, array in sources]
    hidden = kernels[0].shape[1]
    if len(kernels) == 1:
        inputs = kernels[0].shape[2] - hidden
        if inputs < 1:
            raise _unfit(sources[0][0], f"more than {hidden} channels of x and h together", kernels[0])
        kernels = [kernels[0][:, :, :inputs], kernels[0][:, :, inputs:]]
    if kernels[1].shape[1:3] != (hidden, hidden):
        raise _unfit(sources[1][0], f"{4 * hidden} rows over {hidden} channels", sources[1][1])
    cell = dict(zip(("weight_ih", "weight_hh"), map(np.ascontiguousarray, kernels), strict=True))
    biases = [_joined(layout, flat, parts, name) for name in layout.biases if layout.parts(name)[0] in parts]
    if biases or layout.forget_offset:
        cell["bias"] = _bias(layout, biases, hidden, kernels[0].dtype)
    if any(name in parts for name in layout.peepholes):
        cell["peephole"] = _peephole(layout, flat, parts, hidden, rank=kernels[0].ndim - 3)
    if layout.norm_scale:
        key, scale = _joined(layout, flat, parts, layout.norm_scale)
        cell["norm_scale"] = _vector(layout, key, scale, hidden)
    return cell


def _joined(layout: Layout, flat: Mapping[str, Array], parts: Parts, name: str) -> tuple[str, Array]:
    """Return the array of a name, joined over its gates, and the key of its first part in the file."""
    names = layout.parts(name)
    for part in names:
        if part not in parts:
            raise WeightsError(
                part,
                expected=f"an array of this name in each layer of {layout.source}",
                received="none",
                hint="Pass the whole state_dict.",
            )
    first, *rest = (flat[parts[part]] for part in names)
    for part, array in zip(names[1:], rest, strict=True):
        if array.shape != first.shape:
            raise _unfit(parts[part], f"shape {first.shape}, as in the other gates", array)
    return parts[names[0]], np.concatenate([first, *rest], layout.axes[0] if first.ndim > 1 else 0) if rest else first


def _peephole(layout: Layout, flat: Mapping[str, Array], parts: Parts, hidden: int, rank: int) -> Array:
    """Return the peepholes (3, hidden, *grid) of i, f and o."""
    arrays = []
    for name in layout.peepholes:
        key, array = _joined(layout, flat, parts, name)
        _check_floats(key, array)
        if array.ndim != rank + 2 or array.shape[:2] != (1, hidden):
            raise _unfit(key, f"shape (1, {hidden}, *grid)", array)
        arrays.append(array)
    return np.concatenate(arrays)


def _vector(layout: Layout, key: str, array: Array, hidden: int) -> Array:
    """Return an array with one value per gate and channel as (4, hidden)."""
    _check_floats(key, array)
    if array.shape != (4 * hidden,):
        raise _unfit(key, f"shape ({4 * hidden},)", array)
    return _in_our_order(layout, array)


def _kernel(layout: Layout, key: str, array: Array) -> Array:
    """Return a kernel as (4, hidden, in, *kernel), with gates in the canonical order."""
    _check_floats(key, array)
    rank = array.ndim - 2
    if rank not in layout.ranks or array.shape[layout.axes[0]] % 4:
        raise _unfit(key, f"4 · hidden rows and {' or '.join(map(str, layout.ranks))} spatial axes", array)
    rows = np.moveaxis(array, layout.axes, (0, 1))
    if layout.odd_kernels and any(size % 2 == 0 for size in rows.shape[2:]):
        raise _unfit(key, f"odd kernel sizes, since {layout.source} cannot run others", array)
    return _in_our_order(layout, rows)


def _bias(layout: Layout, biases: Sequence[tuple[str, Array]], hidden: int, dtype: Any) -> Array:
    # add the offset to the last bias first, so that a bias written by this package is read back exactly
    total = np.zeros((4, hidden))
    total[GATES.index("f")] = layout.forget_offset
    for key, array in reversed(biases):
        total = total + _vector(layout, key, array, hidden)
    return total.astype(dtype)


def _in_our_order(layout: Layout, rows: Array) -> Array:
    gates = rows.reshape(4, rows.shape[0] // 4, *rows.shape[1:])
    return gates[[layout.gates.index(gate) for gate in GATES]]


def _spec(
    layout: Layout, cells: Sequence[Mapping[str, Mapping[str, Array]]], chosen: Sequence[Layer], options: dict[str, Any]
) -> ConvLSTMSpec:
    firsts = [cell["forward"] for cell in cells]
    with_bias = {"bias" in parts for cell in cells for parts in cell.values()}
    ways = {len(cell) for cell in cells}
    ranks = {parts["weight_ih"].ndim for parts in firsts}
    if max(len(with_bias), len(ways), len(ranks)) > 1:
        raise WeightsError(
            "layer",
            expected="layers with the same bias option, directions and number of spatial axes",
            received=listed([layer["forward"] for layer in chosen]),
            hint="Convert the layers one by one with `--layer`.",
        )
    options = options | _peephole_options(firsts) | _norm_options(layout, firsts, chosen)
    spec = ConvLSTMSpec(
        in_channels=firsts[0]["weight_ih"].shape[2],
        hidden_channels=[parts["weight_ih"].shape[1] for parts in firsts],
        kernel_size=[parts["weight_ih"].shape[3:] for parts in firsts],
        recurrent_kernel_size=[parts["weight_hh"].shape[3:] for parts in firsts],
        spatial_dims=ranks.pop() - 3,
        bias=with_bias.pop(),
        **options | ({"direction": "bidirectional"} if ways == {2} else {}),
    )
    for layer, parts, place in zip(spec.layers, firsts, chosen, strict=True):
        if parts["weight_ih"].shape[2] != layer.in_channels:
            raise WeightsError(
                place["forward"] or layout.name,
                expected=f"a layer with {layer.in_channels} input channels, the output of the layer before it",
                received=f"a layer with {parts['weight_ih'].shape[2]}",
                hint="Name the layers of one stack in order with `--layer`.",
            )
    return spec


def _peephole_options(layers: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """Return the options of peepholes on the grid; the frames have the size of the grid at stride 1."""
    grids = {parts["peephole"].shape[2:] if "peephole" in parts else None for parts in layers}
    if grids == {None}:
        return {}
    return {"peephole": "pixel", "input_size": _one_value(grids, "layers with peepholes on the same grid")}


def _one_value(values: set[Any], expected: str) -> Any:
    """Return the value that all layers have, or raise an error."""
    if len(values) > 1:
        raise WeightsError(
            "layer",
            expected=expected,
            received=", ".join(map(str, sorted(values, key=str))),
            hint="Convert the layers one by one with `--layer`.",
        )
    return values.pop()


def _norm_options(layout: Layout, layers: Sequence[Mapping[str, Array]], chosen: Sequence[Layer]) -> dict[str, Any]:
    """Return the options of a group normalisation whose groups have a fixed number of channels."""
    if not layout.norm_scale:
        return {}
    groups = set()
    for parts, place in zip(layers, chosen, strict=True):
        hidden = parts["weight_ih"].shape[1]
        if hidden % layout.norm_channels:
            raise WeightsError(
                place["forward"] or layout.name,
                expected=f"a multiple of {layout.norm_channels} hidden channels, with no group across two gates",
                received=hidden,
                hint="Train a layer with `norm='group'` anew; this one cannot be represented.",
            )
        groups.add(hidden // layout.norm_channels)
    return {"norm": "group", "norm_groups": _one_value(groups, "layers with the same number of groups")}


def differences(layout: Layout) -> tuple[str, ...]:
    """Return the general differences of a foreign layer as sentences."""
    lines: list[str] = []
    if layout.gates != GATES:
        lines.append(f"The order of the gates is {', '.join(layout.gates)} there and {', '.join(GATES)} here.")
    if len(layout.kernels) == 1:
        lines.append("One kernel over [x; h] there; W_ih and W_hh apart here.")
    if len(layout.biases) > 1:
        lines.append("Two biases per layer there, which only act as their sum; one bias here holds the sum.")
    if layout.forget_offset:
        lines.append(
            f"{layout.forget_offset:g} is added to the forget gate at every call there and stored nowhere; here it is "
            "part of the bias, also where that layer has none."
        )
    return (*lines, *layout.facts)


def _unused(layout: Layout, parts: Mapping[str, Parts], flat: Mapping[str, Array]) -> list[str]:
    dead = [names[part] for names in parts.values() for part in layout.dead if part in names]
    count = sum(flat[key].size for key in dead)
    return [f"Never used there and dropped here, {count:,} values: {listed(dead)}."] if dead else []


def _check_floats(key: str, array: Array) -> None:
    if array.dtype.kind != "f":
        raise WeightsError(
            key,
            expected="float16, float32 or float64",
            received=array.dtype,
            hint="Save the array as float32.",
        )


def _unfit(key: str, expected: str, array: Array) -> WeightsError:
    return WeightsError(key, expected=expected, received=f"shape {array.shape}", hint="Check the file and its layout.")
