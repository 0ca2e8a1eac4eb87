"""Dropout in Flax's own terms; what every frontend does is in `tests/frontends`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convlstm.flax import ConvLSTM, ConvLSTMCell

KINDS = ["input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c", "dropout"]


def test_key_and_mode_decide_the_masks() -> None:
    options: dict[str, Any] = dict.fromkeys(KINDS, 0.5)
    layer = ConvLSTM(4, 8, 3, 2, **options, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 6, 6, 4)), jnp.float32)
    one, same, other = (layer(x, rngs=jax.random.key(seed))[1] for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (layer(x)[1] != layer(x)[1]).any()  # its own keys move on
    assert (layer(x, rngs=nnx.Rngs(3))[1] == layer(x, rngs=nnx.Rngs(3))[1]).all()
    layer.eval()
    np.testing.assert_array_equal(layer(x)[1], layer(x, rngs=jax.random.key(1))[1])
    quiet = ConvLSTM(4, 8, 3, 2, zoneout_h=0.5, zoneout_c=0.5, rngs=nnx.Rngs(0))  # zoneout acts by its rates there
    quiet.eval()
    quiet.set_params(layer.params)
    np.testing.assert_array_equal(quiet(x)[1], layer(x)[1])


def test_cell_in_nnx_rnn_samples_each_step() -> None:
    cell = ConvLSTMCell(1, 4, 3, zoneout_h=0.4, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 12, 8, 8, 1)), jnp.float32)
    y = nnx.RNN(cell)(x)
    kept = y[:, 1:] == y[:, :-1]
    # 5632 points: five standard deviations of a share of 0.4 are 0.033
    assert float(kept.mean()) == pytest.approx(0.4, abs=0.033)
    assert (kept[:, 0] != kept[:, 1]).any()
