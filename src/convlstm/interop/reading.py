"""Convert foreign arrays to a spec and canonical arrays, for all layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convlstm.errors import SpecError, WeightsError
from convlstm.interop.finding import Layer, Parts, check_whole, choose, find, left_out, listed, named
from convlstm.interop.layout import Converted, Layout, Notes
from convlstm.spec.choices import GATES
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.parsing import check_options
from convlstm.spec.types import Array
from convlstm.weights.canonical import check_weights, layer_prefix


def read(
    layout: Layout,
    arrays: Mapping[str, Any],
    *,
    layers: Sequence[str] = (),
    **options: Any,
) -> Converted:
    """Read a stack of foreign layers.

    `layers` are parts of paths that name the layers in order; none reads the only stack. `options` are those that the
    arrays do not show, by the names of `ConvLSTMSpec`.
    """
    check_options(
        options, layout.choices, f"Use one of {', '.join(layout.choices)}." if layout.choices else "Remove it."
    )
    flat = named(layout, arrays)
    parts_by_path = find(layout, flat)
    chosen = choose(layout, flat, parts_by_path, layers)
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
    check_whole(place, parts, flat, layout.source)
    kernels = [_kernel(layout, parts[name], flat[parts[name]]) for name in layout.kernels]
    hidden = kernels[0].shape[1]
    if len(kernels) == 1:
        inputs = kernels[0].shape[2] - hidden
        if inputs < 1:
            raise _unfit(parts[layout.kernels[0]], f"more than {hidden} channels of x and h together", kernels[0])
        kernels = [kernels[0][:, :, :inputs], kernels[0][:, :, inputs:]]
    if kernels[1].shape[1:3] != (hidden, hidden):
        raise _unfit(
            parts[layout.kernels[1]], f"{4 * hidden} rows over {hidden} channels", flat[parts[layout.kernels[1]]]
        )
    cell = dict(zip(("weight_ih", "weight_hh"), map(np.ascontiguousarray, kernels), strict=True))
    keys = [parts[name] for name in layout.biases if name in parts]
    if keys or layout.forget_offset:
        cell["bias"] = _bias(layout, [(key, flat[key]) for key in keys], hidden, kernels[0].dtype)
    return cell


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
        _check_floats(key, array)
        if array.shape != (4 * hidden,):
            raise _unfit(key, f"shape ({4 * hidden},)", array)
        total = total + _in_our_order(layout, array)
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
