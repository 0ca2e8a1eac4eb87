"""Wrong calls: one line that names the argument, what was expected, what was received, and a hint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ShapeError, SpecError, StateError, WeightsError
from convlstm.frontend.dropout import DropoutMasks
from convlstm.torch import ConvLSTM, ConvLSTMCell, Forecaster, load, load_canonical, to_canonical

X = torch.zeros(2, 5, 1, 8, 8)
H = torch.zeros(2, 4, 8, 8)
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
    ("batch_first", {"batch_first": "no"}),
    ("bidirectional", {"bidirectional": 1}),
    ("direction", {"bidirectional": True, "direction": "reverse"}),
    ("merge", {"merge": "sum"}),
    ("dropout", {"dropout": 0.5}),
    ("dtype", {"dtype": torch.int32}),
    ("dtype", {"dtype": "float32"}),
    ("dtype", {"dtype": torch.float8_e4m3fn}),
    ("checkpoint", {"checkpoint": 0}),
    ("duration_strategy", {"duration_strategy": torch.nn.Linear(1, 1)}),
    ("boundary", {"boundary": "wrap"}),
    ("peephole", {"peephole": "full"}),
]

CALLS: list[tuple[type, str, dict[str, Any], dict[str, Any]]] = [
    (ShapeError, "x", {}, {"x": X.numpy()}),
    (ShapeError, "x", {}, {"x": None}),
    (ShapeError, "x", {}, {"x": torch.nn.utils.rnn.pack_padded_sequence(X, [5, 5], batch_first=True)}),
    (ShapeError, "draws", {"recurrent_dropout": 0.5}, {"draws": "abc"}),
    (ShapeError, "draws", {"recurrent_dropout": 0.5}, {"draws": DropoutMasks()}),
    (ShapeError, "draws", {}, {"draws": ConvLSTM(1, 4, 3, recurrent_dropout=0.5).draw(X)}),
    (ShapeError, "draws", {"recurrent_dropout": 0.5}, {"draws": ConvLSTM(1, 4, 3, recurrent_dropout=0.5).draw(X[:1])}),
    (ShapeError, "draws", {"zoneout_h": 0.5}, {"draws": ConvLSTM(1, 4, 3, zoneout_h=0.5).draw(X[:, :4])}),
    (ShapeError, "duration_strategy", {"duration_strategy": lambda r: r.squeeze(-1)}, {"durations": 1.0}),
    (ShapeError, "duration_strategy", {"duration_strategy": lambda r: 2.0}, {"durations": 1.0}),
    (ShapeError, "x", {}, {"x": X[0, 0]}),
    (ShapeError, "x", {}, {"x": X[None]}),
    (ShapeError, "x", {}, {"x": X.expand(2, 5, 3, 8, 8)}),
    (ShapeError, "x", {}, {"x": X.permute(0, 1, 3, 4, 2)}),
    (ShapeError, "x", {}, {"x": X.double()}),
    (ShapeError, "x", {}, {"x": X.long()}),
    (ShapeError, "x", {}, {"x": X.to("meta")}),
    (ShapeError, "x", {"spatial_dims": 1}, {"x": X}),
    (ShapeError, "x", {"peephole": "pixel", "input_size": (6, 8)}, {"x": X}),
    (ShapeError, "height", {}, {"x": torch.zeros(2, 5, 1, 0, 8)}),
    (ShapeError, "width", {"kernel_size": 9, "padding": "valid"}, {"x": torch.zeros(2, 5, 1, 9, 8)}),
    (ShapeError, "height", {"kernel_size": 5, "boundary": "reflect"}, {"x": torch.zeros(2, 5, 1, 2, 8)}),
    (ShapeError, "width", {"recurrent_kernel_size": (1, 19), "boundary": "circular"}, {}),
    (StateError, "state", {}, {"state": H}),
    (StateError, "state", {}, {"state": (H, H, H)}),
    (StateError, "h_0", {}, {"state": (None, H)}),
    (StateError, "h_0", {}, {"state": ((H, H), (H, H))}),
    (StateError, "h_0", {"num_layers": 2}, {"state": (H, H)}),
    (StateError, "c_0", {}, {"state": (H, H.numpy())}),
    (StateError, "h_0", {}, {"state": (H.long(), H)}),
    (StateError, "h_0", {}, {"state": (H.to("meta"), H)}),
    (StateError, "h_0[0]", {}, {"state": (H[:1], H)}),
    (StateError, "h_0[0]", {}, {"state": (H[:, :2], H)}),
    (StateError, "c_0[0]", {}, {"state": (H, H[..., :4])}),
    (StateError, "c_0[0]", {"stride": 2}, {"state": (H[..., ::2, ::2], H)}),
    (ShapeError, "mask", {}, {"mask": torch.ones(2, 4, dtype=torch.bool)}),
    (ShapeError, "mask", {}, {"mask": torch.ones(5, 2, dtype=torch.bool)}),
    (ShapeError, "mask", {}, {"mask": torch.zeros(2, 5)}),
    (ShapeError, "mask", {}, {"mask": "all"}),
    (ShapeError, "mask", {}, {"mask": torch.ones(2, 5, dtype=torch.bool), "lengths": [5, 5]}),
    (ShapeError, "lengths", {}, {"lengths": [5]}),
    (ShapeError, "lengths", {}, {"lengths": [6, 1]}),
    (ShapeError, "lengths", {}, {"lengths": [-1, 1]}),
    (ShapeError, "lengths", {}, {"lengths": [2.5, 1.0]}),
    (ShapeError, "lengths", {}, {"lengths": "ab"}),
    (ShapeError, "durations", {}, {"durations": 1.0}),
    (ShapeError, "durations", LINEAR, {}),
    (ShapeError, "durations", LINEAR, {"durations": torch.ones(2, 4)}),
    (ShapeError, "durations", LINEAR, {"durations": torch.ones(2)}),
    (ShapeError, "durations", LINEAR, {"durations": torch.ones(2, 5, 2)}),
    (ShapeError, "durations", LINEAR, {"durations": -torch.ones(2, 5)}),
    (ShapeError, "durations", LINEAR, {"durations": float("nan")}),
    (ShapeError, "durations", LINEAR, {"durations": "long"}),
    (ShapeError, "gaps", {}, {"gaps": 1.0}),
    (ShapeError, "gaps", DECAY, {}),
    (ShapeError, "gaps", DECAY, {"gaps": (torch.ones(2, 5), torch.ones(2, 5))}),
    (ShapeError, "gaps", DECAY | {"bidirectional": True}, {"gaps": torch.ones(2, 5)}),
    (ShapeError, "gaps", DECAY, {"gaps": torch.full((2, 5), float("inf"))}),
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
    (ShapeError, "x", {}, {"x": torch.zeros(2, 3, 8, 8)}),
    (ShapeError, "x", {}, {"x": X[:, 0].double()}),
    (ShapeError, "x", {}, {"x": X[:, 0].numpy()}),
    (StateError, "h_0[0]", {}, {"state": (H[:1], H)}),
    (StateError, "state", {}, {"state": H}),
    (ShapeError, "duration", {}, {"duration": 1.0}),
    (ShapeError, "duration", LINEAR, {}),
    (ShapeError, "duration", LINEAR, {"duration": torch.ones(3)}),
    (ShapeError, "duration", LINEAR, {"duration": torch.ones(2, 5)}),
    (ShapeError, "duration", LINEAR, {"duration": -1.0}),
    (ShapeError, "duration", LINEAR, {"duration": "a"}),
    (ShapeError, "gap", {}, {"gap": 1.0}),
    (ShapeError, "gap", DECAY, {}),
    (ShapeError, "gap", DECAY, {"gap": torch.tensor([1.0, float("nan")])}),
]

FRAMES = torch.zeros(2, 3, 1, 8, 8)
FORECASTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("frames", {}, {"frames": FRAMES[0]}),
    ("frames", {}, {"frames": FRAMES.numpy()}),
    ("frames", {}, {"frames": FRAMES.double()}),
    ("frames", {}, {"frames": FRAMES.expand(2, 3, 2, 8, 8)}),
    ("frames", {}, {"frames": FRAMES[..., :7]}),
    ("frames", {}, {"frames": FRAMES[:, :0]}),
    ("frames", {}, {"frames": FRAMES[..., :0]}),
    ("frames", {}, {"frames": FRAMES.to("meta")}),
    ("frames", {"peephole": "pixel", "input_size": 3}, {}),
    ("horizon", {}, {"horizon": 0}),
    ("horizon", {}, {"horizon": -2}),
    ("horizon", {}, {"horizon": 2.5}),
    ("horizon", {}, {"horizon": None}),
    ("horizon", {}, {"horizon": "3"}),
    ("mask", {}, {"mask": torch.ones(2, 2, dtype=torch.bool)}),
    ("durations", {}, {"durations": torch.ones(2, 3)}),
    ("durations", LINEAR, {"lead_durations": torch.ones(2, 4)}),
    ("lead_durations", {}, {"lead_durations": torch.ones(2, 4)}),
    ("lead_durations", LINEAR, {"durations": torch.ones(2, 3)}),
    ("lead_durations", LINEAR, {"durations": torch.ones(2, 3), "lead_durations": torch.ones(2, 3)}),
    ("lead_durations", LINEAR, {"durations": torch.ones(2, 3), "lead_durations": -torch.ones(2, 4)}),
    ("gaps", {}, {"gaps": torch.ones(2, 3)}),
    ("gaps", DECAY, {}),
    ("gaps", DECAY, {"gaps": torch.ones(2, 4)}),
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


def test_unknown_options(refused) -> None:
    for kind in (ConvLSTM, ConvLSTMCell):
        with refused(SpecError, "peepholes"):
            kind(1, 4, 3, peepholes=True)
    with pytest.raises(SpecError, match="perhaps peephole is meant"):
        ConvLSTM(1, 4, 3, peepholes=True)
    with pytest.raises(SpecError, match="see ConvLSTMSpec"):
        ConvLSTM(1, 4, 3, xyz=True)


def test_a_refused_call_leaves_the_layer_as_it_was() -> None:
    layer = ConvLSTM(1, 4, 3)
    before = layer(X + 1)[0]
    for call in ({"x": X.double()}, {"x": X, "lengths": [9, 9]}, {"x": X, "state": (H[:1], H)}):
        with pytest.raises(ValueError, match="expected"):
            layer(**call)
    assert torch.equal(layer(X + 1)[0], before)


def test_draws_belong_to_training(refused) -> None:
    layer = ConvLSTM(1, 4, 3, recurrent_dropout=0.5)
    draws = layer.draw(X)
    with refused(SpecError, "draws"):
        layer(X, draws=draws, generator=torch.Generator())
    with refused(SpecError, "draws"):
        layer.eval()(X, draws=draws)


def test_a_spec_that_a_cell_cannot_compute(refused) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=[2, 2], kernel_size=3)
    with refused(SpecError, "num_layers"):
        ConvLSTMCell.from_spec(spec)
    with refused(SpecError, "spec"):
        ConvLSTM.from_spec({"in_channels": 1})  # type: ignore[arg-type]
