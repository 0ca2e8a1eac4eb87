"""The operations of the contract in ONNX: activations, padding, convolution and norms."""

from __future__ import annotations

from collections.abc import Sequence

from convlstm.export.graph import Graph
from convlstm.spec.choices import NORM_EPSILON
from convlstm.spec.geometry import effective_kernel, pad_widths
from convlstm.spec.types import Array

_PAD_MODES = {"zeros": "constant", "replicate": "edge", "reflect": "reflect"}
_ACTIVATIONS = {
    "tanh": "Tanh",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "elu": "Elu",
    "softplus": "Softplus",
}
_HARD_SIGMOID_SLOPES = {"hard_sigmoid": 1.0 / 6.0, "hard_sigmoid_keras2": 0.2}

Amount = int | str
"""Points that are added at an edge: a number, or the name of an integer value of shape (1,)."""


def activate(graph: Graph, name: str, x: str) -> str:
    """Return an activation of the contract."""
    if name == "identity":
        return x
    if name in _HARD_SIGMOID_SLOPES:
        return graph.op("HardSigmoid", x, alpha=_HARD_SIGMOID_SLOPES[name], beta=0.5)
    return graph.op(_ACTIVATIONS[name], x)


def pad(graph: Graph, x: str, axis: int, before: Amount, after: Amount, rule: str) -> str:
    """Return x with points added along one axis."""
    if before == after == 0:
        return x
    first, last = _amount(graph, before), _amount(graph, after)
    if rule != "circular":
        amounts = graph.concat([first, last], 0)
        return graph.op("Pad", x, amounts, "", graph.integers(axis), mode=_PAD_MODES[rule])
    size = graph.size(x, axis)
    head = graph.slice(x, graph.op("Sub", size, first), size, axis)
    tail = graph.slice(x, graph.integers(0), last, axis)
    return graph.concat([head, x, tail], axis)


def convolve(
    graph: Graph,
    x: str,
    weight: str,
    *,
    kernel: Sequence[int],
    widths: Sequence[tuple[Amount, Amount]],
    boundary: Sequence[str],
    stride: Sequence[int] | None = None,
    dilation: Sequence[int] | None = None,
    groups: int = 1,
    bias: str | None = None,
) -> str:
    """Return W ∗ x (batch, out, *grid) for x (batch, in, *space)."""
    inside: list[tuple[int, int]] = []
    for axis, ((before, after), rule) in enumerate(zip(widths, boundary, strict=True)):
        if rule == "zeros" and isinstance(before, int) and isinstance(after, int):
            inside.append((before, after))
        else:
            x = pad(graph, x, 2 + axis, before, after, rule)
            inside.append((0, 0))
    ones = [1] * len(kernel)
    return graph.op(
        "Conv",
        x,
        weight,
        *([] if bias is None else [bias]),
        kernel_shape=list(kernel),
        pads=[before for before, _ in inside] + [after for _, after in inside],
        strides=list(stride or ones),
        dilations=list(dilation or ones),
        group=groups,
    )


def input_widths(
    graph: Graph,
    x: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: str | tuple[int, ...],
) -> list[tuple[Amount, Amount]]:
    """Return the points to add along each axis of x, computed in the graph where they depend on its size."""
    if padding != "same":
        return list(pad_widths([1] * len(kernel), kernel, stride, dilation, padding))
    widths: list[tuple[Amount, Amount]] = []
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        span = effective_kernel(k, d)
        if s == 1:
            widths.append(((span - 1) // 2, span - 1 - (span - 1) // 2))
            continue
        size = graph.size(x, 2 + axis)
        # total = max((ceil(n / s) − 1) · s + span − n, 0)
        last = graph.op("Sub", _ceil_divide(graph, size, s), graph.integers(1))
        reach = graph.op("Add", graph.op("Mul", last, graph.integers(s)), graph.integers(span))
        total = graph.op("Max", graph.op("Sub", reach, size), graph.integers(0))
        before = graph.op("Div", total, graph.integers(2))
        widths.append((before, graph.op("Sub", total, before)))
    return widths


def output_size(graph: Graph, size: str, kernel: int, stride: int, dilation: int, padding: str | int) -> str:
    """Return the number of points of a convolution's output along one axis, of shape (1,)."""
    if padding == "same":
        return size if stride == 1 else _ceil_divide(graph, size, stride)
    points = 0 if padding == "valid" else int(padding)
    free = 2 * points - effective_kernel(kernel, dilation)
    steps = graph.op("Div", graph.op("Add", size, graph.integers(free)), graph.integers(stride))
    return graph.op("Add", steps, graph.integers(1))


def normalise(graph: Graph, z: str, groups: int) -> str:
    """Return z (batch, channels, *grid), normalised over each of the groups of channels and the grid."""
    parts = graph.op("Reshape", z, graph.integers(0, groups, -1))
    ones, zeros = graph.constant([1.0] * groups), graph.constant([0.0] * groups)
    scaled = graph.op("InstanceNormalization", parts, ones, zeros, epsilon=NORM_EPSILON)
    return graph.op("Reshape", scaled, graph.op("Shape", z))


def over_grid(array: Array, rank: int) -> Array:
    """Return an array with an axis of size 1 for each spatial axis."""
    return array.reshape(*array.shape, *(1,) * rank)


def space_to_depth(graph: Graph, frames: str, patch: int, channels: int) -> str:
    """Fold p×p patches of (batch, channel, height, width) into channels, in the order c·p² + dy·p + dx."""
    if patch == 1:
        return frames
    folded = graph.op("SpaceToDepth", frames, blocksize=patch)
    if channels == 1:
        return folded
    # ONNX has the channel last: (dy·p + dx)·channels + c
    order = [point * channels + c for c in range(channels) for point in range(patch**2)]
    return graph.op("Gather", folded, graph.integers(*order), axis=1)


def depth_to_space(graph: Graph, patched: str, patch: int) -> str:
    """Undo `space_to_depth`."""
    return patched if patch == 1 else graph.op("DepthToSpace", patched, blocksize=patch, mode="CRD")


def _amount(graph: Graph, amount: Amount) -> str:
    return graph.integers(amount) if isinstance(amount, int) else amount


def _ceil_divide(graph: Graph, size: str, divisor: int) -> str:
    return graph.op("Div", graph.op("Add", size, graph.integers(divisor - 1)), graph.integers(divisor))
