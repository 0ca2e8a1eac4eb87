"""A stack without input inside Keras models: symbols, training, graphs and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.errors import ShapeError, StateError
from convlstm.keras import ConvLSTM2D, ConvLSTMStack

ENCODER = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 2], kernel_size=3)
DECODER = ConvLSTMSpec(in_channels=0, hidden_channels=[3, 2], kernel_size=3, recurrent_dilation=2)
FED = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 2], kernel_size=3, recurrent_dilation=2)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype("float32")


def state(*grid: int) -> Any:
    return tuple(tuple(normal(2, *grid, n) for n in (3, 2)) for _ in "hc")


def test_an_encoder_and_a_forecaster_as_one_model(tmp_path: Path) -> None:
    encoder, forecaster = ConvLSTMStack(ENCODER, seed=1), ConvLSTMStack(DECODER, seed=2)
    frames = keras.Input((4, 6, 5, 1))
    _, final = encoder(frames)
    output, (h, c) = forecaster(None, final, steps=7)
    assert output.shape == (None, 7, 6, 5, 2)
    model = keras.Model(frames, [output, *h, *c])
    x = normal(2, 4, 6, 5, 1)
    found, (wanted, _) = model(x), forecaster(None, encoder(x)[1], steps=7)
    np.testing.assert_allclose(np.asarray(keras.ops.convert_to_numpy(found[0])), keras.ops.convert_to_numpy(wanted))
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in encoder.trainable_variables]
    trained = keras.Model(frames, output)
    trained.compile(keras.optimizers.SGD(1.0), "mse")
    trained.fit(x, normal(2, 7, 6, 5, 2), verbose=0)  # the gradient reaches the encoder through the state alone
    for old, variable in zip(before, encoder.trainable_variables, strict=True):
        assert np.abs(keras.ops.convert_to_numpy(variable) - old).max() > 0, variable.path
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), trained.predict(x, verbose=0), atol=1e-6)


def test_steps_without_input_are_those_of_frames_of_zeros() -> None:
    stack, fed = ConvLSTMStack(DECODER), ConvLSTMStack(FED)
    variables = fed.canonical_variables()
    for key, variable in stack.canonical_variables().items():
        variables[key].assign(variable)
    mask = np.array([[True, False, True], [True, True, True]])
    for given in ({}, {"mask": mask}):
        found = stack(None, state(6, 5), steps=3, **given)
        wanted = fed(np.zeros((2, 3, 6, 5, 1), "float32"), state(6, 5), **given)
        for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), atol=1e-6)


def test_sampled_masks_of_steps_without_input() -> None:
    stack = ConvLSTMStack(replace(DECODER, recurrent_dropout=0.3, zoneout_h=0.3, dropout=0.3))
    masks = stack.sample_masks(None, np.int64(5), state=state(6, 5), seed=1)
    assert tuple(masks.masks[0, "forward"].zoneout_h.shape) == (2, 5, 6, 5, 3)
    whole, _ = stack(None, state(6, 5), steps=np.int64(5), training=True, dropout_masks=masks)
    first, after = stack(None, state(6, 5), steps=2, training=True, dropout_masks=masks[:2])
    second, _ = stack(None, after, steps=3, training=True, dropout_masks=masks[2:])
    joined = keras.ops.convert_to_numpy(keras.ops.concatenate([first, second], axis=1))
    np.testing.assert_allclose(joined, keras.ops.convert_to_numpy(whole), atol=1e-6)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "frames": (lambda: ConvLSTMStack(DECODER)(normal(2, 3, 6, 5, 1), state(6, 5), steps=3), ShapeError, "x"),
    "no state": (lambda: ConvLSTMStack(DECODER)(None, steps=3), StateError, "state"),
    "no steps": (lambda: ConvLSTMStack(DECODER)(None, state(6, 5)), ShapeError, "steps"),
    "a state without batch": (lambda: ConvLSTMStack(DECODER)(None, state(6), steps=3), StateError, "h_0[0]"),
    "one array for all layers": (
        lambda: ConvLSTMStack(DECODER)(None, (normal(2, 2, 6, 5, 3),) * 2, steps=3),
        StateError,
        "h_0[0]",
    ),
    "masks without steps": (lambda: ConvLSTMStack(DECODER).sample_masks(None, state=state(6, 5)), ShapeError, "steps"),
    "masks without a state": (lambda: ConvLSTMStack(DECODER).sample_masks(None, 3), StateError, "state"),
    "masks of no frames": (lambda: ConvLSTM2D(3, 3).sample_masks(None), ShapeError, "sequences"),
    "no frames": (lambda: ConvLSTMStack(ENCODER)(None, state(6, 5), steps=3), ShapeError, "x"),
    "steps with frames": (lambda: ConvLSTMStack(ENCODER)(normal(2, 3, 6, 5, 1), steps=3), ShapeError, "steps"),
    "a layer of Keras's form": (lambda: ConvLSTM2D(3, 3)(None), ShapeError, "sequences"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_are_refused_in_one_line(name: str, refused: Any) -> None:
    call, kind, argument = WRONG[name]
    with refused(kind, argument):
        call()


def test_a_built_layer_of_keras_form_refuses_no_frames(refused: Any) -> None:
    layer = ConvLSTM2D(3, 3)
    layer(normal(1, 2, 6, 5, 1))
    with refused(ShapeError, "sequences"):
        layer(None, initial_state=[normal(1, 4, 3, 3)] * 2)
