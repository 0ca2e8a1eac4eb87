"""A layer that goes on where its last call ended."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers
from mlx.utils import tree_flatten

from convlstm.errors import SpecError, StateError
from convlstm.mlx import ConvLSTM, StatefulConvLSTM


def build(**options: Any) -> StatefulConvLSTM:
    return StatefulConvLSTM(ConvLSTM(1, [3, 2], 3, stride=[(2, 2), (1, 1)], **options))


def test_parts_one_after_another_are_the_whole() -> None:
    stream, x = build(), mx.random.normal((2, 6, 8, 7, 1))
    whole, (h, c) = stream.layer(x)
    parts = [stream(x[:, t : t + 2])[0] for t in (0, 2, 4)]
    np.testing.assert_allclose(mx.concatenate(parts, axis=1), whole, rtol=0, atol=1e-6)
    for a, b in zip([*h, *c], [*stream.last_state[0], *stream.last_state[1]], strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-6)


def test_a_returned_state_changed_in_place_does_not_change_the_next_call() -> None:
    stream, x = build(), mx.random.normal((2, 6, 8, 7, 1))
    whole = stream.layer(x)[0]
    first, (h, c) = stream(x[:, :2])
    mx.eval(first, h, c)
    for part in (*h, *c):
        part[...] = 9.0
    np.testing.assert_allclose(mx.concatenate([first, stream(x[:, 2:])[0]], axis=1), whole, rtol=0, atol=1e-6)


def test_b01_training_goes_on_over_several_calls() -> None:
    stream, optimiser = build(), optimizers.SGD(0.1)
    work = nn.value_and_grad(stream, lambda x: stream(x)[0].square().sum())
    for _ in range(4):
        _, gradients = work(mx.random.normal((2, 3, 6, 6, 1)))
        optimiser.update(stream, gradients)
        mx.eval(stream.parameters(), stream.last_state)
    assert all(mx.isfinite(a).all() for _, a in tree_flatten(gradients))


def test_no_gradient_passes_the_border() -> None:
    stream, x = build(), mx.random.normal((1, 4, 6, 6, 1))

    def loss(x: mx.array) -> mx.array:
        stream.reset_state()
        stream(x[:, :2])
        return stream(x[:, 2:])[0].sum()

    gradient = mx.grad(loss)(x)
    assert not gradient[:, :2].any()
    assert gradient[:, 2:].any()


def test_b03_b04_another_batch_is_refused_by_name_and_a_reset_takes_it(refused) -> None:
    stream, x = build(), mx.random.normal((2, 3, 8, 7, 1))
    first = stream(x)[0]
    for other in (x[:1], x[:, :, :6]):
        with refused(StateError, "x"):
            stream(other)
    stream.reset_state()
    assert mx.array_equal(stream(x)[0], first)


def test_rows_begin_anew_one_by_one(refused) -> None:
    stream, x = build(), mx.random.normal((2, 3, 8, 7, 1))
    fresh = stream(x)[0]
    stream.reset_state([True, False])
    again = stream(x)[0]
    np.testing.assert_allclose(again[0], fresh[0], rtol=0, atol=1e-6)
    assert (again[1] != fresh[1]).any()
    with refused(StateError, "rows"):
        stream.reset_state([True])
    with refused(SpecError, "rows"):
        stream.reset_state([1, 0])


def test_b08_nothing_of_the_state_is_saved() -> None:
    stream = build()
    before = dict(tree_flatten(stream.parameters())).keys()
    stream(mx.zeros((1, 2, 8, 7, 1)))
    assert dict(tree_flatten(stream.parameters())).keys() == before


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"direction": "reverse"}])
def test_a_backward_layer_is_refused(options: dict, refused) -> None:
    with refused(SpecError, "direction"):
        build(**options)
    with refused(StateError, "state"):
        build()(mx.zeros((1, 2, 8, 7, 1)), state=None)
