"""The forecaster module: shapes, horizons, masks and types; its values are compared in `tests/conformance`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ShapeError, StateError
from convlstm.reference import forecaster as reference
from convlstm.spec.presets import PRESETS
from convlstm.weights.canonical import canonical_shapes

DETAIL = {"detail_channels": 3, "detail_frames": 4, "detail_kernel": 3}
EVENTS = DETAIL | {"thresholds": (0.1, 1.0, 5.0)}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def build(frontend, rollout: str = "states", stack: dict[str, Any] | None = None, **options: Any) -> Any:
    encoder = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 5], kernel_size=3, **stack or {})
    model = frontend.build("Forecaster", ForecasterSpec(encoder=encoder, patch_size=2, rollout=rollout, **options))
    model.eval()
    return model


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_shapes_and_parts(rollout: str, frontend) -> None:
    model = build(frontend, rollout)
    assert frontend.forecast(model, normal(2, 3, 1, 8, 6), 4).shape == (2, 4, 1, 8, 6)
    arrays = frontend.to_canonical(model)
    assert any(key.startswith("forecaster.") for key in arrays) == (rollout == "states")
    assert arrays["head.weight"].shape == (4, 8 if rollout == "states" else 5, 1, 1)


@pytest.mark.parametrize(
    "options",
    [DETAIL | {"output_activation": "softplus", "residual": True}, {"thresholds": (0.1, 1.0, 5.0)}, EVENTS],
    ids=["detail", "thresholds", "both"],
)
def test_output_is_that_of_the_reference(options: dict, frontend) -> None:
    model, frames = build(frontend, **options), normal(2, 3, 1, 8, 6)
    shapes = canonical_shapes(model.spec)
    arrays = {key: 0.5 * normal(*shape) for key, shape in shapes.items()}
    frontend.load_canonical(model, arrays)
    forecast = frontend.forecast(model, frames, 4)
    weights = {key: np.float64(array) for key, array in arrays.items()}
    np.testing.assert_allclose(forecast, reference.forecast(model.spec, weights, np.float64(frames), 4), atol=1e-5)
    assert forecast.shape == (2, 4, len(model.spec.thresholds) or 1, 8, 6)


def test_logits_never_increase_with_the_threshold(frontend) -> None:
    model = build(frontend, thresholds=tuple(range(12)))
    arrays = frontend.to_canonical(model)
    # softplus from 2e-9 to 1e-4: rounding could reverse such small differences
    bias = np.repeat(np.linspace(0, 1, 12, dtype=np.float32) * 11 - 20, 4)
    bias[:4] = 1.0
    frontend.load_canonical(model, arrays | {"head.bias": bias})
    logits = frontend.forecast(model, normal(2, 3, 1, 8, 6), 4)
    assert (np.diff(logits, axis=2) <= 0).all()
    assert (logits[:, :, -1] < logits[:, :, 0]).all()


@pytest.mark.parametrize(
    "options",
    [{"residual": True}, {"residual": True, "rollout": "feedback"}, EVENTS],
    ids=["states", "feedback", "events"],
)
def test_longer_horizon_begins_with_the_shorter_forecast(options: dict, frontend) -> None:
    model, frames = build(frontend, **options), normal(2, 3, 1, 8, 6)
    short, long = (frontend.forecast(model, frames, horizon) for horizon in (2, 6))
    np.testing.assert_allclose(long[:, :2], short, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("mask", "options"),
    [
        ([[1, 1, 0], [0, 0, 0]], {"residual": True}),
        ([[0, 1, 0], [1, 1, 1]], {"residual": True}),
        ([[0, 1, 0], [1, 1, 1]], EVENTS),
    ],
)
def test_masked_frames_are_not_seen(mask: list, options: dict, frontend) -> None:
    model, frames, valid = build(frontend, **options), normal(2, 3, 1, 8, 6), np.array(mask, dtype=bool)
    native_mask = frontend.to_native(valid)
    derive = frontend.gradient(model, lambda call, x: call(x, 3, mask=native_mask).sum())
    forecasts = []
    for value in (0.0, np.nan):
        dirty = np.where(valid[:, :, None, None, None], frames, np.float32(value))
        forecasts.append(frontend.forecast(model, dirty, 3, mask=valid))
        assert not derive(dirty)[1][~valid].any()
    forecasts.append(frontend.forecast(model, frames, 3, mask=np.array(mask)))
    forecasts.append(frontend.forecast(model, frames, 3, mask=mask))
    for forecast in forecasts:
        assert np.isfinite(forecast).all()
        np.testing.assert_array_equal(forecast, forecasts[0])


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "softplus"])
def test_output_activation_bounds_the_forecast(activation: str, frontend) -> None:
    model = build(frontend, output_activation=activation)
    forecast = frontend.forecast(model, normal(2, 3, 1, 8, 6) * 3, 4)
    assert (forecast >= 0).all()
    assert activation != "sigmoid" or (forecast <= 1).all()


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_rows_of_a_batch_are_independent(rollout: str, frontend) -> None:
    model, frames = build(frontend, rollout, stack={"norm": "layer"}), normal(3, 3, 1, 8, 6)
    together = frontend.forecast(model, frames, 3)
    for row in range(3):
        alone = frontend.forecast(model, frames[row : row + 1], 3)[0]
        np.testing.assert_allclose(alone, together[row], rtol=0, atol=1e-5)


def referred(model: Any, frontend: Any, frames: np.ndarray, horizon: int, **given: Any) -> Any:
    """Return the forecast and the encoder's states of the reference."""
    weights = {key: np.float64(array) for key, array in frontend.to_canonical(model).items()}
    return reference.forecast_and_states(model.spec, weights, np.float64(frames), horizon, **given)


@pytest.mark.parametrize(
    "options", [{}, {"rollout": "feedback"}, DETAIL, EVENTS], ids=["", "feedback", "detail", "events"]
)
def test_lengths_are_the_mask_of_the_first_frames(options: dict, frontend) -> None:
    model, frames = build(frontend, **options), normal(3, 4, 1, 8, 6)
    lengths = np.array([4, 0, 2])
    mask = np.arange(4) < lengths[:, None]
    forecast, states = frontend.forecast_and_state(model, frames, 3, lengths=lengths)
    expected, after = referred(model, frontend, frames, 3, mask=mask)
    np.testing.assert_allclose(forecast, expected, rtol=0, atol=1e-5)
    for h, c, (h_ref, c_ref) in zip(*states, after, strict=True):
        np.testing.assert_allclose(h, h_ref, rtol=0, atol=1e-5)
        np.testing.assert_allclose(c, c_ref, rtol=0, atol=1e-5)
    dirty = np.where(mask[:, :, None, None, None], frames, np.float32(np.nan))
    np.testing.assert_array_equal(frontend.forecast(model, dirty, 3, lengths=[4, 0, 2]), forecast)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_initial_states_act_as_in_the_reference(rollout: str, frontend) -> None:
    model, frames = build(frontend, rollout, residual=True), normal(2, 3, 1, 8, 6)
    pairs = [(normal(2, n, 4, 3), normal(1, 2, n, 4, 3)[0]) for n in (3, 5)]
    forecast, states = frontend.forecast_and_state(model, frames, 4, tuple(zip(*pairs, strict=True)))
    expected, after = referred(model, frontend, frames, 4, states=[(np.float64(h), np.float64(c)) for h, c in pairs])
    np.testing.assert_allclose(forecast, expected, rtol=0, atol=1e-5)
    assert np.abs(forecast - frontend.forecast(model, frames, 4)).max() > 0.01
    for h, c, (h_ref, c_ref) in zip(*states, after, strict=True):
        np.testing.assert_allclose(h, h_ref, rtol=0, atol=1e-5)
        np.testing.assert_allclose(c, c_ref, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_returned_states_continue_the_sequence(rollout: str, frontend) -> None:
    model, frames = build(frontend, rollout, residual=True), normal(2, 5, 1, 8, 6)
    whole, final = frontend.forecast_and_state(model, frames, 4)
    _, state = frontend.forecast_and_state(model, frames[:, :3], 1)
    forecast, after = frontend.forecast_and_state(model, frames[:, 3:], 4, state)
    np.testing.assert_allclose(forecast, whole, rtol=0, atol=1e-6)
    for one, other in zip((*after[0], *after[1]), (*final[0], *final[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{"residual": True}, {"rollout": "feedback", "residual": True}, DETAIL])
def test_a_row_that_continues_without_a_frame_is_refused_where_the_last_one_is_needed(
    options: dict[str, Any], frontend, refused
) -> None:
    model, frames = build(frontend, **options), normal(2, 3, 1, 8, 6)
    _, state = frontend.forecast_and_state(model, frames, 1)
    name = "carry" if frontend.name == "flax" else "state"
    for given in ({"lengths": [2, 0]}, {"mask": np.array([[False, True, True], [False, False, False]])}):
        with refused(StateError, name):
            frontend.forecast_and_state(model, frames, 1, state, **given)
    with refused(StateError, "state"):
        pairs = [(np.float64(h), np.float64(c)) for h, c in zip(*state, strict=True)]
        referred(model, frontend, frames, 1, states=pairs, mask=np.array([[True] * 3, [False] * 3]))
    frontend.forecast_and_state(model, frames, 1, state, lengths=[2, 1])
    frontend.forecast_and_state(model, frames, 1, lengths=[2, 0])


def test_feedback_of_a_row_without_new_frames_continues_from_the_state_alone(frontend) -> None:
    model, frames = build(frontend, "feedback"), normal(2, 5, 1, 8, 6)
    _, state = frontend.forecast_and_state(model, frames[:, :3], 1)
    forecast, _ = frontend.forecast_and_state(model, frames[:, 3:], 4, state, lengths=[2, 0])
    np.testing.assert_allclose(forecast, frontend.forecast(model, frames, 4, lengths=[5, 3]), rtol=0, atol=1e-6)


def test_a_state_of_another_batch_and_two_masks_are_refused(frontend, refused) -> None:
    model, frames = build(frontend), normal(2, 3, 1, 8, 6)
    _, state = frontend.forecast_and_state(model, frames[:1], 1)
    with refused(StateError, "h_0[0]"):
        frontend.forecast_and_state(model, frames, 1, state)
    with refused(ShapeError, "mask"):
        frontend.forecast(model, frames, 1, lengths=[3, 3], mask=np.ones((2, 3), dtype=bool))
    with refused(ShapeError, "lengths"):
        frontend.forecast(model, frames, 1, lengths=[3, 4])


def test_missing_lead_durations_are_the_reference_duration(frontend) -> None:
    model = build(frontend, stack={"duration_strategy": "mlp", "reference_duration": 5.0})
    arrays = frontend.to_canonical(model)
    # off its start, at which the network gives 1 for every duration
    arrays |= {key: array + 0.3 for key, array in arrays.items() if ".duration." in key}
    frontend.load_canonical(model, arrays)
    frames, durations = normal(2, 3, 1, 8, 6), np.full((2, 3), 4.0, np.float32)
    forecast = frontend.forecast(model, frames, 4, durations=durations)
    given = [np.full((2, 4), duration, np.float32) for duration in (5.0, 10.0)]
    same, other = (frontend.forecast(model, frames, 4, durations=durations, lead_durations=lead) for lead in given)
    np.testing.assert_array_equal(forecast, same)
    assert np.abs(forecast - other).max() > 1e-3
    expected, _ = referred(model, frontend, frames, 4, durations=np.float64(durations))
    np.testing.assert_allclose(forecast, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)
def test_seed_gives_the_first_weights(frontend) -> None:
    one, other = build(frontend), build(frontend)
    one.reset_parameters(seed=5)
    other.reset_parameters(seed=5)
    for key, array in frontend.to_canonical(one).items():
        np.testing.assert_array_equal(frontend.to_canonical(other)[key], array)


@pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)
@pytest.mark.parametrize("name", ["shi2015-1x1-128-64-64", "openstl-kth"])
def test_presets_build_and_run(name: str, frontend) -> None:
    spec = PRESETS[name]
    model = frontend.build("Forecaster", spec)
    model.eval()
    size = 2 * spec.patch_size
    forecast = frontend.forecast(model, abs(normal(1, 2, spec.frame_channels, size, size)), 2)
    assert forecast.shape == (1, 2, spec.frame_channels, size, size)
    assert np.isfinite(forecast).all()
