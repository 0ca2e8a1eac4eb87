"""Dropout in MLX's own terms; what every frontend does is in `tests/frontends`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mlx import nn, optimizers

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.mlx import ConvLSTM, Forecaster


def test_masks_as_argument_replace_those_of_the_call() -> None:
    layer, x = ConvLSTM(4, [8, 6], 3, recurrent_dropout=0.5), mx.random.normal((3, 5, 16, 16, 4))
    masks = layer.sample_masks(x, key=mx.random.key(7))
    assert mx.array_equal(layer(x, dropout_masks=masks)[0], layer(x, key=mx.random.key(7))[0])


def test_it_learns_to_remember() -> None:
    """The layer recalls the first of six frames, which no convolution over the last one could."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = ConvLSTM(1, 8, 3), nn.Linear(8, 1)

        def __call__(self, x: mx.array) -> mx.array:
            return (self.head(self.layer(x)[0][:, -1]) - x[:, 0]).square().mean()

    model, optimiser, losses = Model(), optimizers.Adam(1e-2, bias_correction=True), []
    work = nn.value_and_grad(model, model)
    for _ in range(120):
        loss, gradients = work(mx.random.normal((8, 6, 6, 6, 1)))
        optimiser.update(model, gradients)
        mx.eval(model.parameters(), optimiser.state)
        losses.append(loss.item())
    assert losses[0] > 0.8  # the variance of what is to be recalled is 1
    assert sum(losses[-10:]) / 10 < 0.35


def test_global_seed_decides_the_masks_of_a_forecaster() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3, zoneout_h=0.5)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2))
    model.train()
    results = []
    for seed in (2, 2, 3):
        mx.random.seed(seed)
        results.append(np.array(model(mx.ones((1, 3, 8, 8, 1)), 2)))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()
