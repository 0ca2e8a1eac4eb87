"""The forecaster module: what it returns, and how it behaves beside its definition (values: test_parity)."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.mlx import Forecaster, to_canonical
from convlstm.reference.forecaster import depth_to_space, space_to_depth
from convlstm.spec.presets import PRESETS


def build(rollout: str = "states", stack: dict[str, Any] | None = None, **options: Any) -> Forecaster:
    encoder = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 5], kernel_size=3, **stack or {})
    return Forecaster(ForecasterSpec(encoder=encoder, patch_size=2, rollout=rollout, **options)).eval()


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_shapes_and_parts(rollout: str) -> None:
    model = build(rollout)
    assert model(mx.zeros((2, 3, 8, 6, 1)), 4).shape == (2, 4, 8, 6, 1)
    assert (model.forecaster is None) == (rollout == "feedback")
    assert model.head.weight.shape == (4, 8 if rollout == "states" else 5)


def test_patches_have_the_contracts_channel_order() -> None:
    stack = ConvLSTMSpec(in_channels=18, hidden_channels=2, kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=3, frame_channels=2))
    frames = np.random.default_rng(0).standard_normal((2, 3, 2, 6, 9)).astype(np.float32)
    patched = model._patched(mx.array(np.moveaxis(frames, 2, -1)))
    np.testing.assert_array_equal(np.moveaxis(np.array(patched), -1, 2), space_to_depth(frames, 3))
    model.head = lambda hidden: hidden
    again = model._head(patched)
    np.testing.assert_array_equal(np.moveaxis(np.array(again), -1, 2), depth_to_space(space_to_depth(frames, 3), 3))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_a_longer_horizon_goes_on_from_the_shorter(rollout: str) -> None:
    model, frames = build(rollout, residual=True), mx.random.normal((2, 3, 8, 6, 1))
    np.testing.assert_allclose(model(frames, 6)[:, :2], model(frames, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask", [[[1, 1, 0], [0, 0, 0]], [[0, 1, 0], [1, 1, 1]]])
def test_masked_frames_are_not_seen(mask: list) -> None:
    model, frames = build(residual=True), mx.random.normal((2, 3, 8, 6, 1))
    valid = np.array(mask, dtype=bool)
    forecasts = []
    for value in (0.0, float("nan")):
        dirty = mx.where(mx.array(valid)[:, :, None, None, None], frames, value)
        forecasts.append(model(dirty, 3, mask=mx.array(mask)))
        gradient = mx.grad(lambda x: model(x, 3, mask=valid).sum())(dirty)
        assert not np.array(gradient)[~valid].any()
    assert mx.array_equal(*forecasts)
    assert mx.array_equal(model(frames, 3, mask=mask), forecasts[0])


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "softplus"])
def test_the_output_activation_bounds_the_output(activation: str) -> None:
    forecast = build(output_activation=activation)(mx.random.normal((2, 3, 8, 6, 1)) * 3, 4)
    assert (forecast >= 0).all()
    assert activation != "sigmoid" or (forecast <= 1).all()


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_rows_do_not_meet(rollout: str) -> None:
    model, frames = build(rollout, stack={"norm": "layer"}), mx.random.normal((3, 3, 8, 6, 1))
    together = model(frames, 3)
    for row in range(3):
        np.testing.assert_allclose(model(frames[row : row + 1], 3)[0], together[row], rtol=0, atol=1e-5)


def test_a_spec_starts_from_one_seed() -> None:
    one, other = build(), build()
    one.reset_parameters(seed=5)
    other.reset_parameters(seed=5)
    for key, array in to_canonical(one).items():
        np.testing.assert_array_equal(to_canonical(other)[key], array)


def test_float32_frames_beside_low_precision_keep_what_residual_adds() -> None:
    model, frames = build(residual=True), mx.full((1, 2, 8, 6, 1), 1000.3)
    model.set_dtype(mx.bfloat16)
    model.head.update({name: mx.zeros_like(a) for name, a in model.head.items()})
    np.testing.assert_array_equal(model(frames, 2), frames)
    assert model(frames.astype(mx.bfloat16), 2).dtype == mx.bfloat16


@pytest.mark.parametrize("name", ["shi2015-1x1-128-64-64", "openstl-kth"])
def test_presets_build_and_run(name: str) -> None:
    spec = PRESETS[name]
    model = Forecaster(spec).eval()
    size = 2 * spec.patch_size
    forecast = model(mx.random.uniform(shape=(1, 2, size, size, spec.frame_channels)), 2)
    assert forecast.shape == (1, 2, size, size, spec.frame_channels)
    assert mx.isfinite(forecast).all()
