"""A small builder of ONNX graphs: operators by name, shared constants, and loops over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from convlstm.export.storage import WeightType, is_kernel, quantise
from convlstm.spec.types import Array

OPSET = 18
"""Version of ONNX's operators. Later versions add nothing that these graphs need."""
IR_VERSION = 9
"""Version of the file format, which runtimes from 2023 on read."""
FLOAT, INT64, BOOL = int(TensorProto.FLOAT), int(TensorProto.INT64), int(TensorProto.BOOL)

Step = Callable[["Graph", list[str], list[str]], tuple[list[str], list[str]]]
"""A step of a loop: from the graph, the states and the inputs of one step to the new states and the outputs."""
Dims = Sequence["int | str | None"]


@dataclass
class _Shared:
    """What a graph and the bodies of its loops share."""

    initializers: dict[str, TensorProto] = field(default_factory=dict)
    constants: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    count: int = 0
    weight_type: WeightType = "float32"
    decoders: list[onnx.NodeProto] = field(default_factory=list)  # nodes that make float32 of narrower weights


class Graph:
    """An ONNX graph under construction, or the body of a loop in it.

    Values are named by strings. Constants and weights belong to the outer graph, and the bodies of loops refer to them.
    """

    def __init__(self, name: str, shared: _Shared | None = None, *, weight_type: WeightType = "float32") -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._shared = shared or _Shared(weight_type=weight_type)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output, and return the name of that output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator with `count` outputs, and return their names."""
        outputs = [self._new_name(kind) for _ in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs

    def named(self, value: str, name: str) -> str:
        """Give a value another name."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        return name

    def weight(self, name: str, array: Array) -> str:
        """Return the float32 value of a weight, which is added to the file on first use."""
        shared, plain = self._shared, np.ascontiguousarray(array, dtype=np.float32).reshape(np.shape(array))
        decoded = f"{name}.float32"
        if shared.weight_type == "float32" or not is_kernel(name, plain):
            shared.initializers.setdefault(name, numpy_helper.from_array(plain, name))
            return name
        if name in shared.initializers:
            return decoded
        if shared.weight_type == "float16":
            shared.initializers[name] = numpy_helper.from_array(plain.astype(np.float16), name)
            node = helper.make_node("Cast", [name], [decoded], name=decoded, to=FLOAT)
        else:
            values, scale = quantise(plain)
            shared.initializers[name] = numpy_helper.from_array(values, name)
            shared.initializers[f"{name}.scale"] = numpy_helper.from_array(scale, f"{name}.scale")
            node = helper.make_node("DequantizeLinear", [name, f"{name}.scale"], [decoded], name=decoded, axis=0)
        shared.decoders.append(node)
        return decoded

    def constant(self, value: object, dtype: str = "float32") -> str:
        """Return a constant; equal constants are stored once."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared.constants:
            name = self._new_name("constant")
            self._shared.constants[key] = name
            self._shared.initializers[name] = numpy_helper.from_array(array, name)
        return self._shared.constants[key]

    def integers(self, *values: int) -> str:
        """Return a constant of integers with one axis."""
        return self.constant(values, "int64")

    def add_input(self, name: str, kind: int, dims: Dims) -> str:
        """Add an input of a type, with sizes that are numbers, names of open sizes, or None."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(dims)))
        return name

    def add_default(self, name: str, value: object) -> str:
        """Add an integer input that a caller may leave out."""
        array = np.asarray(value, dtype=np.int64)
        self._shared.initializers[name] = numpy_helper.from_array(array, name)
        return self.add_input(name, INT64, array.shape)

    def add_output(self, name: str, value: str, kind: int, dims: Dims) -> None:
        """Make a value an output of this name."""
        self.named(value, name)
        self.outputs.append(helper.make_tensor_value_info(name, kind, list(dims)))

    def size(self, value: str, axis: int) -> str:
        """Return the size along an axis, as integers of shape (1,)."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def concat(self, values: Sequence[str], axis: int) -> str:
        """Return values joined along an axis."""
        return values[0] if len(values) == 1 else self.op("Concat", *values, axis=axis)

    def expand_axes(self, value: str, *axes: int) -> str:
        """Return a value with new axes of size 1."""
        return self.op("Unsqueeze", value, self.integers(*axes))

    def slice(self, value: str, start: str, end: str, axis: int) -> str:
        """Return the part from start to end along an axis."""
        return self.op("Slice", value, start, end, self.integers(axis))

    def loop(
        self,
        states: list[str],
        inputs: list[tuple[str, int]],
        step: Step,
        outputs: int,
        *,
        steps: int | None,
        reverse: bool = False,
    ) -> tuple[list[str], list[str]]:
        """Run a step over axis 1 of the inputs; return the final states and the outputs, stacked along axis 1.

        With `steps` the loop is unrolled, and without it is a Scan over any number of steps. The inputs are pairs of a
        value and its type; states and outputs are float32. `outputs` is the number of outputs of a step.
        """
        if steps is None:
            return self._scan(states, inputs, step, outputs, reverse)
        parts: list[list[str]] = [[""] * steps for _ in range(outputs)]
        for t in reversed(range(steps)) if reverse else range(steps):
            index = self.constant(t, "int64")
            now = [self.op("Gather", value, index, axis=1) for value, _ in inputs]
            states, results = step(self, states, now)
            for part, result in zip(parts, results, strict=True):
                part[t] = self.expand_axes(result, 1)
        return states, [self.concat(part, 1) for part in parts]

    def _scan(
        self, states: list[str], inputs: list[tuple[str, int]], step: Step, outputs: int, reverse: bool
    ) -> tuple[list[str], list[str]]:
        body = Graph(self._new_name("body"), self._shared)
        state_names = [body.add_input(self._new_name("state"), FLOAT, ()) for _ in states]
        input_names = [body.add_input(self._new_name("input"), kind, ()) for _, kind in inputs]
        new_states, results = step(body, state_names, input_names)
        for value in (*new_states, *results):
            # an output that is also an input needs a name of its own
            body.add_output(self._new_name("output"), value, FLOAT, ())
        direction, axis = int(reverse), 1
        of_outputs: dict[str, list[int]] = {}
        if outputs:
            of_outputs = {"scan_output_axes": [axis] * outputs, "scan_output_directions": [direction] * outputs}
        scanned = self.ops(
            "Scan",
            len(states) + outputs,
            *states,
            *(value for value, _ in inputs),
            body=body.build(with_initializers=False, open_shapes=True),
            num_scan_inputs=len(inputs),
            scan_input_axes=[axis] * len(inputs),
            scan_input_directions=[direction] * len(inputs),
            **of_outputs,
        )
        return scanned[: len(states)], scanned[len(states) :]

    def build(self, *, with_initializers: bool = True, open_shapes: bool = False) -> onnx.GraphProto:
        """Return the graph; with `open_shapes` its inputs and outputs have types only."""
        inputs, outputs = self.inputs, self.outputs
        if open_shapes:
            inputs, outputs = [_typed_only(value) for value in inputs], [_typed_only(value) for value in outputs]
        initializers = list(self._shared.initializers.values()) if with_initializers else []
        nodes = [*self._shared.decoders, *self.nodes] if with_initializers else self.nodes
        return helper.make_graph(nodes, self.name, inputs, outputs, initializers)

    def _new_name(self, kind: str) -> str:
        self._shared.count += 1
        return f"{kind.lower()}_{self._shared.count}"


def _typed_only(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)
