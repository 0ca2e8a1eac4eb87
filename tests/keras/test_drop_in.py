"""Our layers against Keras's own, with Keras's weights, by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convlstm import keras as ours
from convlstm.keras.engines import BACKEND

SIZE = (7, 8, 6)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], dtype=bool)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strided": {"padding": "same", "strides": 2, "return_sequences": True},
    "dilated": {"dilation_rate": 2, "return_state": True},
    "backwards": {"return_sequences": True, "return_state": True, "go_backwards": True},
    "words": {"use_bias": False, "activation": "relu", "recurrent_activation": keras.activations.hard_sigmoid},
    "zero": {"return_sequences": True, "zero_output_for_mask": True},
    "even": {"kernel_size": 2, "padding": "SAME", "unit_forget_bias": False, "bias_initializer": "ones"},
    "first": {"data_format": "channels_first", "return_sequences": True, "return_state": True, "padding": "same"},
}


def pair(rank: int, options: dict[str, Any]) -> tuple[Any, Any, np.ndarray]:
    options = {"filters": 3, "kernel_size": 3, **options}
    theirs = getattr(keras.layers, f"ConvLSTM{rank}D")(**options)
    mine = getattr(ours, f"ConvLSTM{rank}D")(**options)
    x = np.random.default_rng(0).standard_normal((2, 4, *SIZE[:rank], 2)).astype("float32")
    x = np.moveaxis(x, -1, 2) if options.get("data_format") == "channels_first" else x
    theirs(x)
    mine(x)
    mine.set_weights(theirs.get_weights())
    return theirs, mine, x


def arrays(result: Any) -> list[np.ndarray]:
    return [
        keras.ops.convert_to_numpy(part)
        for part in keras.tree.flatten(keras.tree.map_structure(keras.ops.stop_gradient, result))
    ]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_numbers(rank: int, name: str) -> None:
    if BACKEND == "tensorflow" and (name == "first" or (rank == 3 and name == "dilated")):
        pytest.skip("Keras's own layer does not run there on a CPU")
    theirs, mine, x = pair(rank, OPTIONS[name])
    assert [w.path.split("/")[-1] for w in theirs.weights] == [w.path.split("/")[-1] for w in mine.weights]
    for mask in (None,) if BACKEND == "jax" else (None, MASK):  # on JAX, Keras's own layer fails on a mask
        wanted, found = arrays(theirs(x, mask=mask)), arrays(mine(x, mask=mask))
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_same_training(rank: int) -> None:
    theirs, mine, x = pair(rank, {"return_sequences": True})
    y = np.random.default_rng(1).standard_normal(theirs(x).shape)
    for layer in (theirs, mine):
        model = keras.Sequential([keras.Input(x.shape[1:]), layer])
        model.compile(optimizer=keras.optimizers.SGD(0.5), loss="mse")
        model.fit(x, y, epochs=2, batch_size=2, verbose=0)
    for a, b in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_cell_shows_its_weights_as_keras_s_cell_does(use_bias: bool) -> None:
    theirs, mine, _ = pair(2, {"use_bias": use_bias})
    names = ("kernel", "recurrent_kernel", "bias")[: 3 if use_bias else 2]
    for name in names:
        np.testing.assert_array_equal(*arrays([getattr(layer.cell, name) for layer in (mine, theirs)]))
    assert all(w is getattr(mine.cell, name) for w, name in zip(mine.trainable_weights, names, strict=True))
    assert (mine.cell.bias is None) is (theirs.cell.bias is None) is (not use_bias)


def test_initial_states_and_dropout_on_inputs() -> None:
    theirs, mine, x = pair(2, {"padding": "same", "return_state": True})
    state = [np.random.default_rng(n).standard_normal((2, 7, 8, 3)).astype("float32") for n in range(2)]
    for a, b in zip(arrays(mine(x, initial_state=state)), arrays(theirs(x, initial_state=state)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    dropped = ours.ConvLSTM2D(3, 3, dropout=0.5, recurrent_dropout=0.5, seed=1)
    plain = arrays(dropped(x))
    np.testing.assert_array_equal(plain, arrays(dropped(x, training=False)))
    assert (arrays(dropped(x, training=True))[0] != plain[0]).any()
    assert (arrays(dropped(x, training=True))[0] != arrays(dropped(x, training=True))[0]).any()


def test_the_same_start_from_a_seed() -> None:
    starts = []
    for kind in (keras.layers.ConvLSTM2D, ours.ConvLSTM2D):
        keras.utils.set_random_seed(3)
        layer = kind(3, 3)
        layer.build((2, 4, 7, 8, 2))
        starts.append(layer.get_weights())
    for a, b in zip(*starts, strict=True):
        np.testing.assert_array_equal(a, b)


def test_configurations_and_weight_files_of_keras_are_read(tmp_path: Path) -> None:
    theirs, _, x = pair(2, {"padding": "same", "kernel_regularizer": "l2", "bias_constraint": "non_neg"})
    mine = ours.ConvLSTM2D.from_config(theirs.get_config())
    inputs = keras.Input(x.shape[1:])
    one, other = keras.Model(inputs, theirs(inputs)), keras.Model(inputs, mine(inputs))
    one.save_weights(tmp_path / "m.weights.h5")
    mine.name = theirs.name
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_allclose(arrays(mine(x))[0], arrays(theirs(x))[0], rtol=0, atol=1e-6)
    assert sum(arrays(mine.losses)) == pytest.approx(sum(arrays(theirs.losses)), rel=1e-6)
    assert mine.kernel_regularizer.get_config() == theirs.kernel_regularizer.get_config()
    assert mine.bias_constraint is not None
    for name in ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "use_bias", "dropout"):
        assert getattr(mine, name) == getattr(theirs, name)
