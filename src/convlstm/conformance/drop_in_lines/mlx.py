"""Lines of MLX projects as they are written there, apart from the imports."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from convlstm.conformance.drop_in import UsageExample, UsageResult, against_reference
from convlstm.mlx.compat import ConvLSTM, _conv_lstm_cell
from convlstm.mlx.module import SpecModule
from convlstm.mlx.weights import load_canonical, to_canonical
from convlstm.spec.types import Array


def sequence(**options: Any) -> UsageResult:
    """Run the layer on NLHWC."""
    layer = ConvLSTM(in_channels=3, out_channels=8, **{"kernel_size": 5, "bias": True} | options)
    _wake(layer)
    x = mx.random.normal((2, 4, 12, 10, 3))
    output = layer(x)
    _, (h, c) = layer(x, return_state=True)
    pairs = [(_first(a, 1), _first(b, 1)) for a, b in zip(h, c, strict=True)]
    return against_reference(
        *(layer.spec, to_canonical(layer), _first(x, 2), pairs),
        shapes={"output": output.shape},
        output=_first(output, 2),
    )


def without_batch() -> UsageResult:
    """Run the layer on LHWC."""
    layer = ConvLSTM(3, 8)
    _wake(layer)
    x = mx.random.normal((4, 12, 10, 3))
    output, ((h,), (c,)) = layer(x, return_state=True)
    result = [(_first(h[None], 1), _first(c[None], 1))]
    return against_reference(
        *(layer.spec, to_canonical(layer), _first(x[None], 2), result),
        shapes={"output": output.shape},
        output=_first(output[None], 2),
    )


def one_step(*batch: int) -> UsageResult:
    """Run the cell on NHWC, or on HWC without a batch."""
    cell = _conv_lstm_cell(3, 8, kernel_size=5, stride=1, padding=2, dilation=1, bias=True)
    _wake(cell)
    x, h, c = (mx.random.normal((*batch, 12, 10, n)) for n in (3, 8, 8))
    before = _states(h, c)
    h, c = cell(x, (h, c))
    frames = _first(x.reshape(-1, 1, 12, 10, 3), 2)
    result = [_states(h, c)]
    return against_reference(cell.spec, to_canonical(cell), frames, result, shapes={"h, c": h.shape}, states=[before])


EXAMPLES = (
    UsageExample(
        "convlstm-mlx", "ConvLSTM(in_channels=3, out_channels=8, kernel_size=5, bias=True)(x)  # NLHWC", sequence
    ),
    UsageExample("convlstm-mlx", "ConvLSTM(3, 8)(x)  # LHWC", without_batch),
    UsageExample("convlstm-mlx", "h, c = _conv_lstm_cell(3, 8, kernel_size=5)(x, (h, c))  # NHWC", lambda: one_step(2)),
    UsageExample("convlstm-mlx", "h, c = _conv_lstm_cell(3, 8, kernel_size=5)(x, (h, c))  # HWC", one_step),
    UsageExample("convlstm-mlx", "ConvLSTM(3, 8, kernel_size=4)(x)  # even", lambda: sequence(kernel_size=4)),
    UsageExample("convlstm-mlx", "ConvLSTM(3, 8, bidirectional=True)(x)", lambda: sequence(bidirectional=True)),
    UsageExample("convlstm-mlx", "ConvLSTM(3, 8, stride=2)(x)", lambda: sequence(stride=2)),
    UsageExample("convlstm-mlx", "ConvLSTM(3, 8, padding='same')(x)", lambda: sequence(padding="same")),
    UsageExample("convlstm-mlx", "ConvLSTM(3, 8, padding='valid')(x)", lambda: sequence(padding="valid")),
)
"""Every line of the MLX project, and what its text asks for."""


def _wake(module: SpecModule) -> None:
    """Move the peepholes off their start at zero, so that a fault would show."""
    random = np.random.default_rng(0)
    arrays = to_canonical(module)
    for key in arrays:
        if key.endswith("peephole"):
            arrays[key] = np.asarray(0.5 * random.standard_normal(arrays[key].shape))
    load_canonical(module, arrays)


def _states(h: mx.array, c: mx.array) -> tuple[Array, Array]:
    return _first(h.reshape(-1, *h.shape[-3:]), 1), _first(c.reshape(-1, *c.shape[-3:]), 1)


def _first(array: mx.array, axis: int) -> Array:
    """Return an array with its channels at an axis, in float64."""
    return np.moveaxis(np.array(array), -1, axis).astype(np.float64)
