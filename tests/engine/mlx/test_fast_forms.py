"""The faster forms that replace MLX's own on a CPU: equal values, derivatives included."""

from __future__ import annotations

import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from convlstm.engine.mlx import activations as mlx_activations
from convlstm.engine.mlx.activations import ACTIVATION_FUNCTIONS
from convlstm.engine.mlx.convolution import convolve, convolve_state
from convlstm.mlx import ConvLSTM

EXACT = {"tanh": np.tanh, "sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x))}
SLOPE = {"tanh": lambda y: 1.0 - y * y, "sigmoid": lambda y: y * (1.0 - y)}
KERNELS = [
    (((1, 1), (1, 1)), (3, 3), ("zeros", "zeros"), (1, 1)),
    (((0, 1), (2, 2)), (2, 5), ("zeros", "circular"), (1, 1)),
    (((1, 1),), (3,), ("reflect",), (1,)),
    (((0, 0), (1, 1), (0, 1)), (1, 3, 2), ("zeros",) * 3, (1, 1, 1)),
    (((1, 2), (2, 2)), (2, 3), ("zeros", "circular"), (3, 2)),
]


@pytest.mark.parametrize("name", EXACT)
def test_activations_are_right_to_a_few_last_digits_everywhere(name: str) -> None:
    x = np.concatenate([np.linspace(-40, 40, 400_001), 10.0 ** np.arange(-30, 2)]).astype(np.float32)
    function = ACTIVATION_FUNCTIONS[name]
    y, slope = (np.array(a, np.float64) for a in (function(mx.array(x)), _slope(function, x)))
    wanted = EXACT[name](x.astype(np.float64))
    np.testing.assert_allclose(y, wanted, rtol=0, atol=4e-7)
    np.testing.assert_allclose(slope, SLOPE[name](wanted), rtol=0, atol=1e-6)
    if name == "tanh":
        np.testing.assert_allclose(y, wanted, rtol=4e-7)
    limits = function(mx.array([float("nan"), float("inf"), -float("inf")]))
    np.testing.assert_allclose(np.array(limits), [np.nan, 1.0, -1.0 if name == "tanh" else 0.0], atol=1e-7)


@pytest.mark.skipif(sys.platform == "darwin", reason="MLX's own tanh is fast there")
def test_fast_tanh_is_used_where_mlx_is_slow() -> None:
    x = mx.random.normal((3, 4))
    assert mlx_activations._is_slow(x)
    assert not mlx_activations._is_slow(x.astype(mx.bfloat16))
    function = ACTIVATION_FUNCTIONS["tanh"]
    for found, wanted in (
        (mx.vmap(function, in_axes=1, out_axes=1)(x), mx.tanh(x)),
        (mx.jvp(function, [x], [x])[1][0], x * (1 - mx.tanh(x) ** 2)),
        (mx.vmap(mx.grad(lambda x: function(x).sum()))(x), 1 - mx.tanh(x) ** 2),
        (_slope(lambda x: _slope(function, x), x), -2 * mx.tanh(x) * (1 - mx.tanh(x) ** 2)),
    ):
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=0, atol=2e-6)


def _with_dilation(x: mx.array, w: mx.array, widths: Any, boundary: Any, dilation: Any) -> mx.array:
    return convolve(x, w, widths, boundary, dilation=dilation)


@pytest.mark.parametrize(("widths", "kernel", "boundary", "dilation"), KERNELS)
def test_the_convolution_of_the_state_is_the_convolution(
    widths: Any, kernel: Any, boundary: Any, dilation: Any
) -> None:
    x, w = mx.random.normal((2, *(5, 6, 4)[: len(kernel)], 3)), mx.random.normal((8, *kernel, 3))

    def derivatives(convolution: Any) -> list[mx.array]:
        def loss(x: mx.array, w: mx.array) -> mx.array:
            return mx.sin(0.1 * convolution(x, w, widths, boundary, dilation)).sum()

        def of_gradient(x: mx.array, w: mx.array) -> mx.array:
            return sum((part**2).sum() for part in mx.grad(loss, argnums=(0, 1))(x, w))

        first, second = (mx.grad(f, argnums=(0, 1))(x, w) for f in (loss, of_gradient))
        return [convolution(x, w, widths, boundary, dilation), *first, *second]

    for found, wanted in zip(derivatives(convolve_state), derivatives(_with_dilation), strict=True):
        np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=1e-4, atol=1e-4)
    xs, ws = mx.random.normal((2, 3, *x.shape[1:])), mx.random.normal((8, *kernel, 2, 3))
    one = lambda x, w: convolve_state(x, w, widths, boundary, dilation)  # noqa: E731
    rows = [_with_dilation(xs[:, n], w, widths, boundary, dilation) for n in range(3)]
    np.testing.assert_array_equal(np.array(mx.vmap(one, in_axes=(1, None))(xs, w)), np.array(mx.stack(rows)))
    rows = [_with_dilation(x, ws[..., n, :], widths, boundary, dilation) for n in range(2)]
    np.testing.assert_array_equal(np.array(mx.vmap(one, in_axes=(None, -2))(x, ws)), np.array(mx.stack(rows)))
    assert mx.vmap(one, in_axes=(1, None))(xs[:, :0], w).shape == (0, *rows[0].shape)
    assert mx.vmap(one, in_axes=(None, -2))(x, ws[..., :0, :]).shape == (0, *rows[0].shape)


@pytest.mark.parametrize("reverse", [False, True])
def test_no_state_is_a_state_of_zeros(reverse: bool) -> None:
    options = {"norm": "layer", "peephole": "channel", "direction": "reverse" if reverse else "forward"}
    layer = ConvLSTM(2, [3, 4], 3, zoneout_h=0.2, duration_strategy="linear", **options).eval()
    x, durations = mx.random.normal((2, 3, 5, 6, 2)), mx.random.uniform(0.5, 2.0, (2, 3))
    mask = mx.array([[False, True, True], [True, False, True]])
    zeros = tuple(tuple(mx.zeros((2, 5, 6, n)) for n in (3, 4)) for _ in "hc")

    def call(state: Any) -> Any:
        return layer(x, state, durations=durations, mask=mask)[0]

    np.testing.assert_allclose(np.array(call(None)), np.array(call(zeros)), rtol=0, atol=1e-6)


def _slope(function: Any, x: Any) -> mx.array:
    return mx.grad(lambda x: function(x).sum())(mx.array(x))
