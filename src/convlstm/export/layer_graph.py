"""The ONNX graph of a stack of layers: the whole sequence, or one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from convlstm.export.cell import Cell, candidate_scale, cells_of, retention, stack_step
from convlstm.export.graph import BOOL, FLOAT, INT64, Graph
from convlstm.export.operations import output_size
from convlstm.export.options import GraphOptions
from convlstm.frontend.exported_inputs import GAPS_PREFIX
from convlstm.spec.geometry import AXIS_NAMES
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array

Dims = list["int | str | None"]


@dataclass(frozen=True)
class SequenceInputs:
    """What a loop over the steps of a sequence reads, as names of values in the graph.

    `x` is (batch, time, channels, *space), `mask` (batch, time), `durations` and the gaps by direction (batch, time).
    `count` is an array (1, time) for a stack without input, and `steps` the number of unrolled steps.
    """

    x: str | None = None
    mask: str | None = None
    durations: str | None = None
    gaps: Mapping[str, str] = field(default_factory=dict)
    count: str | None = None
    steps: int | None = None


def layer_graph(spec: ConvLSTMSpec, arrays: Mapping[str, Array], options: GraphOptions) -> Graph:
    """Return the graph of a stack. Its inputs and outputs are listed in `docs/export.md`."""
    graph = Graph("convlstm_layer", weight_type=options.weight_type)
    cells = cells_of(spec, "", arrays)
    batch: int | str = options.batch or "batch"
    space = space_dims(spec.spatial_dims, spec.input_size or options.size)
    grid = grid_dims(spec, space)
    if options.form == "step":
        _step_graph(graph, spec, cells, batch, space, grid)
        return graph
    time: int | str = options.steps or "time"
    inputs = _add_inputs(graph, spec, options, batch, time, space)
    if options.has_states:
        states = add_states(graph, spec, batch, grid)
    else:
        assert inputs.x is not None
        states = zero_states(graph, spec, inputs.x, first_axis=3)
    outputs, final = run_stack(graph, spec, cells, states, inputs)
    for n, output in enumerate(outputs):
        name = "output" if len(outputs) == 1 else f"output.{n}"
        graph.add_output(name, output, FLOAT, [batch, time, spec.out_channels(), *grid[-1]])
    add_final_states(graph, spec, final, batch, grid)
    return graph


def run_stack(
    graph: Graph,
    spec: ConvLSTMSpec,
    cells: Mapping[tuple[int, str], Cell],
    states: Sequence[str],
    inputs: SequenceInputs,
) -> tuple[list[str], list[str]]:
    """Return the outputs of the last layer (one, or two with merge `separate`), and the final states.

    States are h and c by layer · D + direction. A stack in one direction is one loop, whose step runs all layers. A
    bidirectional stack is two loops per layer.
    """
    is_bidirectional = len(spec.directions) > 1
    groups = [[layer] for layer in spec.layers] if is_bidirectional else [list(spec.layers)]
    valid = None
    if inputs.mask is not None:
        valid = graph.expand_axes(inputs.mask, *range(2, spec.spatial_dims + 3))
    final: list[str] = []
    x, parts = inputs.x, [""]
    for layers in groups:
        parts = []
        for direction in spec.directions:
            chosen = [cells[layer.index, direction] for layer in layers]
            start = list(states[len(final) : len(final) + 2 * len(chosen)])
            output, after = _run(graph, chosen, direction, x, start, valid, inputs)
            parts.append(output)
            final += after
        if layers[-1].index < spec.depth - 1:
            x = _merged(graph, parts, "concat" if spec.merge == "separate" else spec.merge)
    if spec.merge == "separate" and is_bidirectional:
        return parts, final
    return [_merged(graph, parts, spec.merge)], final


def _run(
    graph: Graph,
    cells: Sequence[Cell],
    direction: str,
    x: str | None,
    states: list[str],
    valid: str | None,
    inputs: SequenceInputs,
) -> tuple[str, list[str]]:
    """Run consecutive layers in one direction; return the outputs of the last one and the final states."""
    spec = cells[0].layer.stack
    loop_inputs = StepInputs()
    loop_inputs.add("x", x, FLOAT)
    loop_inputs.add("count", inputs.count if x is None and inputs.steps is None else None, FLOAT)
    loop_inputs.add("valid", valid, BOOL)
    for n, cell in enumerate(cells):
        if inputs.durations is not None:
            loop_inputs.add(f"factor.{n}", candidate_scale(graph, cell, inputs.durations), FLOAT)
        if inputs.gaps:
            loop_inputs.add(f"retention.{n}", retention(graph, cell, inputs.gaps[direction]), FLOAT)
    holds = valid is not None and spec.masked_output == "hold"
    if holds:
        states = [*states, zeros_like(graph, states[-2])]

    def step(body: Graph, before: list[str], values: list[str]) -> tuple[list[str], list[str]]:
        now = loop_inputs.of_step(values)
        after = stack_step(
            body,
            cells,
            now.get("x"),
            before,
            [now[name] for name in loop_inputs.names if name.startswith("factor.")],
            [now[name] for name in loop_inputs.names if name.startswith("retention.")],
            now.get("valid"),
        )
        output = after[-2]
        if "valid" in now:
            absent = before[-1] if holds else body.constant(0.0)
            output = body.op("Where", now["valid"], output, absent)
        return [*after, output] if holds else after, [output]

    final, outputs = graph.loop(states, loop_inputs.pairs, step, 1, steps=inputs.steps, reverse=direction == "reverse")
    return outputs[0], final[: 2 * len(cells)]


class StepInputs:
    """The inputs of a loop by name, in their order."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.pairs: list[tuple[str, int]] = []

    def add(self, name: str, value: str | None, kind: int) -> None:
        """Add a value of a type, unless it is None."""
        if value is not None:
            self.names.append(name)
            self.pairs.append((value, kind))

    def of_step(self, values: Sequence[str]) -> dict[str, str]:
        """Return the values of one step by name."""
        return dict(zip(self.names, values, strict=True))


def _step_graph(
    graph: Graph,
    spec: ConvLSTMSpec,
    cells: Mapping[tuple[int, str], Cell],
    batch: int | str,
    space: Dims,
    grid: list[Dims],
) -> None:
    """Fill the graph of one step, with states in and out."""
    x = graph.add_input("x", FLOAT, [batch, spec.in_channels, *space]) if spec.in_channels else None
    states = add_states(graph, spec, batch, grid)
    chosen = [cells[layer.index, "forward"] for layer in spec.layers]
    factors, retentions = add_step_times(graph, spec, chosen, batch)
    final = stack_step(graph, chosen, x, states, factors, retentions, None)
    graph.add_output("output", final[-2], FLOAT, [batch, spec.hidden_channels[-1], *grid[-1]])
    add_final_states(graph, spec, final, batch, grid)


def add_step_times(
    graph: Graph, spec: ConvLSTMSpec, cells: Sequence[Cell], batch: int | str
) -> tuple[list[str], list[str]]:
    """Add the inputs `duration` and `gap` (batch,) of one step; return the factors that they give for each cell."""
    factors, retentions = [], []
    if spec.duration_strategy != "none":
        duration = graph.add_input("duration", FLOAT, [batch])
        factors = [candidate_scale(graph, cell, duration) for cell in cells]
    if spec.memory_decay:
        gap = graph.add_input("gap", FLOAT, [batch])
        retentions = [retention(graph, cell, gap) for cell in cells]
    return factors, retentions


def _add_inputs(
    graph: Graph, spec: ConvLSTMSpec, options: GraphOptions, batch: int | str, time: int | str, space: Dims
) -> SequenceInputs:
    """Add the inputs of a whole sequence to the graph."""
    steps, x, count = options.loop_steps, None, None
    if spec.in_channels:
        x = graph.add_input("x", FLOAT, [batch, time, spec.in_channels, *space])
    elif steps is None:
        number = graph.add_input("steps", INT64, [1])
        count = counter(graph, number)
    mask = graph.add_input("mask", BOOL, [batch, time]) if options.mask else None
    return SequenceInputs(x, mask, *add_times(graph, spec, batch, time), count, steps)


def add_times(graph: Graph, spec: ConvLSTMSpec, batch: int | str, time: int | str) -> tuple[str | None, dict[str, str]]:
    """Add the inputs `durations` and `gaps` (batch, time), if the stack uses them."""
    durations = None
    if spec.duration_strategy != "none":
        durations = graph.add_input("durations", FLOAT, [batch, time])
    gaps = {}
    for direction in spec.directions if spec.memory_decay else ():
        name = "gaps" if len(spec.directions) == 1 else f"{GAPS_PREFIX}{direction}"
        gaps[direction] = graph.add_input(name, FLOAT, [batch, time])
    return durations, gaps


def add_states(graph: Graph, spec: ConvLSTMSpec, batch: int | str, grid: list[Dims]) -> list[str]:
    """Add the initial states as inputs `h_0.{n}` and `c_0.{n}`; return h and c by layer · D + direction."""
    return [
        graph.add_input(f"{part}_0.{n}", FLOAT, dims)
        for n, dims in enumerate(_state_dims(spec, batch, grid))
        for part in ("h", "c")
    ]


def add_final_states(
    graph: Graph, spec: ConvLSTMSpec, final: Sequence[str], batch: int | str, grid: list[Dims]
) -> None:
    """Make the final states outputs `h_n.{n}` and `c_n.{n}`."""
    for n, dims in enumerate(_state_dims(spec, batch, grid)):
        graph.add_output(f"h_n.{n}", final[2 * n], FLOAT, dims)
        graph.add_output(f"c_n.{n}", final[2 * n + 1], FLOAT, dims)


def zero_states(graph: Graph, spec: ConvLSTMSpec, x: str, first_axis: int) -> list[str]:
    """Return zero states for frames whose spatial axes begin at `first_axis`."""
    sizes = [graph.size(x, first_axis + axis) for axis in range(spec.spatial_dims)]
    states = []
    for layer in spec.layers:
        if layer.in_channels:
            rank = spec.spatial_dims
            paddings: tuple[str | int, ...] = (layer.padding,) * rank  # type: ignore[assignment]
            if not isinstance(layer.padding, str):
                paddings = layer.padding
            per_axis = zip(sizes, layer.kernel_size, layer.stride, layer.dilation, paddings, strict=True)
            sizes = [output_size(graph, n, k, s, d, padding) for n, k, s, d, padding in per_axis]
        shape = graph.concat([graph.size(x, 0), graph.integers(layer.hidden_channels), *sizes], 0)
        states += [graph.op("ConstantOfShape", shape)] * 2 * len(spec.directions)
    return states


def zeros_like(graph: Graph, value: str) -> str:
    """Return zeros of the shape of a value."""
    return graph.op("ConstantOfShape", graph.op("Shape", value))


def counter(graph: Graph, number: str) -> str:
    """Return an array (1, number) whose only use is to count the steps of a loop."""
    return graph.op("ConstantOfShape", graph.concat([graph.integers(1), number], 0))


def space_dims(rank: int, size: Sequence[int] | None) -> Dims:
    """Return the sizes of the spatial axes, or their names where they are open."""
    return list(size) if size is not None else list(AXIS_NAMES[rank])


def grid_dims(spec: ConvLSTMSpec, space: Dims) -> list[Dims]:
    """Return the sizes of the grid of each layer; None where they depend on open sizes by more than equality."""
    grids: list[Dims] = []
    for layer in spec.layers:
        known = [n for n in space if isinstance(n, int)]
        if len(known) == len(space):
            space = list(layer.grid(tuple(known)))
        elif layer.in_channels:
            keeps = layer.padding == "same"
            space = [n if keeps and s == 1 else None for n, s in zip(space, layer.stride, strict=True)]
        grids.append(space)
    return grids


def _state_dims(spec: ConvLSTMSpec, batch: int | str, grid: list[Dims]) -> list[Dims]:
    return [
        [batch, layer.hidden_channels, *dims]
        for layer, dims in zip(spec.layers, grid, strict=True)
        for _ in spec.directions
    ]


def _merged(graph: Graph, parts: Sequence[str], merge: str) -> str:
    """Return the outputs of the directions as one value."""
    if len(parts) == 1:
        return parts[0]
    if merge == "concat":
        return graph.concat(parts, 2)
    if merge == "mul":
        return graph.op("Mul", *parts)
    total = graph.op("Add", *parts)
    return graph.op("Mul", total, graph.constant(0.5)) if merge == "ave" else total
