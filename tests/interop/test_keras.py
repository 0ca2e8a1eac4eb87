"""Keras's layers and files, run and written, against what is read of them."""

from __future__ import annotations

from typing import Any

import h5py
import keras
import numpy as np
import pytest

from convlstm.conformance.compare import error
from convlstm.errors import SpecError, WeightsError
from convlstm.interop import constructor_options, read_file, read_keras, write_file, write_keras
from convlstm.interop.keras import KERAS
from convlstm.reference import recurrence as reference
from convlstm.weights.canonical import initialise

# Keras's own, about NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIZE = (7, 8, 6)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0]], dtype=bool)


@pytest.fixture(autouse=True)
def _float64():
    before, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(policy)


@keras.saving.register_keras_serializable()
def hard_sigmoid_keras2(z):
    return keras.ops.clip(0.2 * z + 0.5, 0.0, 1.0)


# Keras's arguments, and the same in ours
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "strided": ({"padding": "same", "strides": 2}, {"padding": "same", "stride": 2}),
    "dilated": ({"dilation_rate": 2}, {"dilation": 2}),
    "no bias": ({"use_bias": False, "activation": "relu"}, {"activation": "relu"}),
    "hard": ({"recurrent_activation": "hard_sigmoid"}, {"recurrent_activation": "hard_sigmoid"}),
    "keras 2": ({"recurrent_activation": hard_sigmoid_keras2}, {"recurrent_activation": "hard_sigmoid_keras2"}),
    "even": ({"kernel_size": 2, "padding": "same"}, {"padding": "same"}),
    "zero": ({"zero_output_for_mask": True}, {"masked_output": "zero"}),
}


def frames(rank=2, channels=2):
    return np.random.default_rng(0).standard_normal((2, 4, *SIZE[:rank], channels))


def first(x):
    return np.moveaxis(keras.ops.convert_to_numpy(keras.ops.stop_gradient(keras.ops.convert_to_tensor(x))), -1, 2)


def model_of(*layers, rank=2):
    model = keras.Sequential([keras.Input((None, *SIZE[:rank], 2)), *layers])
    random = np.random.default_rng(1)
    model.set_weights([0.4 * random.standard_normal(w.shape) for w in model.get_weights()])
    return model


def check(converted, x, output, mask=None):
    expected, _ = reference.stack(converted.spec, converted.weights, first(x), mask=mask)
    for a, b in zip(*((p if isinstance(p, tuple) else (p,)) for p in (output, expected)), strict=True):
        assert a.shape == b.shape
        assert np.abs(b).max() > 0.01
        assert error(a, b) < 1e-12


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_layers_by_their_arrays_and_their_files(tmp_path, rank, name):
    theirs, ours = CASES[name]
    layer = getattr(keras.layers, f"ConvLSTM{rank}D")(
        **{"filters": 3, "kernel_size": 3, "return_sequences": True, **theirs}
    )
    model, x = model_of(layer, rank=rank), frames(rank)
    model.save_weights(tmp_path / "new.weights.h5")
    model.save(tmp_path / "old.h5")
    by_name = {w.path: keras.ops.convert_to_numpy(keras.ops.stop_gradient(w.value)) for w in model.weights}
    np.savez(tmp_path / "arrays.npz", **by_name)
    read = [read_keras(layer.get_weights(), **ours)]
    read += [read_file(tmp_path / file, "keras", **ours) for file in ("new.weights.h5", "old.h5", "arrays.npz")]
    assert len({str([(k, v.tobytes()) for k, v in one.weights.items()]) for one in read}) == 1
    check(read[1], x, first(layer(x)))
    check(read[1], x, first(layer(x, mask=keras.ops.convert_to_tensor(MASK))), mask=MASK)
    assert read[1].notes.left_out == ()
    assert set(read[1].notes.assumed) == set(KERAS.choices) - set(ours) - {"merge"}


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", None])
def test_two_ways(tmp_path, merge):
    layer = keras.layers.Bidirectional(
        keras.layers.ConvLSTM2D(3, 3, return_sequences=True, padding="same"), merge_mode=merge
    )
    x = frames()
    layer(x)
    random = np.random.default_rng(1)
    layer.set_weights([0.4 * random.standard_normal(w.shape) for w in layer.get_weights()])
    options = {"padding": "same", "merge": merge or "separate"}
    arrays = {weight.path: keras.ops.convert_to_numpy(weight) for weight in layer.weights}
    converted = read_keras(arrays, **options)
    assert converted.spec.direction == "bidirectional"
    output = layer(x)
    check(converted, x, tuple(map(first, output)) if merge is None else first(output))
    with pytest.raises(SpecError, match="direction"):
        read_keras(arrays, direction="forward")


def test_backwards():
    layer = keras.layers.ConvLSTM2D(3, 3, return_sequences=True, go_backwards=True)
    model = model_of(layer)
    converted = read_keras(layer.get_weights(), direction="reverse")
    check(converted, frames(), first(model(frames()))[:, ::-1])


def stack():
    return [
        keras.layers.ConvLSTM2D(3, 3, return_sequences=True, padding="same"),
        keras.layers.Bidirectional(keras.layers.ConvLSTM2D(2, (1, 3), return_sequences=True, padding="same")),
    ]


def test_stacks_and_what_stands_between(tmp_path):
    layers = [keras.layers.ConvLSTM2D(n, 3, return_sequences=True, padding="same") for n in (3, 3, 2)]
    model = model_of(*layers)
    model.compile("adam", "mse")
    model.save_weights(tmp_path / "plain.weights.h5")
    converted = read_file(tmp_path / "plain.weights.h5", "keras", padding="same")
    assert converted.notes.layers == tuple(f"layers.conv_lstm2d{n}.cell" for n in ("", "_1", "_2"))
    check(converted, frames(), first(model(frames())))

    mixed = model_of(layers[0], keras.layers.BatchNormalization(), layers[1], keras.layers.Conv3D(1, 1))
    mixed.save_weights(tmp_path / "mixed.weights.h5")
    with pytest.raises(WeightsError, match="batch_normalization"):
        read_file(tmp_path / "mixed.weights.h5", "keras")
    one = read_file(tmp_path / "mixed.weights.h5", "keras", layers=["layers/conv_lstm2d_1"], padding="same")
    check(one, frames(channels=3), first(layers[1](frames(channels=3))))
    assert len(one.notes.left_out) == 4 + 2 + 3

    renamed = model_of(*stack())
    renamed.save(tmp_path / "two.h5")
    with pytest.raises(WeightsError, match="layer: expected the names of the layers in order"):
        read_file(tmp_path / "two.h5", "keras")


def test_a_file_of_keras_2_must_say_its_gates(tmp_path):
    layer = keras.layers.ConvLSTM2D(3, 3, return_sequences=True, recurrent_activation=hard_sigmoid_keras2)
    model = model_of(layer)
    names = ("kernel:0", "recurrent_kernel:0", "bias:0")
    with h5py.File(tmp_path / "old.h5", "w") as file:  # as tf.keras 2 wrote them, which cannot be installed beside
        for name, array in zip(names, layer.get_weights(), strict=True):
            file[f"model_weights/conv_lst_m2d/conv_lst_m2d/{name}"] = array
    with pytest.raises(SpecError, match="recurrent_activation: expected the value that the layer was built with"):
        read_file(tmp_path / "old.h5", "keras")
    converted = read_file(tmp_path / "old.h5", "keras", recurrent_activation="hard_sigmoid_keras2")
    check(converted, frames(), first(model(frames())))


@pytest.mark.parametrize("kind", ["one", "two ways", "three"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_written_files_load_in_keras_and_come_back_byte_for_byte(tmp_path, kind, dtype):
    layers = {"one": stack()[:1], "two ways": stack()[1:], "three": [stack()[0] for _ in range(3)]}[kind]
    two_ways = kind == "two ways"
    model = model_of(*layers)
    options = {"padding": "same"}
    model.save_weights(tmp_path / "a.weights.h5")
    converted = read_file(tmp_path / "a.weights.h5", "keras", **options)
    weights = {k: v.astype(dtype) for k, v in initialise(converted.spec, 3).items()}
    write_file(tmp_path / "b.weights.h5", "keras", converted.spec, weights)
    back = read_file(tmp_path / "b.weights.h5", "keras", **options)
    assert back.spec == converted.spec
    assert {k: v.tobytes() for k, v in back.weights.items()} == {k: v.tobytes() for k, v in weights.items()}
    assert constructor_options(KERAS, converted.spec)["padding"] == ("same",) * len(layers)
    model.load_weights(tmp_path / "b.weights.h5")
    check(read_keras(write_keras(converted.spec, weights), **options), frames(), first(model(frames())))
    loaded = model.get_weights()
    parts = write_keras(converted.spec, weights)
    assert len(loaded) == len(parts)
    ways = ("forward_layer", "backward_layer") if two_ways else ("",)
    names = [name for way in ways for name in sorted(parts) if way in name]
    for got, name in zip(loaded, names, strict=True):
        np.testing.assert_array_equal(got, parts[name])
