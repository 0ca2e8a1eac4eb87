"""The forecaster's own habits: its frames, horizons, masks and refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ShapeError
from convlstm.flax import Forecaster
from convlstm.jax.forecasting import depth_to_space, space_to_depth
from convlstm.reference import forecaster as reference_forecaster

STACK = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3)
FRAMES = np.float32(np.random.default_rng(0).standard_normal((2, 3, 6, 8, 1)))


def build(stack: ConvLSTMSpec = STACK, **options: Any) -> Forecaster:
    return Forecaster(ForecasterSpec(encoder=stack, patch_size=2, **options), rngs=nnx.Rngs(0))


def test_patches_are_folded_as_in_the_contract() -> None:
    frames = np.random.default_rng(0).standard_normal((2, 3, 6, 4))
    expected = np.moveaxis(reference_forecaster.space_to_depth(frames, 2), -3, -1)
    folded = space_to_depth(jnp.asarray(np.moveaxis(frames, -3, -1)), 2)
    np.testing.assert_allclose(folded, expected, rtol=1e-6)
    np.testing.assert_allclose(depth_to_space(folded, 2), np.moveaxis(frames, -3, -1), rtol=1e-6)


def test_no_future_frame_and_no_masked_frame_is_needed() -> None:
    model, mask = build(residual=True), np.array([[True, True, False], [False, False, False]])
    dirty = np.where(mask[:, :, None, None, None], FRAMES, np.nan)
    found = jax.jit(lambda frames: model(frames, 2, mask=mask))(dirty)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0], model(FRAMES[:1, :2], 2)[0], atol=1e-6)


def test_export_with_open_batch_and_time_fills_absent_frames() -> None:
    model = build(detail_channels=2, detail_frames=3, detail_kernel=3, thresholds=(0.1, 1.0))
    model.eval()
    batch, time = jax.export.symbolic_shape("batch, time")
    frames = jax.ShapeDtypeStruct((batch, time, 6, 8, 1), jnp.float32)
    exported = jax.export.export(jax.jit(lambda frames: model(frames, 2)))(frames)
    for steps in (2, 3):  # detail_frames is 3
        np.testing.assert_allclose(exported.call(FRAMES[:1, :steps]), model(FRAMES[:1, :steps], 2), atol=1e-6)


def test_residual_keeps_the_type_of_the_frames() -> None:
    model = Forecaster(ForecasterSpec(encoder=STACK, patch_size=2, residual=True), dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert model(FRAMES, 2).dtype == jnp.float32
    assert model(jnp.asarray(FRAMES, jnp.bfloat16), 2).dtype == jnp.bfloat16
    np.testing.assert_allclose(model(FRAMES, 2), build(residual=True)(FRAMES, 2), atol=5e-2)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("frames", {"frames": FRAMES[:, :, :5]}),
        ("frames", {"frames": FRAMES[:, :0]}),
        ("frames", {"frames": FRAMES[0]}),
        ("frames", {"frames": np.zeros((2, 3, 6, 8, 2))}),
        ("horizon", {"horizon": 0}),
        ("horizon", {"horizon": 2.0}),
        ("lead_durations", {"lead_durations": 1.0}),
        ("mask", {"mask": np.ones((3, 2), dtype=bool)}),
    ],
)
def test_wrong_calls_are_refused_by_name(argument: str, call: dict, refused) -> None:
    with refused(ShapeError, argument):
        build()(**{"frames": FRAMES, "horizon": 2} | call)


def test_durations_are_asked_for_where_they_are_used(refused) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3, duration_strategy="linear")
    with refused(ShapeError, "durations"):
        build(stack)(FRAMES, 2, lead_durations=1.0)
    even = build(stack)(FRAMES, 2, durations=1.0, lead_durations=[1.0, 1.0])
    assert (build(stack)(FRAMES, 2, durations=1.0, lead_durations=[1.0, 2.0])[:, 1] != even[:, 1]).any()
