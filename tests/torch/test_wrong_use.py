"""Wrong calls that only PyTorch knows; those of every frontend are in `tests/frontends`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from convlstm import ConvLSTMSpec, DropoutMasks, ForecasterSpec
from convlstm.errors import DtypeError, ShapeError, SpecError, StateError
from convlstm.torch import ConvLSTM, ConvLSTMCell, Forecaster

X = torch.zeros(2, 5, 1, 8, 8)
H = torch.zeros(2, 4, 8, 8)
PACKED = pack_padded_sequence(X, [5, 5], batch_first=True)
PACKED_WITHOUT_CHANNELS = pack_padded_sequence(X[:, :, 0], [5, 5], batch_first=True)
FRAMES = torch.zeros(2, 3, 1, 8, 8)

BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("batch_first", {"batch_first": "no"}),
    ("dtype", {"dtype": torch.int32}),
    ("dtype", {"dtype": torch.float8_e4m3fn}),
    ("checkpoint", {"checkpoint": 0}),
    ("duration_strategy", {"duration_strategy": torch.nn.Linear(1, 1)}),
]

CALLS: list[tuple[type, str, dict[str, Any], dict[str, Any]]] = [
    (ShapeError, "x.data", {}, {"x": PACKED_WITHOUT_CHANNELS}),
    (ShapeError, "lengths", {}, {"x": PACKED, "lengths": [5, 5]}),
    (ShapeError, "mask", {}, {"x": PACKED, "mask": torch.ones(2, 5, dtype=torch.bool)}),
    (ShapeError, "dropout_masks", {"recurrent_dropout": 0.5}, {"dropout_masks": DropoutMasks()}),
    (
        ShapeError,
        "dropout_masks",
        {},
        {"dropout_masks": ConvLSTM(1, 4, 3, recurrent_dropout=0.5).sample_masks(X)},
    ),
    (
        ShapeError,
        "dropout_masks",
        {"recurrent_dropout": 0.5},
        {"dropout_masks": ConvLSTM(1, 4, 3, recurrent_dropout=0.5).sample_masks(X[:1])},
    ),
    (
        ShapeError,
        "dropout_masks",
        {"zoneout_h": 0.5},
        {"dropout_masks": ConvLSTM(1, 4, 3, zoneout_h=0.5).sample_masks(X[:, :4])},
    ),
    (ShapeError, "duration_strategy", {"duration_strategy": lambda r: r.squeeze(-1)}, {"durations": 1.0}),
    (ShapeError, "duration_strategy", {"duration_strategy": lambda r: 2.0}, {"durations": 1.0}),
    (DtypeError, "x", {}, {"x": X.long()}),
    (DtypeError, "x", {}, {"x": X.to_sparse()}),
    (DtypeError, "x", {}, {"x": torch.nested.nested_tensor([X[0], X[1]], layout=torch.jagged)}),
    (SpecError, "generator", {}, {"generator": 0}),
    (SpecError, "generator", {"recurrent_dropout": 0.5}, {"generator": 0}),
    (StateError, "hx", {}, {"state": (H, H), "hx": (H, H)}),
    (StateError, "h_0", {}, {"state": (H.to_sparse(), H)}),
    (StateError, "h_0", {"num_layers": 2}, {"state": (torch.zeros(3, 2, 4, 8, 8), torch.zeros(2, 2, 4, 8, 8))}),
    (StateError, "c_0", {"num_layers": 2}, {"state": (torch.zeros(2, 2, 4, 8, 8), torch.zeros(2, 1, 4, 8, 8))}),
    (StateError, "h_0", {"hidden_channels": [4, 3]}, {"state": (torch.zeros(2, 2, 4, 8, 8),) * 2}),
    (ShapeError, "x", {}, {"x": X.to("meta")}),
    (StateError, "h_0", {}, {"state": (H.long(), H)}),
    (StateError, "h_0", {}, {"state": (H.to("meta"), H)}),
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


def test_a_forecaster_on_another_device(refused) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2))
    with refused(ShapeError, "frames"):
        model(FRAMES.to("meta"), 4)


def test_draws_belong_to_training(refused) -> None:
    layer = ConvLSTM(1, 4, 3, recurrent_dropout=0.5)
    dropout_masks = layer.sample_masks(X)
    with refused(SpecError, "dropout_masks"):
        layer(X, dropout_masks=dropout_masks, generator=torch.Generator())
    with refused(SpecError, "dropout_masks"):
        layer.eval()(X, dropout_masks=dropout_masks)


def test_a_spec_that_a_cell_cannot_compute(refused) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=[2, 2], kernel_size=3)
    with refused(SpecError, "num_layers"):
        ConvLSTMCell.from_spec(spec)
    with refused(SpecError, "spec"):
        ConvLSTM.from_spec({"in_channels": 1})  # type: ignore[arg-type]


def test_frames_of_integers_get_no_advice_to_convert_the_layer(refused) -> None:
    layer = ConvLSTM(1, 4, 3)
    with pytest.raises(DtypeError) as of_integers:
        layer(X.to(torch.uint8))
    assert of_integers.value.hint == "Convert the input with `x.to(torch.float32)`."
    with pytest.raises(TypeError) as of_float64:  # a DtypeError is a TypeError
        layer(X.double())
    assert "or the layer with `layer.to(torch.float64)`" in str(of_float64.value)


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_weights_of_a_type_outside_the_contract_are_refused(dtype: torch.dtype, refused) -> None:
    with refused(SpecError, "dtype"):
        ConvLSTM(1, 4, 3).to(dtype)(X.to(dtype))
    with refused(SpecError, "dtype"):
        ConvLSTMCell(1, 4, 3).to(dtype)(X[:, 0].to(dtype))
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3)
    with refused(SpecError, "dtype"):
        Forecaster(ForecasterSpec(encoder=stack, patch_size=2)).to(dtype)(FRAMES.to(dtype), 4)


def test_a_cell_and_a_forecaster_refuse_what_the_layer_refuses(refused) -> None:
    cell = ConvLSTMCell(1, 4, 3)
    model = Forecaster(
        ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3), patch_size=2)
    )
    with refused(DtypeError, "x"):
        cell(X[:, 0].to_sparse())
    with refused(ShapeError, "x"):
        cell(PACKED)
    with refused(SpecError, "generator"):
        cell(X[:, 0], generator=0)
    with refused(StateError, "hx"):
        cell(X[:, 0], (H, H), hx=(H, H))
    with refused(DtypeError, "frames"):
        model(FRAMES.to_sparse(), 4)
    with refused(ShapeError, "frames"):
        model(PACKED, 4)
    with refused(SpecError, "generator"):
        model(FRAMES, 4, generator=0)


def test_masks_are_not_sampled_from_an_integer(refused) -> None:
    with refused(SpecError, "generator"):
        ConvLSTM(1, 4, 3, recurrent_dropout=0.5).sample_masks(X, generator=0)


def test_a_list_of_pairs_says_how_to_turn_it_into_a_state() -> None:
    layer, pairs = ConvLSTM(1, 4, 3, num_layers=3), [(H, H)] * 3
    with pytest.raises(StateError) as caught:
        layer(X, pairs)
    assert caught.value.received == "3 pair(s) (h, c), one per layer"
    assert "`tuple(zip(*state))`" in caught.value.hint
    layer(X, tuple(zip(*pairs, strict=True)))


def test_none_in_a_state_says_to_pass_none_for_the_whole_state() -> None:
    with pytest.raises(StateError, match=r"got None\. Pass None for the whole state, which means zeros, or"):
        ConvLSTM(1, 4, 3)(X, (None, None))


def test_a_generator_serves_shapes_without_values_too() -> None:
    layer = ConvLSTM(1, 4, 3, recurrent_dropout=0.5, device="meta")
    assert layer(X.to("meta"), generator=torch.Generator())[0].shape == (2, 5, 4, 8, 8)
