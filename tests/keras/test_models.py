"""The layers in models: any size, masks, states, wrappers, files, mixed precision, fit and export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convlstm.errors import ShapeError, StateError, WeightsError
from convlstm.keras import RNN, ConvLSTM1D, ConvLSTM2D, ConvLSTM2DCell, ConvLSTM3D, DurationAwareConvLSTMCell
from convlstm.keras.engines import BACKEND
from convlstm.keras.weights import load_canonical, to_canonical

RANDOM = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype("float32")


def arrays(result: Any) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(part) for part in keras.tree.flatten(result)]


def close(found: Any, wanted: Any, limit: float = 1e-6) -> None:
    for a, b in zip(arrays(found), arrays(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


@pytest.mark.parametrize("options", [{}, {"strides": 2, "padding": "same"}, {"boundary": "circular"}], ids=str)
def test_any_size_and_length(options: dict[str, Any]) -> None:
    layer = ConvLSTM2D(3, 3, return_sequences=True, **options)
    inputs = keras.Input((None, None, None, 2))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape[0] is None
    assert model.output_shape[-1] == 3
    for size in ((2, 3, 8, 7, 2), (1, 5, 9, 9, 2)):
        x = array(*size)
        close(model.predict(x, verbose=0), layer(x))


@pytest.mark.parametrize(
    "options",
    [{}, {"strides": 2}, {"dilation_rate": 2}, {"groups": 2, "norm": "layer"}, {"boundary": "circular"}],
    ids=str,
)
def test_a_batch_of_no_rows_and_a_sequence_of_no_steps(options: dict[str, Any], refused: Any) -> None:
    x = array(2, 4, 8, 7, 2)
    whole, last = (ConvLSTM2D(4, 3, return_sequences=n, return_state=True, **options) for n in (True, False))
    shapes = [part.shape for part in arrays(whole(x))]
    for batch, steps in ((0, 4), (2, 0), (0, 0)):
        empty = x[:batch, :steps]
        found = [part.shape for part in arrays(whole(empty, mask=np.ones((batch, steps), dtype=bool)))]
        assert found == [(batch, steps, *shapes[0][2:])] + [(batch, *shape[1:]) for shape in shapes[1:]]
    assert arrays(last(x[:0]))[0].shape == (0, *shapes[1][1:])
    state = [array(*shapes[1]) for _ in range(2)]
    close(whole(x[:, :0], initial_state=state)[1:], state, 0.0)
    for steps in (x[:, :0], keras.Input((0, 8, 7, 2))):
        with refused(ShapeError, "sequences"):
            last(steps)


def test_an_encoder_gives_its_states_to_a_decoder() -> None:
    frames, later = keras.Input((None, 8, 8, 1)), keras.Input((3, 8, 8, 1))
    encoder = ConvLSTM2D(4, 3, padding="same", return_state=True)
    decoder = ConvLSTM2D(4, 3, padding="same", return_sequences=True)
    _, *state = encoder(frames)
    model = keras.Model([frames, later], decoder(later, initial_state=state))
    a, b = array(2, 5, 8, 8, 1), array(2, 3, 8, 8, 1)
    whole = model.predict([a, b], verbose=0)
    close(whole, decoder(b, initial_state=encoder(a)[1:]))
    assert np.abs(whole - arrays(decoder(b))[0]).max() > 1e-3
    model.compile(optimizer="sgd", loss="mse")
    before = encoder.get_weights()
    model.fit([a, b], np.zeros_like(whole), verbose=0)
    assert all((x != y).any() for x, y in zip(before, encoder.get_weights(), strict=True))


@pytest.mark.parametrize("with_state", [False, True])
def test_a_mask_made_in_the_model_arrives(with_state: bool) -> None:
    x = array(2, 4, 6, 5, 1)
    x[0, 2] = x[1, 0] = 0.0
    inputs = keras.Input((4, 6, 5, 1))
    layer = ConvLSTM2D(3, 3, padding="same", return_sequences=True)
    state = [array(2, 6, 5, 3) for _ in range(2)] if with_state else None
    given = {"initial_state": [keras.Input((6, 5, 3)) for _ in range(2)]} if with_state else {}
    mask = keras.ops.any(keras.ops.not_equal(inputs, 0.0), axis=(2, 3, 4))
    model = keras.Model([inputs, *given.get("initial_state", [])], layer(inputs, mask=mask, **given))
    found = model.predict([x, *state] if with_state else x, verbose=0)
    close(found, layer(x, mask=(x != 0).any(axis=(2, 3, 4)), **({"initial_state": state} if with_state else {})))
    close(found[0, 2], found[0, 1])


def test_a_mask_tied_to_the_frames_is_used_beside_states() -> None:
    layer, x = ConvLSTM2D(3, 3, padding="same"), keras.ops.convert_to_tensor(array(2, 4, 6, 5, 1))
    mask, state = np.array([[1, 1, 0, 0], [0, 1, 0, 1]], dtype=bool), [array(2, 6, 5, 3) for _ in range(2)]
    wanted = layer(x, initial_state=state, mask=mask)
    x._keras_mask = keras.ops.convert_to_tensor(mask)
    close(layer(x, initial_state=state), wanted, 0.0)


def test_what_lies_in_masked_frames_reaches_nothing() -> None:
    x, mask = array(2, 4, 6, 5, 1), np.array([[1, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    layer = ConvLSTM2D(3, 3, padding="same", return_sequences=True, return_state=True, duration_strategy="mlp")
    durations = np.where(mask, 1.0, np.nan)
    clean, dirty = (np.where(mask[..., None, None, None], x, value).astype("float32") for value in (0.0, np.nan))
    close(layer(dirty, mask=mask, durations=durations), layer(clean, mask=mask, durations=np.ones((2, 4))), 0.0)
    assert not any(part[1].any() for part in arrays(layer(dirty, mask=mask, durations=durations)))


@pytest.mark.parametrize("merge", ["concat", "sum", None])
def test_bidirectional(merge: str | None) -> None:
    x = array(2, 4, 6, 5, 1)
    both = keras.layers.Bidirectional(ConvLSTM2D(3, 3, return_sequences=True), merge_mode=merge)
    theirs = keras.layers.Bidirectional(keras.layers.ConvLSTM2D(3, 3, return_sequences=True), merge_mode=merge)
    close(both(x), both(x))
    theirs(x)
    theirs.set_weights(both.get_weights())
    close(both(x), theirs(x))
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
    if BACKEND == "jax":  # where Keras's own layer fails on a mask
        assert all(np.isfinite(part).all() for part in arrays(both(x, mask=mask)))
    else:
        close(both(x, mask=mask), theirs(x, mask=mask))
    again = keras.layers.Bidirectional.from_config(both.get_config())
    again(x)
    assert again.backward_layer.go_backwards


def test_bidirectional_with_durations() -> None:
    x, d = array(2, 4, 6, 5, 1), RANDOM.uniform(0.5, 3, (2, 4)).astype("float32")
    layer = ConvLSTM2D(3, 3, return_sequences=True, duration_strategy="linear")
    both = keras.layers.Bidirectional(layer)
    found = both((x, d))
    close(found[..., :3], both.forward_layer(x, durations=d))
    close(keras.ops.flip(found[..., 3:], axis=1), both.backward_layer(x, durations=d))


def test_time_distributed() -> None:
    x = array(2, 3, 4, 6, 5, 1)
    layer = ConvLSTM2D(3, 3)
    spread = keras.layers.TimeDistributed(layer)
    assert tuple(spread(x).shape) == (2, 3, 4, 3, 3)
    close(spread(x)[:, 1], layer(x[:, 1]))


def test_a_stateful_layer_goes_on_and_is_reset() -> None:
    x = array(2, 6, 6, 5, 1)
    layer = ConvLSTM2D(3, 3, padding="same", return_sequences=True, stateful=True)
    plain = ConvLSTM2D(3, 3, padding="same", return_sequences=True)
    first = arrays(layer(x[:, :2]))[0]
    plain(x)
    plain.set_weights(layer.get_weights()[:3])
    close(np.concatenate([first, arrays(layer(x[:, 2:]))[0]], axis=1), plain(x))
    layer.reset_state()
    close(layer(x), plain(x))
    with pytest.raises(StateError, match="batch"):
        layer(x[:1])
    with pytest.raises(StateError, match="height"):
        layer(x[:, :, :5])
    inputs = keras.Input(batch_shape=(2, None, 6, 5, 1))
    trained = ConvLSTM2D(3, 3, stateful=True)
    model = keras.Model(inputs, trained(inputs))
    model.compile(optimizer="sgd", loss="mse")
    model.fit(x, np.zeros(model(x).shape), batch_size=2, epochs=3, verbose=0)
    assert np.isfinite(model.predict(x, verbose=0, batch_size=2)).all()


@pytest.mark.parametrize("kind", [ConvLSTM1D, ConvLSTM2D, ConvLSTM3D])
def test_a_file_of_a_model_gives_the_model_back(kind: Any, tmp_path: Path) -> None:
    options = {"peephole": "pixel", "norm": "group", "norm_groups": 3, "boundary": "replicate", "zoneout_c": 0.1}
    layer = kind(3, 3, 2, "same", recurrent_kernel_size=1, return_sequences=True, masked_output="zero", **options)
    x = array(2, 3, *(6, 5, 4)[: layer.rank], 2)
    inputs = keras.Input(x.shape[1:])
    model = keras.Model(inputs, layer(inputs))
    layer.set_weights(
        [w + 0.1 * array(*w.shape).astype(w.dtype) if "float" in str(w.dtype) else w for w in layer.get_weights()]
    )
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    close(again(x), model(x), 0.0)
    assert again.layers[-1].get_config() == layer.get_config()


@pytest.mark.parametrize("form", ["tuple", "argument"])
def test_durations_in_models(form: str, tmp_path: Path) -> None:
    frames, durations, gaps = keras.Input((None, 6, 5, 1)), keras.Input((None,)), keras.Input((None,))
    layer = ConvLSTM2D(3, 3, duration_strategy="mlp", duration_hidden=(4,), memory_decay=True, return_sequences=True)
    outputs = layer((frames, durations, gaps)) if form == "tuple" else layer(frames, durations=durations, gaps=gaps)
    model = keras.Model([frames, durations, gaps], outputs)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    x, d, g = array(2, 4, 6, 5, 1), RANDOM.uniform(0.5, 3, (2, 4)), RANDOM.uniform(1, 3, (2, 4))
    start = layer.get_weights()
    model.fit([x, d, g], np.ones((2, 4, 4, 3, 3)), epochs=3, verbose=0)
    for before, variable in zip(start, layer.weights, strict=True):
        if variable.trainable:
            assert (before != arrays(variable)[0]).any(), variable.path
    close(model.predict([x, d, g], verbose=0), layer(x, durations=d, gaps=g))
    model.save(tmp_path / "m.keras")
    close(keras.saving.load_model(tmp_path / "m.keras")([x, d, g]), model([x, d, g]), 0.0)


def test_the_seeds_call_form_with_a_cell() -> None:
    cell = DurationAwareConvLSTMCell(filters=64, kernel_size=(3, 3))
    frames, durations = array(2, 3, 8, 8, 3), np.array([[1, 2, 3], [1, 1, 9]], dtype="float32")
    layer = RNN(cell, return_sequences=True)
    assert tuple(layer((frames, durations)).shape) == (2, 3, 8, 8, 64)
    again = RNN.from_config(layer.get_config())
    assert again.cell.get_config() == cell.get_config()
    state = cell.get_initial_state(2)
    for t in range(3):
        h, state = cell((frames[:, t], durations[:, t]), state)
    close(h, layer((frames, durations))[:, -1])


def test_a_cell_runs_in_keras_own_layer() -> None:
    x = array(2, 3, 8, 8, 3)
    cell = ConvLSTM2DCell(4, 3, peephole="channel")
    ours = RNN(cell, return_sequences=True)
    found = ours(x)
    state = cell.get_initial_state(2)
    for t in range(3):
        h, state = cell(x[:, t], state)
        close(h, found[:, t])
    close(keras.layers.RNN(cell, return_sequences=True)(x), found)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_precision(policy: str) -> None:
    layer = ConvLSTM2D(3, 3, return_state=True, dtype=policy, duration_strategy="mlp")
    exact = ConvLSTM2D(3, 3, return_state=True, duration_strategy="mlp")
    x, d = array(2, 4, 6, 5, 1), np.full((2, 4), 2.0)
    if policy == "float64" and BACKEND == "jax":
        pytest.skip("JAX computes in float64 only where it is told to")
    output, h, c = layer(x, durations=d)
    exact(x, durations=d)
    exact.set_weights(layer.get_weights())
    low = policy.replace("mixed_", "")
    kinds = [keras.backend.standardize_dtype(a.dtype) for a in (output, h, c)]
    assert kinds == [low, low, "float64" if low == "float64" else "float32"]
    limits = {"mixed_bfloat16": 5e-2, "mixed_float16": 1e-2, "float64": 1e-6}  # docs/contract.md, Precision
    for a, b in zip((output, h, c), exact(x, durations=d), strict=True):
        close(keras.ops.cast(a, "float32"), b, limits[policy])
    symbols = layer(keras.Input((None, 6, 5, 1)), durations=keras.Input((None,)))
    assert [s.dtype for s in symbols] == kinds


@pytest.mark.skipif(BACKEND == "torch", reason="Keras writes a SavedModel on the other two")
@pytest.mark.parametrize("options", [{}, {"peephole": "channel"}])
def test_an_exported_model_gives_the_same_numbers(options: dict[str, Any], tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    inputs = keras.Input((None, 8, 8, 1))
    model = keras.Model(inputs, ConvLSTM2D(3, 3, return_sequences=True, **options)(inputs))
    model.export(tmp_path / "saved", verbose=False)
    x = array(2, 5, 8, 8, 1)
    loaded = tf.saved_model.load(tmp_path / "saved")
    close(loaded.serve(x), model(x))


@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own steps
@pytest.mark.skipif(BACKEND != "torch", reason="Keras writes ONNX through a SavedModel on the other two")
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_an_onnx_file_gives_the_same_numbers(data_format: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    inputs = keras.Input((5, 8, 8, 2) if data_format == "channels_last" else (5, 2, 8, 8))
    layer = ConvLSTM2D(4, 3, padding="same", data_format=data_format, return_sequences=True, peephole="channel")
    model = keras.Model(inputs, layer(inputs))
    x = array(3, *inputs.shape[1:])
    expected = model(x)  # Keras exports no model that was never called
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    close(session.run(None, {session.get_inputs()[0].name: np.asarray(x, "float32")})[0], expected)


def test_positional_arguments_stand_in_keras_s_order() -> None:
    layer = ConvLSTM2D(3, 3, 1, "same", None, 1, "relu", "hard_sigmoid", False)
    own = keras.layers.ConvLSTM2D(3, 3, 1, "same", None, 1, "relu", "hard_sigmoid", False)
    wanted = own.get_config()
    config = layer.get_config()
    for name in ("activation", "recurrent_activation", "use_bias", "padding"):
        assert config[name] == wanted[name]


def test_a_layer_without_weights_says_so() -> None:
    for call in (to_canonical, lambda layer: load_canonical(layer, {})):
        with pytest.raises(WeightsError, match="expected a built layer"):
            call(ConvLSTM2D(3, 3))
