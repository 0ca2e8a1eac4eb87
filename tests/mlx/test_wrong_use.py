"""Wrong calls that only MLX knows; those of every frontend are in `tests/frontends`."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError, DtypeError, ShapeError, SpecError
from convlstm.mlx import ConvLSTM, ConvLSTMCell, Forecaster
from convlstm.mlx.training import set_threads

X = mx.zeros((2, 5, 8, 8, 1))
FRAMES = mx.zeros((2, 3, 8, 8, 1))


def test_types_and_lengths(refused) -> None:
    with refused(SpecError, "dtype"):
        ConvLSTM(1, 4, 3, dtype=mx.int32)
    with refused(ShapeError, "x"):
        ConvLSTM(1, 4, 3)(X.astype(mx.float16))
    with refused(ShapeError, "lengths"):
        ConvLSTM(1, 4, 3)(X, lengths=[True, True])


@pytest.mark.parametrize("wrong", [3, "a", mx.array(3), mx.zeros(2), mx.zeros((3, 2), dtype=mx.uint32)])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_no_key_and_no_draws(wrong: Any, training: bool, refused) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=4, kernel_size=3, recurrent_dropout=0.5)
    layer, cell, model = (
        ConvLSTM.from_spec(stack),
        ConvLSTMCell.from_spec(stack),
        Forecaster(ForecasterSpec(encoder=stack)),
    )
    for module, call in ((layer, {"x": X}), (cell, {"x": X[:, 0]}), (model, {"frames": FRAMES, "horizon": 2})):
        module.train(training)
        with refused(SpecError, "key"):
            module(**call, key=wrong)
    with refused(ShapeError if training else SpecError, "dropout_masks"):
        layer(X, dropout_masks=wrong)


def test_draws_of_another_call(refused) -> None:
    layer = ConvLSTM(1, [4, 4], 3, recurrent_dropout=0.5, dropout=0.2)
    for like in (X[:1], X[:, :, :, :7], X[:, :4]):
        with refused(ShapeError, "dropout_masks"):
            layer(X, dropout_masks=layer.sample_masks(like))
    with refused(ShapeError, "dropout_masks"):
        ConvLSTM(1, 4, 3)(X, dropout_masks=layer.sample_masks(X))


def test_threads_cannot_be_set(refused) -> None:
    set_threads(1)
    with refused(ConfigError, "threads"):
        set_threads(2)


def test_frames_of_integers_get_no_advice_to_convert_the_module() -> None:
    layer, x = ConvLSTM(1, 2, 3), mx.zeros((1, 2, 4, 4, 1))
    with pytest.raises(DtypeError) as of_integers:
        layer(x.astype(mx.uint8))
    assert of_integers.value.hint == "Convert the input with `x.astype(mx.float32)`."
    with pytest.raises(TypeError, match=r"or the module with `set_dtype\(mx\.float16\)`"):
        layer(x.astype(mx.float16))
