"""One step of the layers of a stack in ONNX, and the factors of durations and gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convlstm.export.graph import Graph
from convlstm.export.operations import activate, convolve, input_widths, normalise, over_grid
from convlstm.reference.activations import ACTIVATION_FUNCTIONS
from convlstm.spec.choices import GATES
from convlstm.spec.durations import network_sizes
from convlstm.spec.layer import LayerSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import layer_prefix


@dataclass(frozen=True)
class Cell:
    """One layer in one direction, with its canonical arrays and the prefix of their names in the file."""

    layer: LayerSpec
    prefix: str
    arrays: Mapping[str, Array]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return self.layer.stack.spatial_dims

    def array(self, name: str) -> Array:
        """Return a canonical array."""
        return self.arrays[self.prefix + name]

    def initializer(self, graph: Graph, name: str, array: Array | None = None, suffix: str = "") -> str:
        """Return the name of a canonical array in the graph, or of an array that is computed from it."""
        return graph.weight(self.prefix + name + suffix, self.array(name) if array is None else array)


def cells_of(spec: ConvLSTMSpec, prefix: str, arrays: Mapping[str, Array]) -> dict[tuple[int, str], Cell]:
    """Return the cells of a stack by layer and direction."""
    return {
        (layer.index, direction): Cell(layer, prefix + layer_prefix(layer.index, direction), arrays)
        for layer in spec.layers
        for direction in spec.directions
    }


def stack_step(
    graph: Graph,
    cells: Sequence[Cell],
    x: str | None,
    states: Sequence[str],
    factors: Sequence[str],
    retentions: Sequence[str],
    valid: str | None,
) -> list[str]:
    """Return h and c of each cell (h_0, c_0, h_1, ...) after one step; the h of a cell is the input of the next.

    `factors` and `retentions` have one value per cell, or none. A step that is not `valid` (batch, 1, ...) leaves the
    states unchanged.
    """
    after: list[str] = []
    for n, cell in enumerate(cells):
        h, c = states[2 * n], states[2 * n + 1]
        factor = factors[n] if factors else None
        new_h, new_c = _step(graph, cell, x, h, c, factor, retentions[n] if retentions else None)
        if valid is not None:
            new_h, new_c = graph.op("Where", valid, new_h, h), graph.op("Where", valid, new_c, c)
        after += [new_h, new_c]
        x = new_h
    return after


def _step(
    graph: Graph, cell: Cell, x: str | None, h: str, c: str, factor: str | None, retention: str | None
) -> tuple[str, str]:
    """Return h_t and c_t after one step of one cell (equations: `convlstm.reference.recurrence.step`)."""
    spec = cell.layer.stack
    c_before = c if retention is None else graph.op("Mul", c, retention)
    z_i, z_f, z_g, z_o = graph.ops("Split", len(GATES), _gates(graph, cell, x, h), axis=1, num_outputs=len(GATES))
    p_i, p_f, p_o = _peepholes(graph, cell)
    i = activate(graph, spec.recurrent_activation, _plus_peephole(graph, z_i, p_i, c_before))
    f = activate(graph, spec.recurrent_activation, _plus_peephole(graph, z_f, p_f, c_before))
    g = activate(graph, spec.activation, z_g)
    if factor is not None:
        g = graph.op("Mul", g, factor)
    c_new = graph.op("Add", graph.op("Mul", f, c_before), graph.op("Mul", i, g))
    o = activate(graph, spec.recurrent_activation, _plus_peephole(graph, z_o, p_o, c_new))
    h_new = graph.op("Mul", o, activate(graph, spec.activation, c_new))
    # the previous c in zoneout is that after the memory decay
    return _zoneout(graph, spec.zoneout_h, h, h_new), _zoneout(graph, spec.zoneout_c, c_before, c_new)


def _gates(graph: Graph, cell: Cell, x: str | None, h: str) -> str:
    """Return z of the four gates (batch, 4 · hidden, *grid)."""
    layer, spec, rank = cell.layer, cell.layer.stack, cell.rank
    hidden = layer.hidden_channels
    bias = None
    if spec.bias and spec.norm == "none":
        bias = cell.initializer(graph, "bias", cell.array("bias").reshape(-1))
    z = convolve(
        graph,
        h,
        cell.initializer(graph, "weight_hh", _gates_joined(cell.array("weight_hh"))),
        kernel=layer.recurrent_kernel_size,
        widths=layer.recurrent_widths,
        boundary=spec.boundary,
        dilation=layer.recurrent_dilation,
        bias=bias,
    )
    if x is not None:
        z = graph.op("Add", z, _input_terms(graph, cell, x))
    if spec.norm == "none":
        return z
    z = normalise(graph, z, len(GATES) * (spec.norm_groups or 1))
    scale = over_grid(cell.array("norm_scale").reshape(len(GATES) * hidden), rank)
    z = graph.op("Mul", z, cell.initializer(graph, "norm_scale", scale))
    if spec.bias:
        bias_over_grid = over_grid(cell.array("bias").reshape(len(GATES) * hidden), rank)
        z = graph.op("Add", z, cell.initializer(graph, "bias", bias_over_grid))
    return z


def _input_terms(graph: Graph, cell: Cell, x: str) -> str:
    """Return W_ih ∗ x of the four gates."""
    layer, weight = cell.layer, cell.array("weight_ih")
    widths = input_widths(graph, x, layer.kernel_size, layer.stride, layer.dilation, layer.padding)
    # the groups act inside each gate, those of ONNX over all channels
    parts = [_gates_joined(weight)] if layer.groups == 1 else list(weight)
    terms = [
        convolve(
            graph,
            x,
            cell.initializer(graph, "weight_ih", part, suffix="" if len(parts) == 1 else f".{gate}"),
            kernel=layer.kernel_size,
            widths=widths,
            boundary=layer.stack.boundary,
            stride=layer.stride,
            dilation=layer.dilation,
            groups=layer.groups,
        )
        for gate, part in zip(GATES, parts, strict=False)
    ]
    return graph.concat(terms, 1)


def _peepholes(graph: Graph, cell: Cell) -> list[str | None]:
    spec = cell.layer.stack
    if spec.peephole == "none":
        return [None] * 3
    arrays = cell.array("peephole")
    if spec.peephole == "channel":
        arrays = over_grid(arrays, cell.rank)
    return [cell.initializer(graph, "peephole", part, f".{gate}") for gate, part in zip("ifo", arrays, strict=True)]


def _plus_peephole(graph: Graph, z: str, peephole: str | None, c: str) -> str:
    return z if peephole is None else graph.op("Add", z, graph.op("Mul", peephole, c))


def _zoneout(graph: Graph, rate: float, before: str, after: str) -> str:
    if not rate:
        return after
    kept = graph.op("Mul", before, graph.constant(rate))
    return graph.op("Add", kept, graph.op("Mul", after, graph.constant(1.0 - rate)))


def _gates_joined(weight: Array) -> Array:
    return weight.reshape(-1, *weight.shape[2:])


def candidate_scale(graph: Graph, cell: Cell, durations: str) -> str:
    """Return δ(Δ) of durations (batch, ...) as (batch, ..., features, 1, ...), with a 1 per spatial axis.

    Equations: `convlstm.reference.durations.scale`.
    """
    spec = cell.layer.stack
    r = graph.op("Div", graph.expand_axes(durations, -1), graph.constant(spec.reference_duration))
    if spec.duration_strategy == "linear":
        scale = r
    elif spec.duration_strategy == "log":
        shifted = graph.op("Add", r, graph.constant(spec.duration_eps))
        scale = graph.op("Add", graph.op("Log", shifted), graph.constant(1.0))
    elif spec.duration_strategy == "log1p":
        logarithm = graph.op("Log", graph.op("Add", r, graph.constant(1.0)))
        scale = graph.op("Div", logarithm, graph.constant(np.log(2.0)))
    else:
        log_r = graph.op("Log", graph.op("Max", r, graph.constant(spec.duration_eps)))
        scale = _learned_scale(graph, cell, log_r)
    return graph.expand_axes(scale, *range(-cell.rank, 0))


def _learned_scale(graph: Graph, cell: Cell, log_r: str) -> str:
    spec = cell.layer.stack
    if spec.duration_strategy == "scalar":
        return graph.op("Exp", graph.op("Mul", cell.initializer(graph, "duration.weight"), log_r))
    count = len(network_sizes(cell.layer))
    value = log_r
    for n in range(count):
        name = f"duration.{n}.weight"
        product = graph.op("MatMul", value, cell.initializer(graph, name, cell.array(name).T))
        value = graph.op("Add", product, cell.initializer(graph, f"duration.{n}.bias"))
        if n < count - 1:
            value = activate(graph, spec.duration_activation, value)
    if spec.duration_strategy == "exp":
        return graph.op("Exp", graph.op("Mul", value, graph.constant(spec.duration_damping)))
    return graph.op("Add", value, graph.constant(1.0))


def retention(graph: Graph, cell: Cell, gaps: str) -> str:
    """Return the factor on c after gaps (batch, ...) as (batch, ..., hidden, 1, ...), with a 1 per spatial axis."""
    q = graph.op("Div", graph.expand_axes(gaps, -1), graph.constant(cell.layer.stack.reference_duration))
    excess = graph.op("Relu", graph.op("Sub", q, graph.constant(1.0)))
    rate = -ACTIVATION_FUNCTIONS["softplus"](cell.array("memory_decay").astype(np.float64))
    factor = graph.op("Exp", graph.op("Mul", cell.initializer(graph, "memory_decay", rate), excess))
    return graph.expand_axes(factor, *range(-cell.rank, 0))
