"""Wrong calls that only PyTorch knows; those of every frontend are in `tests/frontends`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.frontend.dropout import DropoutMasks
from convlstm.torch import ConvLSTM, ConvLSTMCell, Forecaster

X = torch.zeros(2, 5, 1, 8, 8)
H = torch.zeros(2, 4, 8, 8)
FRAMES = torch.zeros(2, 3, 1, 8, 8)

BUILDS: list[tuple[str, dict[str, Any]]] = [
    ("batch_first", {"batch_first": "no"}),
    ("dtype", {"dtype": torch.int32}),
    ("dtype", {"dtype": torch.float8_e4m3fn}),
    ("checkpoint", {"checkpoint": 0}),
    ("duration_strategy", {"duration_strategy": torch.nn.Linear(1, 1)}),
]

CALLS: list[tuple[type, str, dict[str, Any], dict[str, Any]]] = [
    (ShapeError, "x", {}, {"x": torch.nn.utils.rnn.pack_padded_sequence(X, [5, 5], batch_first=True)}),
    (ShapeError, "dropout_masks", {"recurrent_dropout": 0.5}, {"dropout_masks": DropoutMasks()}),
    (
        ShapeError,
        "dropout_masks",
        {},
        {"dropout_masks": ConvLSTM(1, 4, 3, recurrent_dropout=0.5).sample_dropout_masks(X)},
    ),
    (
        ShapeError,
        "dropout_masks",
        {"recurrent_dropout": 0.5},
        {"dropout_masks": ConvLSTM(1, 4, 3, recurrent_dropout=0.5).sample_dropout_masks(X[:1])},
    ),
    (
        ShapeError,
        "dropout_masks",
        {"zoneout_h": 0.5},
        {"dropout_masks": ConvLSTM(1, 4, 3, zoneout_h=0.5).sample_dropout_masks(X[:, :4])},
    ),
    (ShapeError, "duration_strategy", {"duration_strategy": lambda r: r.squeeze(-1)}, {"durations": 1.0}),
    (ShapeError, "duration_strategy", {"duration_strategy": lambda r: 2.0}, {"durations": 1.0}),
    (ShapeError, "x", {}, {"x": X.long()}),
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
    dropout_masks = layer.sample_dropout_masks(X)
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
