"""On one point the layer is `mlx.nn.LSTM`; the laws of every frontend are in `tests/frontends`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn import LSTM

from convlstm.mlx import ConvLSTM


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape)


@pytest.mark.parametrize("bias", [True, False])
def test_on_one_point_it_is_mlx_nn_lstm(bias: bool) -> None:
    dense, layer = LSTM(3, 4, bias=bias), ConvLSTM(3, 4, 3, bias=bias)
    kernels = {"weight_ih": dense.Wx, "weight_hh": dense.Wh}
    for name, matrix in kernels.items():
        kernel = mx.zeros((16, 3, 3, matrix.shape[1]))
        kernel[:, 1, 1] = matrix  # of a 3×3 kernel only the middle falls on the one point
        layer.layers[0]["forward"][name] = kernel
    if bias:
        dense.bias = normal(16)
        layer.layers[0].forward.bias = dense.bias
    x, h, c = (normal(*shape) for shape in ((2, 6, 3), (2, 4), (2, 4)))
    expected, cells = dense(x, h, c)
    output, (h_n, c_n) = layer(x[:, :, None, None], (h[:, None, None], c[:, None, None]))
    for found, wanted in ((output, expected), (h_n[0][:, None], expected[:, -1:]), (c_n[0][:, None], cells[:, -1:])):
        np.testing.assert_allclose(found[:, :, 0, 0], wanted, rtol=0, atol=1e-6)
