"""The data pipeline in ONNX: transform and its inverse, missing values, and sizes that no patch divides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from convlstm.errors import SpecError
from convlstm.export.graph import BOOL, FLOAT, Graph
from convlstm.export.operations import pad
from convlstm.export.options import Physical

_TINY = 1e-30  # of a rain rate in mm/h, before its logarithm


def model_values(graph: Graph, frames: str, physical: Physical, *, steps: int | None, has_time: bool) -> str:
    """Return the model values of physical frames (batch, time, channel, height, width), NaN where missing.

    Missing values take the last known value of the pixel. In the moving frame they are 0, and a last channel is 1 where
    all variables are known. Without `has_time` the frames are those of one step, without the axis of time.
    """
    absent = graph.op("Or", graph.op("IsNaN", frames), graph.op("IsInf", frames))
    known = graph.op("Not", absent)
    zero = graph.constant(0.0)
    filled = _forward(graph, graph.op("Where", known, frames, zero), physical.transform)
    if physical.moving:
        filled = graph.op("Where", known, filled, zero)
        channel = 2 if has_time else 1
        share = graph.op("Cast", known, to=FLOAT)
        all_known = graph.op("ReduceMin", share, graph.integers(channel), keepdims=1)
        return graph.concat([filled, all_known], channel)

    def step(body: Graph, before: list[str], values: list[str]) -> tuple[list[str], list[str]]:
        now = body.op("Where", values[1], values[0], before[0])
        return [now], [now]

    index = graph.constant(0, "int64")
    start = graph.op("ConstantOfShape", graph.op("Shape", graph.op("Gather", filled, index, axis=1)))
    _, outputs = graph.loop([start], [(filled, FLOAT), (known, BOOL)], step, 1, steps=steps)
    return outputs[0]


def physical_values(graph: Graph, values: str, physical: Physical) -> str:
    """Return the physical values of a forecast of model values; rain is never negative."""
    result = _inverse(graph, values, physical.transform)
    return graph.op("Relu", result) if physical.rain else result


def pad_to_patches(graph: Graph, frames: str, patch: int, first_axis: int) -> str:
    """Return frames whose last two axes are multiples of the patch size; edges are repeated."""
    for axis in (first_axis, first_axis + 1):
        size = graph.size(frames, axis)
        # (p − n mod p) mod p
        rest = graph.op("Mod", size, graph.integers(patch))
        extra = graph.op("Mod", graph.op("Sub", graph.integers(patch), rest), graph.integers(patch))
        frames = pad(graph, frames, axis, 0, extra, "replicate")
    return frames


def crop(graph: Graph, forecast: str, frames: str, frames_axis: int) -> str:
    """Return the part of a forecast (batch, lead time, channel, height, width) on the grid of the frames."""
    for axis in (0, 1):
        size = graph.size(frames, frames_axis + axis)
        forecast = graph.slice(forecast, graph.integers(0), size, 3 + axis)
    return forecast


def _forward(graph: Graph, x: str, transform: Mapping[str, Any]) -> str:
    """Return the model values of known physical values (equations: `convlstm.data.transforms`)."""
    name = transform["name"]
    if name == "identity":
        return x
    if name == "standard":
        centred = graph.op("Sub", x, _per_channel(graph, transform["mean"]))
        return graph.op("Div", centred, _per_channel(graph, transform["std"]))
    if name == "log_rain":
        rain = graph.op("Clip", x, graph.constant(0.0), graph.constant(transform["ceiling"]))
        scaled = graph.op("Add", graph.op("Mul", rain, graph.constant(transform["scale"])), graph.constant(1.0))
        return graph.op("Div", graph.op("Log", scaled), graph.constant(_span(transform)))
    if name == "reflectivity":
        log_rain = graph.op("Log", graph.op("Max", x, graph.constant(_TINY)))
        factor = graph.constant(10.0 * transform["b"] / math.log(10.0))
        dbz = graph.op("Add", graph.op("Mul", log_rain, factor), graph.constant(10.0 * math.log10(transform["a"])))
        floor, ceiling = transform["floor"], transform["ceiling"]
        inside = graph.op("Clip", dbz, graph.constant(floor), graph.constant(ceiling))
        return graph.op("Div", graph.op("Sub", inside, graph.constant(floor)), graph.constant(ceiling - floor))
    raise _unknown(name)


def _inverse(graph: Graph, y: str, transform: Mapping[str, Any]) -> str:
    name = transform["name"]
    if name == "identity":
        return y
    if name == "standard":
        scaled = graph.op("Mul", y, _per_channel(graph, transform["std"]))
        return graph.op("Add", scaled, _per_channel(graph, transform["mean"]))
    if name == "log_rain":
        inside = graph.op("Clip", y, graph.constant(0.0), graph.constant(transform["top"]))
        grown = graph.op("Exp", graph.op("Mul", inside, graph.constant(_span(transform))))
        return graph.op("Div", graph.op("Sub", grown, graph.constant(1.0)), graph.constant(transform["scale"]))
    if name == "reflectivity":
        inside = graph.op("Clip", y, graph.constant(0.0), graph.constant(1.0))
        floor, ceiling = transform["floor"], transform["ceiling"]
        dbz = graph.op("Add", graph.op("Mul", inside, graph.constant(ceiling - floor)), graph.constant(floor))
        # R = (10^(dBZ / 10) / a)^(1 / b)
        shifted = graph.op("Sub", dbz, graph.constant(10.0 * math.log10(transform["a"])))
        rain = graph.op("Exp", graph.op("Mul", shifted, graph.constant(math.log(10.0) / (10.0 * transform["b"]))))
        zero = graph.constant(0.0)
        return graph.op("Where", graph.op("Equal", inside, zero), zero, rain)
    raise _unknown(name)


def _span(transform: Mapping[str, Any]) -> float:
    return math.log1p(transform["scale"] * transform["ceiling"]) / float(transform["top"])


def _per_channel(graph: Graph, value: Any) -> str:
    numbers = np.asarray(value, dtype=np.float32)
    return graph.constant(numbers.reshape(-1, 1, 1) if numbers.ndim else numbers)


def _unknown(name: object) -> SpecError:
    return SpecError(
        "physical",
        expected="the transform log_rain, reflectivity, standard or identity",
        received=repr(name),
        hint="Leave it out, and pass model values to the graph.",
    )
