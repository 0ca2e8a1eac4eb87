"""Wrong calls: one line that names the argument, what was expected, what was received, and a hint."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ShapeError, SpecError, StateError, WeightsError
from convlstm.mlx import ConvLSTM, ConvLSTMCell, Forecaster, load, load_canonical, to_canonical
from convlstm.mlx.dropout import sample_masks

X = mx.zeros((2, 5, 8, 8, 1))
H = mx.zeros((2, 8, 8, 4))
LINEAR = {"duration_strategy": "linear"}
DECAY = {"memory_decay": True}

BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("in_channels", {"in_channels": 0}),
    ("in_channels", {"in_channels": "1"}),
    ("hidden_channels", {"hidden_channels": -4}),
    ("hidden_channels", {"hidden_channels": [4, 4], "num_layers": 3}),
    ("kernel_size", {"kernel_size": 0}),
    ("kernel_size", {"kernel_size": (3, 3, 3, 3)}),
    ("num_layers", {"num_layers": 0}),
    ("stride", {"stride": 0}),
    ("padding", {"padding": "full"}),
    ("dilation", {"dilation": -1}),
    ("groups", {"groups": 3}),
    ("bias", {"bias": "yes"}),
    ("bidirectional", {"bidirectional": 1}),
    ("direction", {"bidirectional": True, "direction": "reverse"}),
    ("merge", {"merge": "sum"}),
    ("dropout", {"dropout": 0.5}),
    ("dtype", {"dtype": mx.int32}),
    ("dtype", {"dtype": "float32"}),
    ("boundary", {"boundary": "wrap"}),
    ("peephole", {"peephole": "full"}),
]

CALLS: list[tuple[type, str, dict[str, Any], dict[str, Any]]] = [
    (ShapeError, "x", {}, {"x": np.array(X)}),
    (ShapeError, "x", {}, {"x": None}),
    (ShapeError, "x", {}, {"x": X[0, 0]}),
    (ShapeError, "x", {}, {"x": X[None]}),
    (ShapeError, "x", {}, {"x": mx.zeros((2, 5, 8, 8, 3))}),
    (ShapeError, "x", {}, {"x": X.transpose(0, 1, 4, 2, 3)}),
    (ShapeError, "x", {}, {"x": X.astype(mx.float64)}),
    (ShapeError, "x", {}, {"x": X.astype(mx.float16)}),
    (ShapeError, "x", {}, {"x": X.astype(mx.int32)}),
    (ShapeError, "x", {"spatial_dims": 1}, {"x": X}),
    (ShapeError, "x", {"peephole": "pixel", "input_size": (6, 8)}, {"x": X}),
    (ShapeError, "height", {}, {"x": mx.zeros((2, 5, 0, 8, 1))}),
    (ShapeError, "width", {"kernel_size": 9, "padding": "valid"}, {"x": mx.zeros((2, 5, 9, 8, 1))}),
    (ShapeError, "height", {"kernel_size": 5, "boundary": "reflect"}, {"x": mx.zeros((2, 5, 2, 8, 1))}),
    (ShapeError, "width", {"recurrent_kernel_size": (1, 19), "boundary": "circular"}, {}),
    (StateError, "state", {}, {"state": H}),
    (StateError, "state", {}, {"state": (H, H, H)}),
    (StateError, "h_0", {}, {"state": (None, H)}),
    (StateError, "h_0", {}, {"state": ((H, H), (H, H))}),
    (StateError, "h_0", {"num_layers": 2}, {"state": (H, H)}),
    (StateError, "c_0", {}, {"state": (H, np.array(H))}),
    (StateError, "h_0", {}, {"state": (H.astype(mx.int32), H)}),
    (StateError, "h_0[0]", {}, {"state": (H[:1], H)}),
    (StateError, "h_0[0]", {}, {"state": (H[..., :2], H)}),
    (StateError, "c_0[0]", {}, {"state": (H, H[:, :, :4])}),
    (StateError, "c_0[0]", {"stride": 2}, {"state": (H[:, ::2, ::2], H)}),
    (ShapeError, "mask", {}, {"mask": mx.ones((2, 4), dtype=mx.bool_)}),
    (ShapeError, "mask", {}, {"mask": mx.ones((5, 2), dtype=mx.bool_)}),
    (ShapeError, "mask", {}, {"mask": mx.zeros((2, 5))}),
    (ShapeError, "mask", {}, {"mask": "all"}),
    (ShapeError, "mask", {}, {"mask": mx.ones((2, 5), dtype=mx.bool_), "lengths": [5, 5]}),
    (ShapeError, "lengths", {}, {"lengths": [5]}),
    (ShapeError, "lengths", {}, {"lengths": [6, 1]}),
    (ShapeError, "lengths", {}, {"lengths": [-1, 1]}),
    (ShapeError, "lengths", {}, {"lengths": [2.5, 1.0]}),
    (ShapeError, "lengths", {}, {"lengths": [True, True]}),
    (ShapeError, "lengths", {}, {"lengths": "ab"}),
    (ShapeError, "durations", {}, {"durations": 1.0}),
    (ShapeError, "durations", LINEAR, {}),
    (ShapeError, "durations", LINEAR, {"durations": mx.ones((2, 4))}),
    (ShapeError, "durations", LINEAR, {"durations": mx.ones(2)}),
    (ShapeError, "durations", LINEAR, {"durations": mx.ones((2, 5, 2))}),
    (ShapeError, "durations", LINEAR, {"durations": -mx.ones((2, 5))}),
    (ShapeError, "durations", LINEAR, {"durations": float("nan")}),
    (ShapeError, "durations", LINEAR, {"durations": "long"}),
    (ShapeError, "gaps", {}, {"gaps": 1.0}),
    (ShapeError, "gaps", DECAY, {}),
    (ShapeError, "gaps", DECAY, {"gaps": (mx.ones((2, 5)), mx.ones((2, 5)))}),
    (ShapeError, "gaps", DECAY | {"bidirectional": True}, {"gaps": mx.ones((2, 5))}),
    (ShapeError, "gaps", DECAY, {"gaps": mx.full((2, 5), float("inf"))}),
]

CELL_BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("direction", {"direction": "bidirectional"}),
    ("direction", {"direction": "reverse"}),
    ("bidirectional", {"bidirectional": True}),
    ("masked_output", {"masked_output": "hold"}),
    ("hidden_channels", {"hidden_channels": [4, 4]}),
    ("dropout", {"dropout": 0.1}),
    ("kernel_size", {"kernel_size": [(3, 3), (5, 5)]}),
]

CELL_CALLS: list[tuple[type, str, dict[str, Any], dict[str, Any]]] = [
    (ShapeError, "x", {}, {"x": X}),
    (ShapeError, "x", {}, {"x": X[0, 0, 0]}),
    (ShapeError, "x", {}, {"x": mx.zeros((2, 8, 8, 3))}),
    (ShapeError, "x", {}, {"x": X[:, 0].astype(mx.float64)}),
    (ShapeError, "x", {}, {"x": np.array(X[:, 0])}),
    (StateError, "h_0[0]", {}, {"state": (H[:1], H)}),
    (StateError, "state", {}, {"state": H}),
    (ShapeError, "duration", {}, {"duration": 1.0}),
    (ShapeError, "duration", LINEAR, {}),
    (ShapeError, "duration", LINEAR, {"duration": mx.ones(3)}),
    (ShapeError, "duration", LINEAR, {"duration": mx.ones((2, 5))}),
    (ShapeError, "duration", LINEAR, {"duration": -1.0}),
    (ShapeError, "duration", LINEAR, {"duration": "a"}),
    (ShapeError, "gap", {}, {"gap": 1.0}),
    (ShapeError, "gap", DECAY, {}),
    (ShapeError, "gap", DECAY, {"gap": mx.array([1.0, float("nan")])}),
]

FRAMES = mx.zeros((2, 3, 8, 8, 1))
FORECASTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("frames", {}, {"frames": FRAMES[0]}),
    ("frames", {}, {"frames": np.array(FRAMES)}),
    ("frames", {}, {"frames": FRAMES.astype(mx.float64)}),
    ("frames", {}, {"frames": mx.zeros((2, 3, 8, 8, 2))}),
    ("frames", {}, {"frames": FRAMES[..., :7, :]}),
    ("frames", {}, {"frames": FRAMES[:, :0]}),
    ("frames", {}, {"frames": FRAMES[..., :0, :]}),
    ("frames", {"peephole": "pixel", "input_size": 3}, {}),
    ("horizon", {}, {"horizon": 0}),
    ("horizon", {}, {"horizon": -2}),
    ("horizon", {}, {"horizon": 2.5}),
    ("horizon", {}, {"horizon": None}),
    ("horizon", {}, {"horizon": "3"}),
    ("mask", {}, {"mask": mx.ones((2, 2), dtype=mx.bool_)}),
    ("durations", {}, {"durations": mx.ones((2, 3))}),
    ("durations", LINEAR, {"lead_durations": mx.ones((2, 4))}),
    ("lead_durations", {}, {"lead_durations": mx.ones((2, 4))}),
    ("lead_durations", LINEAR, {"durations": mx.ones((2, 3))}),
    ("lead_durations", LINEAR, {"durations": mx.ones((2, 3)), "lead_durations": mx.ones((2, 3))}),
    ("lead_durations", LINEAR, {"durations": mx.ones((2, 3)), "lead_durations": -mx.ones((2, 4))}),
    ("gaps", {}, {"gaps": mx.ones((2, 3))}),
    ("gaps", DECAY, {}),
    ("gaps", DECAY, {"gaps": mx.ones((2, 4))}),
]


@pytest.mark.parametrize(("argument", "options"), BUILDS)
def test_building_a_layer(argument: str, options: dict, refused) -> None:
    with refused(SpecError, argument):
        ConvLSTM(**{"in_channels": 1, "hidden_channels": 4, "kernel_size": 3} | options)


@pytest.mark.parametrize(("kind", "argument", "options", "call"), CALLS)
def test_calling_a_layer(kind: type, argument: str, options: dict, call: dict, refused) -> None:
    layer = ConvLSTM(**{"in_channels": 1, "hidden_channels": 4, "kernel_size": 3} | options)
    with refused(kind, argument):
        layer(**{"x": X} | call)


@pytest.mark.parametrize(("argument", "options"), CELL_BUILDS)
def test_building_a_cell(argument: str, options: dict, refused) -> None:
    with refused(SpecError, argument):
        ConvLSTMCell(**{"in_channels": 1, "hidden_channels": 4, "kernel_size": 3} | options)


@pytest.mark.parametrize(("kind", "argument", "options", "call"), CELL_CALLS)
def test_calling_a_cell(kind: type, argument: str, options: dict, call: dict, refused) -> None:
    cell = ConvLSTMCell(1, 4, 3, **options)
    with refused(kind, argument):
        cell(**{"x": X[:, 0]} | call)


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
    with refused(ShapeError, "draws"):
        layer(X, draws=wrong)


def test_draws_of_another_call(refused) -> None:
    layer = ConvLSTM(1, [4, 4], 3, recurrent_dropout=0.5, dropout=0.2)
    frames = X.swapaxes(0, 1)
    for like, size, steps in ((frames[:, :1], (8, 8), 5), (frames, (8, 7), 5), (frames, (8, 8), 4)):
        with refused(ShapeError, "draws"):
            layer(X, draws=sample_masks(layer.spec, like, size, steps, mx.random.key(0)))
    with refused(ShapeError, "draws"):
        ConvLSTM(1, 4, 3)(X, draws=sample_masks(layer.spec, frames, (8, 8), 5, None))


def test_zero_states_of_a_wrong_size(refused) -> None:
    cell = ConvLSTMCell(1, 4, 3, padding="valid")
    for argument, batch, size in (
        ("image_size", 2, (8, 8, 8)),
        ("image_size", 2, "8"),
        ("image_size", 2, (0, 8)),
        ("batch_size", -1, 8),
        ("batch_size", 1.5, 8),
    ):
        with refused(SpecError, argument):
            cell.init_hidden(batch, size)  # type: ignore[arg-type]
    with refused(ShapeError, "width"):
        cell.init_hidden(2, (8, 2))


@pytest.mark.parametrize(("argument", "options", "call"), FORECASTS)
def test_calling_a_forecaster(argument: str, options: dict, call: dict, refused) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, **options)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2))
    with refused(ShapeError, argument):
        model(**{"frames": FRAMES, "horizon": 4} | call)


def test_building_a_forecaster_from_something_else(refused) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=3, kernel_size=3)
    for wrong in (stack, {"encoder": stack}, None):
        with refused(SpecError, "spec"):
            Forecaster(wrong)  # type: ignore[arg-type]


def test_loading_what_does_not_fit_changes_nothing(refused, tmp_path: Any) -> None:
    layer, other = ConvLSTM(1, 4, 3), ConvLSTM(1, 3, 3)
    before = to_canonical(layer)
    with refused(WeightsError, "layers.0.forward.bias"):
        load_canonical(layer, to_canonical(other))
    with refused(WeightsError, "layers.0.forward.peephole"):
        load_canonical(layer, {**before, "layers.0.forward.peephole": np.zeros((3, 4))})
    for key, array in to_canonical(layer).items():
        np.testing.assert_array_equal(array, before[key])
    with refused(WeightsError, str(tmp_path / "nothing")):
        load(tmp_path / "nothing")


def test_bad_seeds(refused) -> None:
    for seed in (-1, 1.5):
        with refused(SpecError, "seed"):
            ConvLSTM(1, 4, 3).reset_parameters(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ConvLSTM, ConvLSTMCell])
def test_an_unknown_option_names_the_one_that_is_meant(kind: type, refused) -> None:
    with refused(SpecError, "peepholes"):
        kind(1, 4, 3, peepholes=True)
    with pytest.raises(SpecError, match="perhaps peephole is meant"):
        kind(1, 4, 3, peepholes=True)


def test_a_refused_call_leaves_the_layer_as_it_was() -> None:
    layer = ConvLSTM(1, 4, 3)
    before = layer(X + 1)[0]
    for call in ({"x": X.astype(mx.float16)}, {"x": X, "lengths": [9, 9]}, {"x": X, "state": (H[:1], H)}):
        with pytest.raises(ValueError, match="expected"):
            layer(**call)
    assert mx.array_equal(layer(X + 1)[0], before)
