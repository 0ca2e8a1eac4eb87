"""A stack of layers over a time-first sequence on the active backend's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras

from convlstm.frontend.layers import run_layers
from convlstm.keras.engines import State, Tensor, sequence
from convlstm.spec.geometry import effective_kernel
from convlstm.spec.layer import LayerSpec
from convlstm.spec.masks import DropoutMasks
from convlstm.spec.options import ConvLSTMSpec

Size = tuple[Any, ...]
concatenate = partial(keras.ops.concatenate, axis=-1)
"""Join outputs along their channels."""


def run_stack(
    spec: ConvLSTMSpec,
    weights_of: Callable[[int, str], dict[str, Tensor]],
    x: Tensor | None,
    states: Sequence[State | None],
    *,
    steps: Any,
    mask: Tensor | None = None,
    durations: Tensor | None = None,
    gaps: Mapping[str, Tensor] | None = None,
    dropout_masks: DropoutMasks | None = None,
    training: bool = False,
) -> tuple[list[tuple[Tensor, ...]], list[State]]:
    """Run every layer and direction over x (time, batch, *space, in_channels).

    A stack without input takes frames of no channels, or None.
    States are (h, c) indexed layer · D + direction; None means zeros, for a stack with input. The outputs are time
    first, per layer those of its directions, forward first. `training` says whether a gradient follows.
    """

    def run_layer(layer: LayerSpec, direction: str, x: Tensor | None, state: State | None) -> tuple[Tensor, State]:
        return sequence(
            layer,
            weights_of(layer.index, direction),
            x if layer.in_channels else None,
            state,
            steps=steps,
            reverse=direction == "reverse",
            mask=mask,
            durations=durations,
            gaps=None if not gaps else gaps[direction],
            masks=None if dropout_masks is None else dropout_masks.masks.get((layer.index, direction)),
            training=training,
        )

    return run_layers(spec, x, states, run_layer, concatenate, masks=dropout_masks)


def zero_states(spec: ConvLSTMSpec, dtype: str, batch: Any, input_size: Size) -> list[State]:
    """Return zero states for frames of this spatial size, indexed layer · D + direction."""
    shapes = [
        (batch, *grid, layer.hidden_channels)
        for layer, grid in zip(spec.layers, grids(spec, input_size), strict=True)
        for _ in spec.directions
    ]
    return [(keras.ops.zeros(shape, dtype), keras.ops.zeros(shape, cell_dtype(dtype))) for shape in shapes]


def grids(spec: ConvLSTMSpec, input_size: Size) -> tuple[Size, ...]:
    """Return the state's grid of every layer; sizes that only a graph knows are tensors, unknown ones None."""
    if all(isinstance(n, int) for n in input_size):
        return spec.grids(input_size)
    result: list[Size] = []
    for layer in spec.layers:
        size = result[-1] if result else input_size
        result.append(
            tuple(
                _points(n, effective_kernel(k, d), s, layer.padding, axis)
                for axis, (n, k, d, s) in enumerate(
                    zip(size, layer.kernel_size, layer.dilation, layer.stride, strict=True)
                )
            )
            if layer.in_channels
            else size
        )
    return tuple(result)


def cell_dtype(dtype: str) -> str:
    """Return the type of c for an h of this type: at least float32."""
    return "float32" if dtype in ("bfloat16", "float16") else dtype


def _points(n: Any, span: int, stride: int, padding: Any, axis: int) -> Any:
    if n is None:
        return None
    if padding == "same":
        return -(-n // stride)
    around = 0 if padding == "valid" else 2 * padding[axis]
    return (n + around - span) // stride + 1
