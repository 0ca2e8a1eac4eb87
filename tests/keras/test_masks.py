"""Dropout masks of one's own in Keras; what the other frontends do is in `tests/frontends/test_masks.py`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, DropoutMasks
from convlstm.errors import DtypeError, ShapeError, SpecError
from convlstm.keras import ConvLSTM2D, ConvLSTMStack
from convlstm.keras.engines import to_array
from convlstm.spec.masks import LayerMasks

X = np.random.default_rng(0).standard_normal((2, 5, 6, 7, 2)).astype(np.float32)
RATES = {"input_dropout": 0.3, "recurrent_dropout": 0.3, "zoneout_h": 0.3, "zoneout_c": 0.2, "dropout": 0.3}


def stack_of(**options: Any) -> ConvLSTMStack:
    return ConvLSTMStack(ConvLSTMSpec(in_channels=2, hidden_channels=[4, 3], kernel_size=3, **options))


def test_masks_are_of_the_public_type_and_batch_first() -> None:
    masks = stack_of(**RATES).sample_masks(X)
    assert isinstance(masks, DropoutMasks)
    first = {kind: tuple(mask.shape) for kind, mask in masks.masks[0, "forward"]._asdict().items()}
    assert first == {
        "input": (2, 6, 7, 2),
        "recurrent": (2, 6, 7, 4),
        "zoneout_h": (2, 5, 6, 7, 4),
        "zoneout_c": (2, 5, 6, 7, 4),
    }
    assert tuple(masks.dropout[0].shape) == (2, 5, 6, 7, 4)


def test_sampled_masks_are_those_of_a_call_from_the_same_seed() -> None:
    stack = stack_of(**RATES)
    state = to_array(stack.seed_generator.state.value)
    expected, _ = stack(X, training=True)
    stack.seed_generator.state.assign(state)
    masks = stack.sample_masks(X)
    np.testing.assert_array_equal(to_array(stack(X, training=True, dropout_masks=masks)[0]), to_array(expected))
    one, same = (to_array(stack.sample_masks(X, seed=7).dropout[0]) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_a_sequence_in_parts_has_the_dropout_of_the_whole() -> None:
    stack = stack_of(**RATES)
    masks = stack.sample_masks(X[:, :1], 5)
    whole, states = stack(X, training=True, dropout_masks=masks)
    first, state = stack(X[:, :2], training=True, dropout_masks=masks[:2])
    second, after = stack(X[:, 2:], state, training=True, dropout_masks=masks[2:])
    joined = keras.ops.concatenate([first, second], axis=1)
    np.testing.assert_allclose(to_array(joined), to_array(whole), rtol=0, atol=1e-6)
    for one, other in zip(keras.tree.flatten(after), keras.tree.flatten(states), strict=True):
        np.testing.assert_allclose(to_array(one), to_array(other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_layer_takes_masks_in_its_own_data_format(data_format: str, go_backwards: bool) -> None:
    rates = {"dropout": 0.3, "recurrent_dropout": 0.3, "zoneout_h": 0.3}
    options = {"return_sequences": True, "data_format": data_format, "go_backwards": go_backwards}
    layer = ConvLSTM2D(4, 3, padding="same", **options, **rates)
    x = X if data_format == "channels_last" else np.moveaxis(X, -1, 2)
    masks = layer.sample_masks(x)
    (inside,) = masks.masks.values()
    frame = (6, 7, 4) if data_format == "channels_last" else (4, 6, 7)
    assert tuple(inside.zoneout_h.shape) == (2, 5, *frame)
    one, same = (to_array(layer(x, training=True, dropout_masks=masks)) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    assert (to_array(layer(x, training=True)) != one).any()
    with pytest.raises(ShapeError, match=r"as in `masks\[:3\]`"):
        layer(x[:, :3], training=True, dropout_masks=masks)


def test_layer_in_parts_has_the_dropout_of_the_whole() -> None:
    layer = ConvLSTM2D(4, 3, return_sequences=True, return_state=True, recurrent_dropout=0.3, zoneout_h=0.3)
    masks = layer.sample_masks(X)
    whole, *states = layer(X, training=True, dropout_masks=masks)
    first, *state = layer(X[:, :2], training=True, dropout_masks=masks[:2])
    second, *after = layer(X[:, 2:], initial_state=state, training=True, dropout_masks=masks[2:])
    joined = keras.ops.concatenate([first, second], axis=1)
    np.testing.assert_allclose(to_array(joined), to_array(whole), rtol=0, atol=1e-6)
    for one, other in zip(after, states, strict=True):
        np.testing.assert_allclose(to_array(one), to_array(other), rtol=0, atol=1e-6)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_numpy_masks_of_another_type_and_without_those_between_layers_are_taken(data_format: str) -> None:
    stack = stack_of(recurrent_dropout=0.3, zoneout_h=0.3)
    layer = ConvLSTM2D(4, 3, data_format=data_format, recurrent_dropout=0.3, zoneout_h=0.3)
    for module, x in ((stack, X), (layer, X if data_format == "channels_last" else np.moveaxis(X, -1, 2))):
        masks = module.sample_masks(x)
        inside = {
            place: LayerMasks(*[None if mask is None else np.float64(to_array(mask)) for mask in one])
            for place, one in masks.masks.items()
        }
        one, same = (module(x, training=True, dropout_masks=each) for each in (masks, DropoutMasks(inside)))
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(same), strict=True):
            assert keras.backend.standardize_dtype(b.dtype) == "float32"
            np.testing.assert_array_equal(to_array(a), to_array(b))
        plain = DropoutMasks({place: tuple(one) for place, one in inside.items()})
        with pytest.raises(ShapeError, match=r"dropout_masks.masks\[\(0, 'forward'\)\]: expected a LayerMasks"):
            module(x, training=True, dropout_masks=plain)
        texts = DropoutMasks({place: one._replace(recurrent="mask") for place, one in inside.items()})
        with pytest.raises(DtypeError, match=r"dropout_masks.masks\[\(0, 'forward'\)\].recurrent: expected one array"):
            module(x, training=True, dropout_masks=texts)


def test_masks_belong_to_training_and_fit_the_call() -> None:
    stack, layer = stack_of(**RATES), ConvLSTM2D(4, 3, recurrent_dropout=0.3)
    for module in (stack, layer):
        masks = module.sample_masks(X)
        with pytest.raises(SpecError, match="dropout_masks: expected None in evaluation"):
            module(X, dropout_masks=masks)
        with pytest.raises(ShapeError, match="dropout_masks: expected masks"):
            module(X[:1], training=True, dropout_masks=masks)
        with pytest.raises(ShapeError, match="dropout_masks: expected a DropoutMasks, got str"):
            module(X, training=True, dropout_masks="masks")
