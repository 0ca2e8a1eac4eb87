"""What does not fit is refused in one line that names the argument, in a call and while a graph is built."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import DtypeError, ShapeError, SpecError, StateError
from convlstm.keras import RNN, ConvLSTM2D, ConvLSTM2DCell, ConvLSTMStack, DurationAwareConvLSTMCell, Forecaster
from convlstm.keras.engines import BACKEND

RANDOM = np.random.default_rng(0)
PLAIN = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 2], kernel_size=3)
TIMED = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 2], kernel_size=3, duration_strategy="linear")


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype("float32")


def layer(**options: Any) -> ConvLSTM2D:
    return ConvLSTM2D(3, 3, padding="same", **options)


def timed(**options: Any) -> ConvLSTM2D:
    return layer(duration_strategy="linear", **options)


def symbol(*shape: int | None, dtype: str = "float32") -> Any:
    return keras.Input(shape, dtype=dtype)


def frames(channels: int = 1) -> Any:
    return symbol(4, 6, 5, channels)


def twice(one: Any, *calls: Any) -> Any:
    for given in calls:
        result = one(given)
    return result


STATE = [array(2, 6, 5, 3)] * 2
GRAPHS: dict[str, tuple[Any, Any, str]] = {
    "durations of another length": (lambda: timed()(frames(), durations=symbol(3)), ShapeError, "durations"),
    "durations in a tuple": (lambda: timed()((frames(), symbol(3))), ShapeError, "durations"),
    "no durations": (lambda: timed()(frames()), ShapeError, "durations"),
    "durations without a use": (lambda: layer()(frames(), durations=symbol(4)), ShapeError, "durations"),
    "a tuple without a use": (lambda: layer()((frames(), symbol(4))), ShapeError, "sequences"),
    "no gaps": (lambda: layer(memory_decay=True)(frames()), ShapeError, "gaps"),
    "one state": (lambda: layer()(frames(), initial_state=[symbol(6, 5, 3)]), StateError, "initial_state"),
    "a state that is no pair": (lambda: layer()(frames(), initial_state=symbol(6, 5, 3)), StateError, "initial_state"),
    "a state of another grid": (
        lambda: layer()(frames(), initial_state=[symbol(6, 5, 3), symbol(6, 4, 3)]),
        StateError,
        "initial_state[1]",
    ),
    "an array as a state": (lambda: layer()(symbol(4, 7, 5, 1), initial_state=STATE), StateError, "initial_state[0]"),
    "a mask of another length": (lambda: layer()(frames(), mask=symbol(3, dtype="bool")), ShapeError, "mask"),
    "a mask of numbers": (lambda: layer()(frames(), mask=symbol(4)), ShapeError, "mask"),
    "other channels": (lambda: twice(layer(), frames(), frames(2)), ShapeError, "sequences"),
    "another size of pixel peepholes": (
        lambda: twice(layer(peephole="pixel"), frames(), symbol(None, 6, None, 1), symbol(4, 6, 6, 1)),
        ShapeError,
        "sequences",
    ),
    "no time axis": (lambda: layer()(symbol(6, 5, 1)), ShapeError, "sequences"),
    "the cell's frame": (lambda: ConvLSTM2DCell(3, 3)(symbol(6, 1), [symbol(4, 3, 3)] * 2), ShapeError, "inputs"),
    "the cell's state": (
        lambda: ConvLSTM2DCell(3, 3)(symbol(6, 5, 1), [symbol(6, 5, 3)] * 2),
        StateError,
        "states[0]",
    ),
    "the stack's channels": (lambda: ConvLSTMStack(PLAIN)(frames(2)), ShapeError, "x"),
    "the stack's durations": (lambda: ConvLSTMStack(TIMED)(frames(), durations=symbol(3)), ShapeError, "durations"),
    "the stack's states": (
        lambda: ConvLSTMStack(PLAIN)(frames(), ((symbol(6, 5, 3),), (symbol(6, 5, 3),))),
        StateError,
        "h_0",
    ),
    "the forecaster's channels": (
        lambda: Forecaster(ForecasterSpec(encoder=PLAIN), horizon=2)(frames(2)),
        ShapeError,
        "frames",
    ),
    "the forecaster's lead durations": (
        lambda: Forecaster(ForecasterSpec(encoder=TIMED), horizon=2)(
            frames(), durations=symbol(4), lead_durations=symbol(3)
        ),
        ShapeError,
        "lead_durations",
    ),
    "the forecaster's durations": (
        lambda: Forecaster(ForecasterSpec(encoder=TIMED), horizon=2)(frames(), lead_durations=symbol(2)),
        ShapeError,
        "durations",
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_does_not_fit_is_refused_when_it_is_built(name: str, refused: Any) -> None:
    build, kind, argument = GRAPHS[name]
    with refused(kind, argument):
        build()


def test_what_a_graph_does_not_know_yet_is_not_looked_at() -> None:
    unknown, steps = symbol(None, None, None, 1), symbol(None)
    state = [symbol(6, 5, 3)] * 2
    assert timed(return_sequences=True)(frames(), durations=steps, mask=symbol(None, dtype="bool")).shape[1] == 4
    assert timed()(unknown, durations=symbol(4), initial_state=state).shape == (None, None, None, 3)
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, direction="bidirectional", merge="separate")
    outputs, (h, c) = ConvLSTMStack(spec, dtype="mixed_bfloat16")(unknown)
    assert [part.shape for part in (*outputs, *h, *c)] == [(None,) * 4 + (2,)] * 2 + [(None,) * 3 + (2,)] * 4
    assert (outputs[0].dtype, h[0].dtype, c[0].dtype) == ("bfloat16", "bfloat16", "float32")
    forecaster = Forecaster(ForecasterSpec(encoder=TIMED), horizon=2)
    assert forecaster(unknown, durations=steps, lead_durations=steps).shape == (None, 2, None, None, 1)


def test_a_layer_inside_a_wrapper_of_keras_refuses_in_the_call(refused: Any) -> None:
    x, d = frames(), symbol(4)
    both = keras.layers.Bidirectional(timed())
    model = keras.Model([x, d], both((x, d)))
    assert model([array(2, 4, 6, 5, 1), np.ones((2, 4))]).shape == (2, 6, 5, 6)
    with refused(ShapeError, "durations"):
        both((array(2, 4, 6, 5, 1), np.ones((2, 3))))


def test_graph_of_stacks_and_cells_equals_its_parts() -> None:
    stack, cell = ConvLSTMStack(TIMED), ConvLSTM2DCell(3, 3, padding="same")
    x, d = symbol(None, 6, 5, 1), symbol(None)
    h = [symbol(6, 5, 3) for _ in range(2)]
    outputs, state = stack(x, durations=d)
    model = keras.Model([x, d, *h], [outputs, state, cell(x[:, 0], h)])
    given = [array(2, 4, 6, 5, 1), np.abs(array(2, 4)), array(2, 6, 5, 3), array(2, 6, 5, 3)]
    wanted = [stack(given[0], durations=given[1]), cell(given[0][:, 0], given[2:])]
    for a, b in zip(keras.tree.flatten(model(given)), keras.tree.flatten(wanted), strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b), rtol=0, atol=1e-6)


def test_complex_numbers_are_refused(refused: Any) -> None:
    x, cell = array(2, 4, 6, 5, 1), ConvLSTM2DCell(3, 3, padding="same")
    for argument, call in (
        ("sequences", lambda: layer()(x + 1j)),
        ("sequences", lambda: layer()(symbol(4, 6, 5, 1, dtype="complex64"))),
        ("sequences", lambda: timed()((x + 1j, np.ones((2, 4))))),
        ("initial_state[1]", lambda: layer()(x, initial_state=[STATE[0], STATE[1] + 1j])),
        ("durations", lambda: timed()(x, durations=np.ones((2, 4)) + 1j)),
        ("inputs", lambda: cell(x[:, 0] + 1j, STATE)),
        ("x", lambda: ConvLSTMStack(PLAIN)(x + 1j)),
        ("frames", lambda: Forecaster(ForecasterSpec(encoder=PLAIN), horizon=2)(x + 1j)),
    ):
        with refused(ShapeError, argument):
            call()


def test_a_mask_of_nested_lists_is_one_array(refused: Any) -> None:
    x, rows = array(2, 4, 6, 5, 1), [[True, True, False, True], [False, True, True, False]]
    one = layer()
    wanted = keras.ops.convert_to_numpy(one(x, mask=np.array(rows)))
    for mask in (
        rows,
        [np.array(row) for row in rows],
        tuple(rows),
        (np.array(rows), None),
        [[1, 1, 0, 1], [0, 1, 1, 0]],
    ):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one(x, mask=mask)), wanted)
    for mask in ([[True], [True, False]], [], [rows, None], [[1.0] * 4] * 2):
        with refused(ShapeError, "mask"):
            one(x, mask=mask)


def test_calls_that_do_not_fit_are_refused_by_name() -> None:
    layer, x = ConvLSTM2D(3, 3), array(2, 4, 6, 5, 1)
    layer(x)
    for bad, kind, word in (
        ({"sequences": x[:, 0]}, ShapeError, "time"),
        ({"sequences": np.concatenate([x, x], axis=-1)}, ShapeError, "channel"),
        ({"sequences": (x, np.ones((2, 4)))}, ShapeError, "sequences"),
        ({"sequences": x, "durations": np.ones((2, 4))}, ShapeError, "durations"),
        ({"sequences": x, "mask": np.ones((2, 3), dtype=bool)}, ShapeError, "mask"),
        ({"sequences": x, "initial_state": [array(2, 6, 5, 3)] * 2}, StateError, "height"),
        ({"sequences": x, "initial_state": array(2, 4, 3, 3)}, StateError, "state"),
        ({"sequences": x[:, :, :2]}, ShapeError, "height"),
    ):
        with pytest.raises(kind, match=word):
            layer(bad.pop("sequences"), **bad)
    aware = ConvLSTM2D(3, 3, duration_strategy="linear")
    with pytest.raises(ShapeError, match="durations"):
        aware(x)
    with pytest.raises(ShapeError, match="at least 0"):
        aware(x, durations=-np.ones((2, 4)))


@pytest.mark.parametrize(
    ("argument", "options", "words"),
    [
        ("filters", {"filters": 0}, "at least 1"),
        ("filters", {"filters": [3, 4]}, "an integer"),
        ("strides", {"strides": 0}, "at least 1"),
        ("strides", {"strides": (1, 2, 3)}, "2 integers"),
        ("dilation_rate", {"dilation_rate": 0}, "at least 1"),
        ("recurrent_dilation", {"recurrent_dilation": 0}, "at least 1"),
        ("dropout", {"dropout": 1.5}, "at least 0 and below 1"),
        ("recurrent_dropout", {"recurrent_dropout": -1}, "at least 0 and below 1"),
        ("use_bias", {"use_bias": 3}, "True or False"),
        ("forget_bias", {"use_bias": False, "forget_bias": 1.0}, "None with use_bias=False"),
        ("groups", {"groups": 2}, "a divisor of filters"),
        ("groups", {"groups": [1, 1]}, "an integer"),
        ("kernel_size", {"kernel_size": ((3, 3), (3, 3))}, "one value"),
        ("activation", {"activation": "bias"}, "got 'bias'"),
        ("stride", {"stride": 2}, "Use `strides`"),
        ("bias", {"bias": False}, "Use `use_bias`"),
    ],
)
def test_options_are_called_as_keras_calls_them(argument: str, options: Any, words: str, refused: Any) -> None:
    for kind in (ConvLSTM2D, ConvLSTM2DCell):
        with refused(SpecError, argument):
            kind(**{"filters": 3, "kernel_size": 3} | options)
        with pytest.raises(SpecError, match=words):
            kind(**{"filters": 3, "kernel_size": 3} | options)


def test_the_contract_s_words_stand_in_no_error_of_a_call(refused: Any) -> None:
    x = array(2, 4, 6, 5, 1)
    for call in (
        lambda: layer()(x, initial_state=[array(2, 6, 5, 4)] * 2),
        lambda: ConvLSTM2DCell(3, 3, padding="same")(x[:, 0], [array(2, 6, 5, 4)] * 2),
    ):
        with pytest.raises(StateError, match=r"\*grid, filters\).* which differs in filters"):
            call()
    with refused(SpecError, "groups"):
        ConvLSTM2D(4, 3, groups=2)(x)
    with pytest.raises(StateError, match="hidden_channels"):  # the word of the spec that its user wrote
        ConvLSTMStack(PLAIN)(x, (([array(2, 6, 5, 4)] * 2),) * 2)


def test_options_that_do_not_fit_are_refused_by_name() -> None:
    for options, word in (
        ({"activation": "gelu"}, "activation"),
        ({"padding": "causal"}, "padding"),
        ({"masked_output": "keep"}, "masked_output"),
        ({"duration_damping": 0.5}, "duration_damping"),
        ({"groups": 2}, "groups"),
        ({"data_format": "last"}, "data_format"),
        ({"use_bias": False, "forget_bias": 1.0}, "forget_bias"),
    ):
        with pytest.raises(SpecError, match=word):
            ConvLSTM2D(3, 3, **options)
    with pytest.raises(SpecError, match="kernal"):
        ConvLSTM2D(3, 3, kernal=3)
    with pytest.raises(SpecError, match="Use `peephole`"):
        ConvLSTM2D(3, 3, peepholes="channel")
    with pytest.raises(SpecError, match="cell"):
        RNN(keras.layers.LSTMCell(3))
    with pytest.raises(SpecError, match="peephole"):
        ConvLSTM2D(3, 3, peephole="pixel").build((None, None, None, 5, 1))
    layer = ConvLSTM2D(3, 3, duration_strategy=keras.ops.sqrt)
    layer(array(2, 4, 6, 5, 1), durations=2.0)
    with pytest.raises(SpecError, match="duration_strategy"):
        layer.get_config()


def test_a_model_without_a_time_axis_is_refused_in_one_line() -> None:
    for make in (
        lambda: keras.Sequential([keras.Input((8, 8, 1)), ConvLSTM2D(4, 3)]),
        lambda: ConvLSTM2D(4, 3)(keras.Input((8, 8, 1))),
        lambda: ConvLSTM2D(4, 3)(np.zeros((2, 8, 8, 1))),
    ):
        with pytest.raises(ShapeError, match="expected 5 axes: batch, time") as caught:
            make()
        assert "\n" not in str(caught.value)
    with pytest.raises(ShapeError, match="height"):
        keras.Sequential([keras.Input((3, 8, 8, 1)), ConvLSTM2D(4, 9)])


@pytest.mark.parametrize("kind", ["layer", "stack", "forecaster"])
def test_lengths_are_refused_with_the_mask_that_means_the_same(kind: str, refused: Any) -> None:
    x = RANDOM.normal(size=(2, 4, 8, 8, 1)).astype("float32")
    spec = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3)
    module, options = {
        "layer": (ConvLSTM2D(2, 3, return_sequences=True), {}),
        "stack": (ConvLSTMStack(PLAIN), {}),
        "forecaster": (Forecaster(ForecasterSpec(encoder=spec, patch_size=2)), {"horizon": 2}),
    }[kind]
    with refused(ShapeError, "lengths"):
        module(x, lengths=[4, 2], **options)
    with pytest.raises(ShapeError) as caught:
        module(x, lengths=[4, 2], **options)
    mask = caught.value.hint.split("`")[1].removeprefix("mask=")
    valid = eval(mask, {"keras": keras, "steps": 4, "lengths": [4, 2]})  # noqa: S307 (the expression of the hint)
    assert keras.ops.convert_to_numpy(valid).tolist() == [[True] * 4, [True, True, False, False]]
    module(x, mask=valid, **options)


def sparse_tensor() -> Any:
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.sparse.from_dense(np.ones((2, 3, 5, 5, 1), dtype="float32"))
    if BACKEND == "torch":
        import torch

        return torch.ones(2, 3, 5, 5, 1).to_sparse()
    from jax.experimental.sparse import BCOO

    return BCOO.fromdense(np.ones((2, 3, 5, 5, 1), dtype="float32"))


def test_sparse_frames_are_refused_with_the_call_that_converts_them(refused: Any) -> None:
    layer, frames = ConvLSTM2D(2, 3), sparse_tensor()
    with refused(DtypeError, "sequences"):
        layer(frames)
    with pytest.raises(DtypeError) as caught:
        layer(frames)
    convert = caught.value.hint.split("`")[3]
    dense = eval(convert, {"keras": keras, "sequences": frames})  # noqa: S307 (the expression of the hint)
    assert tuple(layer(dense).shape) == (2, 3, 3, 2)


def test_none_in_a_state_says_to_pass_none_for_the_whole_state(refused: Any) -> None:
    frames = np.ones((2, 3, 5, 5, 1), dtype="float32")
    with refused(StateError, "initial_state[0]"):
        ConvLSTM2D(2, 3)(frames, initial_state=[None, None])
    with pytest.raises(StateError, match=r"got None\. Pass None for the whole state, which means zeros, or \[h, c\]\."):
        ConvLSTM2D(2, 3)(frames, initial_state=[None, None])


@pytest.mark.parametrize("cell", [ConvLSTM2DCell, DurationAwareConvLSTMCell])
def test_keras_s_own_rnn_around_a_duration_cell_names_ours(cell: Any) -> None:
    options = {"duration_strategy": "linear"}
    given = (np.zeros((2, 3, 6, 6, 1), np.float32), np.ones((2, 3), np.float32))
    symbols = (keras.Input((3, 6, 6, 1)), keras.Input((3,)))
    for arrays in (given, symbols):
        with pytest.raises(ShapeError, match=r"inputs: expected one frame.*`convlstm\.keras\.RNN\(cell\)`"):
            keras.layers.RNN(cell(4, 3, **options))(arrays)
    assert RNN(cell(4, 3, **options))(given).shape[0] == 2
