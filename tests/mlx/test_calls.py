"""What MLX alone has: outputs of all layers; the rest is in `tests/frontends`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers

from convlstm.mlx import ConvLSTM, ConvLSTMCell, to_canonical


def same(found: list[mx.array], wanted: list[mx.array]) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_layer_in_words() -> None:
    assert repr(ConvLSTM(1, [2, 3], (3, 5))) == "ConvLSTM(1, [2, 3], kernel_size=(3, 5))"


@pytest.mark.parametrize("merge", ["concat", "separate"])
def test_the_outputs_of_all_layers(merge: str) -> None:
    layer, x = ConvLSTM(2, 3, 3, 2, bidirectional=True, merge=merge), mx.random.normal((2, 4, 5, 5, 2))
    (first, last), (h, _) = layer(x, all_layers=True)
    output, _ = layer(x)
    if merge == "concat":
        first, last, output = (mx.split(a, 2, axis=-1) for a in (first, last, output))
    same(list(last), list(output))
    same([first[0][:, -1], first[1][:, 0]], list(h[:2]))


def test_detached_state_trains_for_many_steps() -> None:
    layer, state = ConvLSTM(1, 4, 3, num_layers=2), None
    optimiser = optimizers.SGD(0.1)

    def loss(x: mx.array, state: Any) -> tuple[mx.array, Any]:
        output, after = layer(x, state)
        return output.square().sum(), after

    for _ in range(4):
        (_, state), gradients = nn.value_and_grad(layer, loss)(mx.random.normal((2, 3, 6, 6, 1)), state)
        optimiser.update(layer, gradients)
        mx.eval(layer.parameters(), state)
    assert all(np.isfinite(a).all() for a in to_canonical(layer).values())


def test_low_precision_keeps_c_in_float32() -> None:
    layer = ConvLSTM(1, 2, 3, dtype=mx.bfloat16, num_layers=2)
    output, (h, c) = layer(mx.zeros((1, 2, 4, 4, 1), dtype=mx.bfloat16))
    assert {output.dtype, *(a.dtype for a in h)} == {mx.bfloat16}
    assert {a.dtype for a in c} == {mx.float32}
    assert [a.dtype for a in ConvLSTMCell(1, 2, 3, dtype=mx.float16).init_hidden(1, 4)] == [mx.float16, mx.float32]
