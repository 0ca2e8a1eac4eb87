"""Print the errors of the kernels of Triton as JSON; run with `TRITON_INTERPRET=1`.

Both forms of the gates get the same arrays, rounded to the type: the kernels, and PyTorch's operations in float64.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from contextlib import nullcontext
from itertools import product
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from convlstm.conformance.adapters.torch import run
from convlstm.conformance.compare import compare
from convlstm.conformance.random_layers import common_case
from convlstm.engine.torch import accelerator, accelerator_gates
from convlstm.engine.torch.accelerator_gates import TorchStepGates
from convlstm.engine.torch.triton_gates import TritonStepGates

FORMATS = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
SHAPES = [(3, 5, 9, 9), (2, 5, 7), (2, 3, 2, 3, 4)]
TERMS = [(True, True, True), (True, False, False), (False, True, True), (False, False, True)]
"""Whether z has a term of x, of h and of the bias."""

Errors = dict[str, dict[str, float]]


def random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return random values in the layout of an engine's array."""
    values = torch.randn(shape).mul(2).to(dtype)
    return values.contiguous(memory_format=FORMATS[len(shape)]) if len(shape) in FORMATS else values


def wide(array: Tensor | None) -> Tensor | None:
    """Return a copy in float64."""
    return None if array is None else array.double().clone()


def note(errors: dict[str, float], name: str, value: Tensor, expected: Tensor) -> None:
    """Keep the largest difference relative to max(1, max|expected|)."""
    error = float((value.double() - expected).abs().max() / expected.abs().max().clamp(min=1))
    errors[name] = max(errors.get(name, 0.0), error)


def check_gates(errors: dict[str, float], shape: tuple[int, ...], dtype: torch.dtype, has_peephole: bool) -> None:
    """Compare a step forward and backward in all combinations of its terms."""
    gate_shape, broadcast = (shape[0], 4 * shape[1], *shape[2:]), (-1, *(1,) * (len(shape) - 2))
    peephole = random((3, shape[1]), dtype) if has_peephole else None
    peepholes = None if peephole is None else peephole.double().reshape(3, *broadcast).unbind()
    for has_input, has_recurrent, has_bias in TERMS:
        bias = random((gate_shape[1],), dtype) if has_bias else None
        kernels = TritonStepGates(shape, FORMATS[len(shape)], bias, peephole)
        exact = TorchStepGates(gate_shape, None if bias is None else bias.double().reshape(broadcast), peepholes)
        z_x = random(gate_shape, dtype) if has_input else None
        recurrent = torch.randn(gate_shape).to(dtype) if has_recurrent else None
        before, after, h = random(shape, torch.float32), random(shape, torch.float32), random(shape, dtype)
        wide_after, wide_h = (torch.empty(shape, dtype=torch.float64) for _ in range(2))
        wide_gates = torch.empty(gate_shape, dtype=torch.float64)
        exact.forward(wide(z_x), wide(recurrent), before.double(), wide_after, wide_h, wide_gates)
        kernels.forward(z_x, recurrent, before, after, h, None)
        note(errors, "h", h, wide_h)
        gates = random(gate_shape, dtype) if z_x is None else z_x
        kernels.forward(z_x, recurrent, before, after, h, gates)
        note(errors, "c", after, wide_after)
        note(errors, "h", h, wide_h)
        note(errors, "gates", gates, wide_gates)
        for has_later, has_output in product((True, False), repeat=2):
            later = torch.randn(shape).to(dtype) if has_later else None
            output = random(shape, dtype) if has_output else None
            dz, dc = gates.clone(), random(shape, torch.float32)
            wide_dz, wide_dc = gates.double(), dc.double()
            exact.backward(wide_dz, before.double(), after.double(), wide(later), wide(output), wide_dc)
            kernels.backward(dz, before, after, later, output, dc)
            note(errors, "dz", dz, wide_dz)
            note(errors, "dc", dc, wide_dc)


def check_layers(errors: dict[str, float]) -> None:
    """Compare whole layers with the reference, with the kernels in each of their steps."""
    launches = 0
    forward = TritonStepGates.forward

    def counted(self: TritonStepGates, *arrays: Any) -> None:
        nonlocal launches
        launches += 1
        forward(self, *arrays)

    with (
        mock.patch.object(accelerator, "serves", return_value=True),
        mock.patch.object(accelerator_gates, "triton_serves", return_value=True),
        mock.patch.object(accelerator, "on_device", return_value=nullcontext()),
        mock.patch.object(TritonStepGates, "forward", counted),
    ):
        for seed in range(8):
            found = compare(common_case(seed), run, "float32")
            errors["value"] = max(errors.get("value", 0.0), found.value)
            errors["derivative"] = max(errors.get("derivative", 0.0), found.derivative)
    errors["launches"] = launches


def main() -> None:
    """Run every check."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    errors: Errors = defaultdict(dict)
    for name, shape, has_peephole in product(("float32", "bfloat16", "float16"), SHAPES, (True, False)):
        check_gates(errors[name], shape, getattr(torch, name), has_peephole)
    check_layers(errors["layers"])
    sys.stdout.write(json.dumps(errors))


if __name__ == "__main__":
    main()
