"""Wrong calls: one line that names the argument, what was expected, what was received, and a hint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ShapeError, SpecError, StateError, WeightsError

Call = Callable[[Any], dict[str, Any]]

pytestmark = pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)  # Flax has arguments of other names

LAYER = {"in_channels": 1, "hidden_channels": 4, "kernel_size": 3}
X = (2, 5, 1, 8, 8)
FRAME = (2, 1, 8, 8)
H = (2, 4, 8, 8)
FRAMES = (2, 3, 1, 8, 8)
NO_INPUT = {"in_channels": 0}
LINEAR = {"duration_strategy": "linear"}
DECAY = {"memory_decay": True}

BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("in_channels", {"in_channels": -1}),
    ("stride", {"in_channels": 0, "stride": 2}),
    ("padding", {"in_channels": 0, "padding": "valid"}),
    ("dilation", {"in_channels": 0, "dilation": 2}),
    ("groups", {"in_channels": 0, "groups": 2}),
    ("input_dropout", {"in_channels": 0, "input_dropout": 0.5}),
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
    ("dtype", {"dtype": "float32"}),
    ("boundary", {"boundary": "wrap"}),
    ("peephole", {"peephole": "full"}),
]

CALLS: list[tuple[type, str, dict[str, Any], Call]] = [
    (ShapeError, "x", {}, lambda f: {"x": f.foreign(*X)}),
    (ShapeError, "x", {}, lambda f: {"x": None}),
    (ShapeError, "x", {}, lambda f: {"x": None, "steps": 5}),
    (ShapeError, "steps", {}, lambda f: {"steps": 5}),
    (ShapeError, "x", NO_INPUT, lambda f: {"state": (f.frames(*H),) * 2}),
    (ShapeError, "x", NO_INPUT, lambda f: {"x": f.frames(2, 5, 0, 8, 8), "steps": 5}),
    (ShapeError, "steps", NO_INPUT, lambda f: {"x": None, "state": (f.frames(*H),) * 2}),
    (ShapeError, "steps", NO_INPUT, lambda f: {"x": None, "steps": -1, "state": (f.frames(*H),) * 2}),
    (ShapeError, "steps", NO_INPUT, lambda f: {"x": None, "steps": 2.0, "state": (f.frames(*H),) * 2}),
    (StateError, "state", NO_INPUT, lambda f: {"x": None, "steps": 5}),
    (StateError, "state", NO_INPUT, lambda f: {"x": None, "steps": 5, "state": f.frames(*H)}),
    (StateError, "h_0[0]", NO_INPUT, lambda f: {"x": None, "steps": 5, "state": (None, f.frames(*H))}),
    (StateError, "h_0[0]", NO_INPUT, lambda f: {"x": None, "steps": 5, "state": (f.frames(2, 3, 8, 8),) * 2}),
    (StateError, "c_0[0]", NO_INPUT, lambda f: {"x": None, "steps": 5, "state": (f.frames(*H), f.frames(2, 4, 8, 7))}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(1, 8, 8)}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(1, *X)}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(2, 5, 3, 8, 8)}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(2, 5, 8, 8, 1)}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(*X, dtype="float64")}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(*X, dtype="int32")}),
    (ShapeError, "x", {"spatial_dims": 1}, lambda f: {}),
    (ShapeError, "x", {"peephole": "pixel", "input_size": (6, 8)}, lambda f: {}),
    (ShapeError, "height", {}, lambda f: {"x": f.frames(2, 5, 1, 0, 8)}),
    (ShapeError, "width", {"kernel_size": 9, "padding": "valid"}, lambda f: {"x": f.frames(2, 5, 1, 9, 8)}),
    (ShapeError, "height", {"kernel_size": 5, "padding": "valid"}, lambda f: {"x": f.frames(2, 5, 1, 4, 8)}),
    (ShapeError, "height", {"kernel_size": 5, "boundary": "reflect"}, lambda f: {"x": f.frames(2, 5, 1, 2, 8)}),
    (ShapeError, "width", {"recurrent_kernel_size": (1, 19), "boundary": "circular"}, lambda f: {}),
    (ShapeError, "dropout_masks", {"recurrent_dropout": 0.5}, lambda f: {"dropout_masks": "abc"}),
    (ShapeError, "dropout_masks", {}, lambda f: {"dropout_masks": "abc"}),
    (StateError, "state", {}, lambda f: {"state": f.frames(*H)}),
    (StateError, "state", {}, lambda f: {"state": (f.frames(*H),) * 3}),
    (StateError, "h_0", {}, lambda f: {"state": (None, f.frames(*H))}),
    (StateError, "h_0", {}, lambda f: {"state": ((f.frames(*H),) * 2,) * 2}),
    (StateError, "h_0", {"num_layers": 2}, lambda f: {"state": (f.frames(*H),) * 2}),
    (StateError, "c_0", {}, lambda f: {"state": (f.frames(*H), f.foreign(*H))}),
    (StateError, "h_0", {}, lambda f: {"state": (f.frames(*H, dtype="int32"), f.frames(*H))}),
    (StateError, "h_0[0]", {}, lambda f: {"state": (f.frames(1, 4, 8, 8), f.frames(*H))}),
    (StateError, "h_0[0]", {}, lambda f: {"state": (f.frames(2, 2, 8, 8), f.frames(*H))}),
    (StateError, "c_0[0]", {}, lambda f: {"state": (f.frames(*H), f.frames(2, 4, 8, 4))}),
    (StateError, "c_0[0]", {"stride": 2}, lambda f: {"state": (f.frames(2, 4, 4, 4), f.frames(*H))}),
    (ShapeError, "mask", {}, lambda f: {"mask": f.ones(2, 4, dtype="bool")}),
    (ShapeError, "mask", {}, lambda f: {"mask": f.ones(5, 2, dtype="bool")}),
    (ShapeError, "mask", {}, lambda f: {"mask": f.ones(2, 5)}),
    (ShapeError, "mask", {}, lambda f: {"mask": "all"}),
    (ShapeError, "mask", {}, lambda f: {"mask": f.ones(2, 5, dtype="bool"), "lengths": [5, 5]}),
    (ShapeError, "lengths", {}, lambda f: {"lengths": [5]}),
    (ShapeError, "lengths", {}, lambda f: {"lengths": [6, 1]}),
    (ShapeError, "lengths", {}, lambda f: {"lengths": [-1, 1]}),
    (ShapeError, "lengths", {}, lambda f: {"lengths": [2.5, 1.0]}),
    (ShapeError, "lengths", {}, lambda f: {"lengths": "ab"}),
    (ShapeError, "durations", {}, lambda f: {"durations": 1.0}),
    (ShapeError, "durations", LINEAR, lambda f: {}),
    (ShapeError, "durations", LINEAR, lambda f: {"durations": f.ones(2, 4)}),
    (ShapeError, "durations", LINEAR, lambda f: {"durations": f.ones(2)}),
    (ShapeError, "durations", LINEAR, lambda f: {"durations": f.ones(2, 5, 2)}),
    (ShapeError, "durations", LINEAR, lambda f: {"durations": -f.ones(2, 5)}),
    (ShapeError, "durations", LINEAR, lambda f: {"durations": float("nan")}),
    (ShapeError, "durations", LINEAR, lambda f: {"durations": "long"}),
    (ShapeError, "gaps", {}, lambda f: {"gaps": 1.0}),
    (ShapeError, "gaps", DECAY, lambda f: {}),
    (ShapeError, "gaps", DECAY, lambda f: {"gaps": (f.ones(2, 5), f.ones(2, 5))}),
    (ShapeError, "gaps", DECAY | {"bidirectional": True}, lambda f: {"gaps": f.ones(2, 5)}),
    (ShapeError, "gaps", DECAY, lambda f: {"gaps": f.ones(2, 5) * float("inf")}),
]

CELL_BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("direction", {"direction": "bidirectional"}),
    ("direction", {"direction": "reverse"}),
    ("bidirectional", {"bidirectional": True}),
    ("num_layers", {"num_layers": 2}),
    ("masked_output", {"masked_output": "hold"}),
    ("hidden_channels", {"hidden_channels": [4, 4]}),
    ("dropout", {"dropout": 0.1}),
    ("kernel_size", {"kernel_size": [(3, 3), (5, 5)]}),
]

CELL_CALLS: list[tuple[type, str, dict[str, Any], Call]] = [
    (ShapeError, "x", NO_INPUT, lambda f: {"state": (f.frames(*H),) * 2}),
    (StateError, "state", NO_INPUT, lambda f: {"x": None}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(*X)}),
    (ShapeError, "x", {}, lambda f: {"x": f.ones(8, 8)}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(2, 3, 8, 8)}),
    (ShapeError, "x", {}, lambda f: {"x": f.frames(*FRAME, dtype="float64")}),
    (ShapeError, "x", {}, lambda f: {"x": f.foreign(*FRAME)}),
    (StateError, "h", {}, lambda f: {"state": (f.frames(1, 4, 8, 8), f.frames(*H))}),
    (StateError, "c", {}, lambda f: {"state": (f.frames(*H), None)}),
    (StateError, "state", {}, lambda f: {"state": f.frames(*H)}),
    (ShapeError, "duration", {}, lambda f: {"duration": 1.0}),
    (ShapeError, "duration", LINEAR, lambda f: {}),
    (ShapeError, "duration", LINEAR, lambda f: {"duration": f.ones(3)}),
    (ShapeError, "duration", LINEAR, lambda f: {"duration": f.ones(2, 5)}),
    (ShapeError, "duration", LINEAR, lambda f: {"duration": -1.0}),
    (ShapeError, "duration", LINEAR, lambda f: {"duration": "a"}),
    (ShapeError, "gap", {}, lambda f: {"gap": 1.0}),
    (ShapeError, "gap", DECAY, lambda f: {}),
    (ShapeError, "gap", DECAY, lambda f: {"gap": f.ones(2) * float("nan")}),
]

FORECASTS: list[tuple[str, dict[str, Any], Call]] = [
    ("frames", {}, lambda f: {"frames": f.frames(3, 1, 8, 8)}),
    ("frames", {}, lambda f: {"frames": f.foreign(*FRAMES)}),
    ("frames", {}, lambda f: {"frames": f.frames(*FRAMES, dtype="float64")}),
    ("frames", {}, lambda f: {"frames": f.frames(2, 3, 2, 8, 8)}),
    ("frames", {}, lambda f: {"frames": f.frames(2, 3, 1, 8, 7)}),
    ("frames", {}, lambda f: {"frames": f.frames(2, 0, 1, 8, 8)}),
    ("frames", {}, lambda f: {"frames": f.frames(2, 3, 1, 8, 0)}),
    ("frames", {"peephole": "pixel", "input_size": 3}, lambda f: {}),
    ("horizon", {}, lambda f: {"horizon": 0}),
    ("horizon", {}, lambda f: {"horizon": -2}),
    ("horizon", {}, lambda f: {"horizon": 2.5}),
    ("horizon", {}, lambda f: {"horizon": None}),
    ("horizon", {}, lambda f: {"horizon": "3"}),
    ("mask", {}, lambda f: {"mask": f.ones(2, 2, dtype="bool")}),
    ("durations", {}, lambda f: {"durations": f.ones(2, 3)}),
    ("durations", LINEAR, lambda f: {"lead_durations": f.ones(2, 4)}),
    ("lead_durations", {}, lambda f: {"lead_durations": f.ones(2, 4)}),
    ("lead_durations", LINEAR, lambda f: {"durations": f.ones(2, 3), "lead_durations": f.ones(2, 3)}),
    ("lead_durations", LINEAR, lambda f: {"durations": f.ones(2, 3), "lead_durations": -f.ones(2, 4)}),
    ("gaps", {}, lambda f: {"gaps": f.ones(2, 3)}),
    ("gaps", DECAY, lambda f: {}),
    ("gaps", DECAY, lambda f: {"gaps": f.ones(2, 4)}),
]


@pytest.mark.parametrize(("argument", "options"), BUILDS)
def test_building_a_layer(argument: str, options: dict, frontend, refused) -> None:
    with refused(SpecError, argument):
        frontend.ConvLSTM(**LAYER | options)


@pytest.mark.parametrize(("kind", "argument", "options", "call"), CALLS)
def test_calling_a_layer(kind: type, argument: str, options: dict, call: Call, frontend, refused) -> None:
    layer = frontend.ConvLSTM(**LAYER | options)
    with refused(kind, argument):
        layer(**{"x": frontend.frames(*X)} | call(frontend))


@pytest.mark.parametrize(("argument", "options"), CELL_BUILDS)
def test_building_a_cell(argument: str, options: dict, frontend, refused) -> None:
    with refused(SpecError, argument):
        frontend.ConvLSTMCell(**LAYER | options)


@pytest.mark.parametrize(("kind", "argument", "options", "call"), CELL_CALLS)
def test_calling_a_cell(kind: type, argument: str, options: dict, call: Call, frontend, refused) -> None:
    cell = frontend.ConvLSTMCell(**LAYER | options)
    with refused(kind, argument):
        cell(**{"x": frontend.frames(*FRAME)} | call(frontend))


@pytest.mark.parametrize(("argument", "options", "call"), FORECASTS)
def test_calling_a_forecaster(argument: str, options: dict, call: Call, frontend, refused) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, **options)
    model = frontend.Forecaster(ForecasterSpec(encoder=stack, patch_size=2))
    with refused(ShapeError, argument):
        model(**{"frames": frontend.frames(*FRAMES), "horizon": 4} | call(frontend))


def test_zero_states_of_a_wrong_size(frontend, refused) -> None:
    cell = frontend.ConvLSTMCell(1, 4, 3, padding="valid")
    for argument, batch, size in (
        ("image_size", 2, (8, 8, 8)),
        ("image_size", 2, "8"),
        ("image_size", 2, (0, 8)),
        ("batch_size", -1, 8),
        ("batch_size", 1.5, 8),
    ):
        with refused(SpecError, argument):
            cell.init_hidden(batch, size)
    with refused(ShapeError, "width"):
        cell.init_hidden(2, (8, 2))


def test_building_a_forecaster_from_something_else(frontend, refused) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=3, kernel_size=3)
    for wrong in (stack, {"encoder": stack}, None):
        with refused(SpecError, "spec"):
            frontend.Forecaster(wrong)


def test_loading_what_does_not_fit_changes_nothing(frontend, refused, tmp_path: Any) -> None:
    layer, other = frontend.ConvLSTM(1, 4, 3), frontend.ConvLSTM(1, 3, 3)
    before = frontend.to_canonical(layer)
    with refused(WeightsError, "layers.0.forward.bias"):
        frontend.load_canonical(layer, frontend.to_canonical(other))
    with refused(WeightsError, "layers.0.forward.peephole"):
        frontend.load_canonical(layer, {**before, "layers.0.forward.peephole": np.zeros((3, 4))})
    for key, array in frontend.to_canonical(layer).items():
        np.testing.assert_array_equal(array, before[key])
    with refused(WeightsError, str(tmp_path / "nothing")):
        frontend.load(tmp_path / "nothing")


def test_bad_seeds(frontend, refused) -> None:
    for seed in (-1, 1.5):
        with refused(SpecError, "seed"):
            frontend.ConvLSTM(1, 4, 3).reset_parameters(seed)


@pytest.mark.parametrize("kind", ["ConvLSTM", "ConvLSTMCell"])
def test_an_unknown_option_names_the_one_that_is_meant(kind: str, frontend, refused) -> None:
    build = getattr(frontend, kind)
    for wrong, near in (("peepholes", "peephole"), ("strides", "stride")):
        with refused(SpecError, wrong):
            build(1, 4, 3, **{wrong: 2})
        with pytest.raises(SpecError, match=f"Use `{near}`"):
            build(1, 4, 3, **{wrong: 2})
    with pytest.raises(SpecError, match="ConvLSTMSpec"):
        build(1, 4, 3, xyz=True)


def test_a_refused_call_leaves_the_layer_as_it_was(frontend) -> None:
    layer, x, h = frontend.ConvLSTM(1, 4, 3), frontend.frames(*X), frontend.frames(*H)
    before = layer(x + 1)[0]
    wrong = (
        {"x": frontend.frames(*X, dtype="float64")},
        {"x": x, "lengths": [9, 9]},
        {"x": x, "state": (frontend.frames(1, 4, 8, 8), h)},
    )
    for call in wrong:
        with pytest.raises(ValueError, match="expected"):
            layer(**call)
    assert bool((layer(x + 1)[0] == before).all())
