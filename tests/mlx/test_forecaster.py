"""The forecaster's patches and low precision in MLX; the rest is in `tests/frontends`."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.mlx import Forecaster
from convlstm.reference.forecaster import depth_to_space, space_to_depth


def test_patches_have_the_contracts_channel_order() -> None:
    stack = ConvLSTMSpec(in_channels=18, hidden_channels=2, kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=3, frame_channels=2))
    frames = np.random.default_rng(0).standard_normal((2, 3, 2, 6, 9)).astype(np.float32)
    patched = model._patched(mx.array(np.moveaxis(frames, 2, -1)))
    np.testing.assert_array_equal(np.moveaxis(np.array(patched), -1, 2), space_to_depth(frames, 3))
    model.head = lambda hidden: hidden
    again = model._head(patched)
    np.testing.assert_array_equal(np.moveaxis(np.array(again), -1, 2), depth_to_space(space_to_depth(frames, 3), 3))


def test_residual_adds_float32_frames_exactly_in_low_precision() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 5], kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True)).eval()
    frames = mx.full((1, 2, 8, 6, 1), 1000.3)
    model.set_dtype(mx.bfloat16)
    model.head.update({name: mx.zeros_like(a) for name, a in model.head.items()})
    np.testing.assert_array_equal(model(frames, 2), frames)
    assert model(frames.astype(mx.bfloat16), 2).dtype == mx.bfloat16
