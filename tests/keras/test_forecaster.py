"""Forecasters of events and at full resolution: open sizes, masks, types, files and export, against the reference."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import StateError
from convlstm.keras import Forecaster, load, save, to_canonical
from convlstm.keras.engines import BACKEND
from convlstm.keras.forecaster import _last_frames, _ordered_logits, enlarge
from convlstm.reference import forecaster as reference
from convlstm.weights.canonical import parameter_count

RANDOM = np.random.default_rng(0)
STACK = ConvLSTMSpec(in_channels=8, hidden_channels=3, kernel_size=3)
OPTIONS: dict[str, dict[str, Any]] = {
    "events": {"thresholds": (0.1, 1.0, 5.0)},
    "detail": {"detail_channels": 4, "detail_frames": 3, "output_activation": "softplus", "residual": True},
    "events in detail": {"thresholds": (0.1, 1.0, 5.0), "detail_channels": 4, "detail_frames": 3},
    "kernels of one point": {"thresholds": (0.5,), "detail_channels": 4, "detail_kernel": 1, "head_bias": False},
}
SPECS = {
    name: ForecasterSpec(encoder=STACK, frame_channels=2, patch_size=2, **options) for name, options in OPTIONS.items()
}
DETAILED = SPECS["events in detail"]
LOW_PRECISION = [("events in detail", policy) for policy in ("mixed_bfloat16", "mixed_float16")]


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype("float32")


def as_array(tensor: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor)


def expected(model: Forecaster, frames: np.ndarray, horizon: int, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the forecast of the reference for frames with channels last."""
    weights = {key: np.float64(value) for key, value in to_canonical(model).items()}
    first = np.moveaxis(np.float64(frames), -1, 2)
    return np.moveaxis(reference.forecast(model.spec, weights, first, horizon, mask=mask), 2, -1)


def close(found: Any, wanted: np.ndarray, limit: float = 1e-5) -> None:
    np.testing.assert_allclose(as_array(found), wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("name", ["detail", "events in detail"])
def test_a_model_of_open_sizes_forecasts_frames_of_any_size_and_number(name: str) -> None:
    spec = SPECS[name]
    forecaster, inputs = Forecaster(spec, horizon=2, seed=1), keras.Input((None, None, None, 2))
    model = keras.Model(inputs, forecaster(inputs))
    assert model.output_shape == (None, 2, None, None, spec.output_channels)
    for shape in ((2, 1, 8, 6, 2), (1, 5, 2, 10, 2)):
        frames = array(*shape)
        found = model.predict(frames, verbose=0)
        assert found.shape == (shape[0], 2, *shape[2:4], spec.output_channels)
        close(found, expected(forecaster, frames, 2))


@pytest.mark.parametrize(("name", "policy"), [*((name, "float32") for name in SPECS), *LOW_PRECISION])
def test_the_symbol_of_a_forecast_has_its_shape_and_type(name: str, policy: str) -> None:
    model = Forecaster(SPECS[name], horizon=2, seed=1, dtype=policy)
    exact = Forecaster(SPECS[name], horizon=2, seed=1)
    frames = array(2, 3, 8, 6, 2)
    symbol, found = model.compute_output_spec(keras.KerasTensor(frames.shape)), model(frames)
    assert symbol.shape == tuple(found.shape) == (2, 2, 8, 6, SPECS[name].output_channels)
    assert symbol.dtype == keras.backend.standardize_dtype(found.dtype) == "float32"
    assert {variable.dtype for variable in model.canonical_variables().values()} == {"float32"}
    limit = {"float32": 0.0, "mixed_bfloat16": 5e-2, "mixed_float16": 1e-2}[policy]  # docs/contract.md, Precision
    close(found, as_array(exact(frames)), limit)
    assert parameter_count(model.spec) == model.count_params()


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_masked_frames_count_as_zero(value: float) -> None:
    model, mask = Forecaster(DETAILED, horizon=2, seed=1), np.array([[1, 1, 0, 1], [0, 0, 0, 0]], dtype=bool)
    frames = np.where(mask[:, :, None, None, None], array(2, 4, 8, 6, 2), np.float32(value))
    wanted = expected(model, frames, 2, mask)
    close(model(frames, mask=mask), wanted)
    inputs, valid = keras.Input((None, None, None, 2)), keras.Input((None,), dtype="bool")
    graph = keras.Model([inputs, valid], model(inputs, mask=valid))
    close(graph.predict([frames, mask], verbose=0), wanted)


def test_last_frames_are_channels_in_their_order() -> None:
    frames = array(2, 3, 4, 5, 2)
    for count, last in ((1, [2]), (2, [1, 2]), (3, [0, 1, 2])):
        found = as_array(_last_frames(keras.ops.convert_to_tensor(frames), None, count))
        np.testing.assert_array_equal(found, np.concatenate([frames[:, n] for n in last], axis=-1))
    found = as_array(_last_frames(keras.ops.convert_to_tensor(frames), None, 5))
    np.testing.assert_array_equal(found[..., :4], 0.0)
    np.testing.assert_array_equal(found[..., 4:], np.concatenate([frames[:, n] for n in range(3)], axis=-1))


def test_a_grid_is_enlarged_as_in_the_reference() -> None:
    for height, width, factor in product((1, 2, 5), (1, 3), (1, 2, 3, 4)):
        x = array(2, 3, height, width, 2)
        wanted = np.moveaxis(reference.enlarge(np.moveaxis(np.float64(x), -1, 2), factor), 2, -1)
        found = enlarge(keras.ops.convert_to_tensor(x), factor)
        assert tuple(found.shape) == wanted.shape
        close(found, wanted, 1e-6)


def test_logits_never_increase_with_the_threshold() -> None:
    outputs = 30.0 * array(2, 3, 4, 5, 6)
    logits = as_array(_ordered_logits(keras.ops.convert_to_tensor(outputs)))
    np.testing.assert_array_equal(logits[..., 0], outputs[..., 0])
    assert (np.diff(logits, axis=-1) <= 0).all()
    steps = np.logaddexp(0.0, np.float64(outputs[..., 1:]))
    np.testing.assert_allclose(-np.diff(logits, axis=-1), steps, rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX computes in float64 only where it is told to")
def test_float64_is_kept() -> None:
    model, frames = Forecaster(DETAILED, horizon=2, seed=1, dtype="float64"), RANDOM.standard_normal((2, 4, 8, 6, 2))
    found = model(frames)
    assert keras.backend.standardize_dtype(found.dtype) == "float64"
    close(found, expected(model, frames, 2), 1e-12)


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_of_no_rows(name: str) -> None:
    model = Forecaster(SPECS[name], horizon=2, seed=1)
    assert tuple(model(array(0, 3, 8, 6, 2)).shape) == (0, 2, 8, 6, model.spec.output_channels)


def test_fit_changes_every_weight_and_a_file_keeps_them(tmp_path: Path) -> None:
    model, frames = Forecaster(DETAILED, horizon=2, seed=1), array(2, 4, 8, 6, 2)
    model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(from_logits=True))
    start = to_canonical(model)
    model.fit(frames, np.float32(array(2, 2, 8, 6, 3) > 0), epochs=3, verbose=0)
    for key, value in to_canonical(model).items():
        assert (value != start[key]).any(), key
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.get_config() == model.get_config()
    assert again.spec == model.spec
    close(again(frames), as_array(model(frames)), 0.0)
    model.save_weights(tmp_path / "m.weights.h5")
    other = Forecaster(DETAILED, horizon=2, seed=2)
    other.load_weights(tmp_path / "m.weights.h5")
    close(other(frames), as_array(model(frames)), 0.0)


@pytest.mark.parametrize("name", SPECS)
def test_a_file_of_pytorch_forecasts_the_same(name: str, tmp_path: Path) -> None:
    torch, other_frontend = pytest.importorskip("torch"), pytest.importorskip("convlstm.torch")
    theirs = other_frontend.Forecaster(SPECS[name]).eval()
    digest = other_frontend.save(tmp_path / "t.safetensors", theirs)
    ours, frames = load(tmp_path / "t.safetensors"), array(2, 4, 8, 6, 2)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(np.moveaxis(frames, -1, 2).copy()), 3).numpy()
    close(ours(frames, horizon=3), np.moveaxis(wanted, 2, -1))
    assert save(tmp_path / "k.safetensors", ours) == digest


@pytest.mark.skipif(BACKEND == "torch", reason="Keras writes a SavedModel on the other two")
def test_an_exported_model_takes_any_batch_and_number_of_frames(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    model = Forecaster(DETAILED, horizon=2, seed=1)
    model(array(1, 3, 8, 6, 2))
    # docs/forecaster.md: height and width may be open on TensorFlow
    size = (None, None) if BACKEND == "tensorflow" else (8, 6)
    signature = [keras.InputSpec(shape=(None, None, *size, 2), dtype="float32")]
    model.export(tmp_path / "saved", verbose=False, input_signature=signature)
    loaded = tf.saved_model.load(tmp_path / "saved")
    for batch, steps, height, width in ((2, 1, 8, 6), (1, 5, size[0] or 4, size[1] or 10)):
        frames = array(batch, steps, height, width, 2)
        close(loaded.serve(frames), as_array(model(frames)))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_states_in_and_out_are_those_of_the_reference(rollout: str) -> None:
    stack = ConvLSTMSpec(in_channels=8, hidden_channels=[3, 2], kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2, rollout=rollout), seed=1)
    frames, mask = array(2, 3, 8, 6, 2), np.array([[True, True, False], [True, True, True]])
    state = tuple(tuple(array(2, 4, 3, n) for n in (3, 2)) for _ in range(2))
    future, after = model(frames, horizon=4, mask=mask, state=state, return_state=True)
    weights = {key: np.float64(value) for key, value in to_canonical(model).items()}
    pairs = [tuple(np.moveaxis(np.float64(part), -1, 1) for part in pair) for pair in zip(*state, strict=True)]
    wanted, states = reference.forecast_and_states(
        model.spec, weights, np.moveaxis(np.float64(frames), -1, 2), 4, mask=mask, states=pairs
    )
    close(future, np.moveaxis(wanted, 2, -1))
    for found, expected_parts in zip(after, zip(*states, strict=True), strict=True):
        for part, expected_part in zip(found, expected_parts, strict=True):
            close(part, np.moveaxis(expected_part, 1, -1))
    symbol, symbols = model.compute_output_spec(keras.KerasTensor(frames.shape), horizon=4, return_state=True)
    assert symbol.shape == tuple(future.shape)
    assert keras.tree.map_structure(lambda one: one.shape, symbols) == keras.tree.map_structure(
        lambda one: tuple(one.shape), after
    )


def test_returned_states_continue_the_sequence() -> None:
    stack = ConvLSTMSpec(in_channels=8, hidden_channels=[3, 2], kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2), seed=1)
    frames = array(2, 5, 8, 6, 2)
    _, state = model(frames[:, :3], horizon=1, return_state=True)
    close(model(frames[:, 3:], horizon=4, state=state), as_array(model(frames, horizon=4)), 1e-6)


@pytest.mark.parametrize("options", [{"residual": True}, {"detail_channels": 2}])
def test_a_row_that_continues_without_a_frame_is_refused_where_the_last_one_is_needed(options: dict) -> None:
    stack = ConvLSTMSpec(in_channels=8, hidden_channels=3, kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2, **options), horizon=2, seed=1)
    frames, mask = array(2, 2, 8, 6, 2), np.array([[True, False], [False, False]])
    _, state = model(frames, return_state=True)
    with pytest.raises(StateError, match=r"^state: expected a valid frame in every row .* got no valid frame in row"):
        model(frames, mask=mask, state=state)
    model(frames, mask=mask)
    model(frames, mask=mask[:, ::-1] | [[True, False], [True, False]], state=state)


def test_missing_lead_durations_are_the_reference_duration() -> None:
    stack = ConvLSTMSpec(
        in_channels=8, hidden_channels=3, kernel_size=3, duration_strategy="linear", reference_duration=5
    )
    model = Forecaster(ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2), horizon=3, seed=1)
    frames = array(2, 3, 8, 6, 2)
    found = as_array(model(frames, durations=4.0))
    close(model(frames, durations=4.0, lead_durations=5.0), found, 0.0)
    assert np.abs(found - as_array(model(frames, durations=4.0, lead_durations=10.0))).max() > 1e-3
    steps = keras.Input((None,))
    symbol = keras.Input((None, 8, 6, 2))
    assert model(symbol, durations=steps).shape == (None, 3, 8, 6, 2)
