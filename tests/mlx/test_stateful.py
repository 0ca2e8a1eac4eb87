"""The stateful layer under the gradients of MLX; the rest is in `tests/frontends`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers
from mlx.utils import tree_flatten

from convlstm.mlx import ConvLSTM, StatefulConvLSTM


def build() -> StatefulConvLSTM:
    return StatefulConvLSTM(ConvLSTM(1, [3, 2], 3, stride=[(2, 2), (1, 1)]))


def test_state_changed_in_place_does_not_change_the_next_call() -> None:
    stream, x = build(), mx.random.normal((2, 6, 8, 7, 1))
    whole = stream.layer(x)[0]
    first, (h, c) = stream(x[:, :2])
    mx.eval(first, h, c)
    for part in (*h, *c):
        part[...] = 9.0
    np.testing.assert_allclose(mx.concatenate([first, stream(x[:, 2:])[0]], axis=1), whole, rtol=0, atol=1e-6)


def test_training_over_several_calls() -> None:
    stream, optimiser = build(), optimizers.SGD(0.1)
    work = nn.value_and_grad(stream, lambda x: stream(x)[0].square().sum())
    for _ in range(4):
        _, gradients = work(mx.random.normal((2, 3, 6, 6, 1)))
        optimiser.update(stream, gradients)
        mx.eval(stream.parameters(), stream.last_state)
    assert all(mx.isfinite(a).all() for _, a in tree_flatten(gradients))


def test_gradient_ends_at_the_border_of_two_calls() -> None:
    stream, x = build(), mx.random.normal((1, 4, 6, 6, 1))

    def loss(x: mx.array) -> mx.array:
        stream.reset_state()
        stream(x[:, :2])
        return stream(x[:, 2:])[0].sum()

    gradient = mx.grad(loss)(x)
    assert not gradient[:, :2].any()
    assert gradient[:, 2:].any()
