"""The spec: one strict form, a JSON round trip, and a refusal for everything else."""

from __future__ import annotations

import json
import math
import time
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import random_case
from convlstm.errors import ShapeError, SpecError
from convlstm.spec.choices import ACTS_WITH

BASE: dict[str, Any] = {"in_channels": 4, "hidden_channels": 6, "kernel_size": 3}
TWO = {"num_layers": 2}

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"in_channels": -1}, "in_channels"),
    ({"in_channels": 1.5}, "in_channels"),
    ({"in_channels": True}, "in_channels"),
    ({"hidden_channels": 0}, "hidden_channels"),
    ({"hidden_channels": [6, 0]}, "hidden_channels"),
    ({"hidden_channels": "6"}, "hidden_channels"),
    ({"hidden_channels": None}, "hidden_channels"),
    ({"hidden_channels": [6, 6], "num_layers": 3}, "hidden_channels"),
    ({"hidden_channels": []}, "num_layers"),
    ({"num_layers": 0}, "num_layers"),
    ({"num_layers": 2.0}, "num_layers"),
    ({"num_layers": 10**9}, "num_layers"),
    ({"kernel_size": 0}, "kernel_size"),
    ({"kernel_size": (3, 3, 3), "spatial_dims": 2}, "kernel_size"),
    ({"kernel_size": (3, 3, 3, 3)}, "kernel_size"),
    ({"kernel_size": (3,), "spatial_dims": 2}, "kernel_size"),
    ({"kernel_size": [3, 5, 3, 5], "num_layers": 3}, "kernel_size"),
    ({"kernel_size": [(3, 3), (5, 5)]}, "kernel_size"),
    ({"kernel_size": [(3, 3), (5, 5)], "num_layers": 3}, "kernel_size"),
    ({"kernel_size": []}, "kernel_size"),
    ({"kernel_size": [3, 5]} | TWO, "kernel_size"),
    ({"recurrent_kernel_size": [3, 5]} | TWO, "recurrent_kernel_size"),
    ({"stride": [2, 1]} | TWO, "stride"),
    ({"padding": [1, 2]} | TWO, "padding"),
    ({"dilation": [1, 2]} | TWO, "dilation"),
    ({"recurrent_dilation": [1, 2]} | TWO, "recurrent_dilation"),
    ({"recurrent_dilation": 0}, "recurrent_dilation"),
    ({"recurrent_dilation": (1, 2, 3)}, "recurrent_dilation"),
    ({"kernel_size": 2.5}, "kernel_size"),
    ({"kernel_size": True}, "kernel_size"),
    ({"recurrent_kernel_size": -3}, "recurrent_kernel_size"),
    ({"recurrent_kernel_size": (3, 3, 3)}, "recurrent_kernel_size"),
    ({"spatial_dims": 0}, "spatial_dims"),
    ({"spatial_dims": 4}, "spatial_dims"),
    ({"spatial_dims": "2"}, "spatial_dims"),
    ({"stride": 0}, "stride"),
    ({"stride": (1, -2)}, "stride"),
    ({"dilation": 0}, "dilation"),
    ({"padding": "full"}, "padding"),
    ({"padding": -1}, "padding"),
    ({"padding": (1, 1, 1)}, "padding"),
    ({"padding": ("same", "valid")}, "padding"),
    ({"groups": 0}, "groups"),
    ({"groups": 4}, "groups"),
    ({"groups": 3}, "groups"),
    ({"groups": [2, 4], "hidden_channels": [6, 4]}, "groups"),
    ({"groups": [2, 2]}, "groups"),
    ({"in_channels": 0, "groups": 2}, "groups"),
    ({"in_channels": 0, "stride": 2}, "stride"),
    ({"in_channels": 0, "padding": "valid"}, "padding"),
    ({"in_channels": 0, "padding": 1}, "padding"),
    ({"in_channels": 0, "dilation": (1, 2)}, "dilation"),
    ({"in_channels": 0, "input_dropout": 0.1}, "input_dropout"),
    ({"boundary": "mirror"}, "boundary"),
    ({"boundary": ("zeros",)}, "boundary"),
    ({"boundary": ["zeros"]}, "boundary"),
    ({"boundary": ["zeros", "zeros", "zeros"]}, "boundary"),
    ({"bias": 1}, "bias"),
    ({"forget_bias": math.inf}, "forget_bias"),
    ({"forget_bias": 10**400}, "forget_bias"),
    ({"forget_bias": "1"}, "forget_bias"),
    ({"bias": False, "forget_bias": 1.0}, "forget_bias"),
    ({"peephole": True}, "peephole"),
    ({"peephole": "pixel"}, "input_size"),
    ({"input_size": 8}, "input_size"),
    ({"peephole": "pixel", "input_size": (8, 8, 8)}, "input_size"),
    ({"activation": "gelu"}, "activation"),
    ({"recurrent_activation": "tanh"}, "recurrent_activation"),
    ({"norm": "batch"}, "norm"),
    ({"norm": "group"}, "norm_groups"),
    ({"norm": "group", "norm_groups": 4}, "norm_groups"),
    ({"norm": "layer", "norm_groups": 2}, "norm_groups"),
    ({"direction": "both"}, "direction"),
    ({"direction": "bidirectional", "merge": "max"}, "merge"),
    ({"merge": "sum"}, "merge"),
    ({"masked_output": "last"}, "masked_output"),
    ({"dropout": 0.5}, "dropout"),
    ({"dropout": 1.0} | TWO, "dropout"),
    ({"dropout": -0.1} | TWO, "dropout"),
    ({"input_dropout": math.nan}, "input_dropout"),
    ({"recurrent_dropout": "half"}, "recurrent_dropout"),
    ({"zoneout_h": 1.5}, "zoneout_h"),
    ({"zoneout_c": True}, "zoneout_c"),
    ({"duration_strategy": "power"}, "duration_strategy"),
    ({"duration_strategy": None}, "duration_strategy"),
    ({"reference_duration": 0.0, "duration_strategy": "linear"}, "reference_duration"),
    ({"reference_duration": -5.0, "duration_strategy": "linear"}, "reference_duration"),
    ({"duration_eps": 0.0, "duration_strategy": "log"}, "duration_eps"),
    ({"duration_eps": 1e-3, "duration_strategy": "log1p"}, "duration_eps"),
    ({"duration_damping": 0.2, "duration_strategy": "mlp"}, "duration_damping"),
    ({"duration_damping": math.nan, "duration_strategy": "exp"}, "duration_damping"),
    ({"duration_hidden": (0,), "duration_strategy": "mlp"}, "duration_hidden"),
    ({"duration_hidden": (8,)}, "duration_hidden"),
    ({"duration_activation": "elu", "duration_strategy": "mlp"}, "duration_activation"),
    ({"duration_features": 2, "duration_strategy": "mlp"}, "duration_features"),
    ({"duration_features": True, "duration_strategy": "mlp"}, "duration_features"),
    ({"duration_features": "channel"}, "duration_features"),
    ({"memory_decay": "yes"}, "memory_decay"),
    ({"duration_hidden": [1] * 1001, "duration_strategy": "mlp"}, "duration_hidden"),
    ({"stride": 2**15 + 1}, "stride"),
    ({"padding": (1, 2**15 + 1)}, "padding"),
    ({"dilation": 2**14}, "dilation"),
    ({"recurrent_dilation": 10**400}, "recurrent_dilation"),
]

FORECASTER_WRONG: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"in_channels": 3}, {}, "encoder.in_channels"),
    ({"spatial_dims": 1}, {}, "encoder.spatial_dims"),
    ({"direction": "bidirectional"}, {}, "encoder.direction"),
    ({"direction": "reverse"}, {}, "encoder.direction"),
    ({"stride": 2}, {}, "encoder"),
    ({"padding": "valid"}, {}, "encoder"),
    ({"padding": 2}, {}, "encoder"),
    ({}, {"frame_channels": 0}, "frame_channels"),
    ({}, {"frame_channels": 2}, "encoder.in_channels"),
    ({}, {"patch_size": 0}, "patch_size"),
    ({}, {"patch_size": 2.0}, "patch_size"),
    ({}, {"rollout": "teacher"}, "rollout"),
    ({}, {"head_bias": 0}, "head_bias"),
    ({}, {"output_activation": "tanh"}, "output_activation"),
    ({}, {"residual": "yes"}, "residual"),
    ({}, {"encoder": {"in_channels": 4}}, "encoder"),
    ({}, {"detail_frames": 2}, "detail_frames"),
    ({}, {"detail_kernel": 5}, "detail_kernel"),
    ({}, {"thresholds": list(range(1001))}, "thresholds"),
]


@pytest.mark.parametrize(("options", "argument"), WRONG, ids=[str(options)[:80] for options, _ in WRONG])
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], argument: str, refused) -> None:
    with refused(SpecError, argument):
        ConvLSTMSpec(**BASE | options)


@pytest.mark.parametrize(("stack", "options", "argument"), FORECASTER_WRONG)
def test_a_wrong_forecaster_is_refused_by_name(stack: dict, options: dict, argument: str, refused) -> None:
    with refused(SpecError, argument):
        ForecasterSpec(**{"encoder": ConvLSTMSpec(**BASE | stack), "patch_size": 2} | options)


def test_a_pixel_peephole_on_an_empty_grid_names_the_axis(refused) -> None:
    with refused(ShapeError, "width"):
        ConvLSTMSpec(**BASE, padding="valid", peephole="pixel", input_size=(8, 2))


def test_option_that_needs_another_is_refused_without_it(refused) -> None:
    given = {
        "duration_damping": 0.5,
        "duration_hidden": (3,),
        "duration_activation": "relu",
        "duration_features": "channel",
        "duration_eps": 0.1,
        "norm_groups": 2,
        "input_size": 8,
        "merge": "ave",
    }
    assert given.keys() == ACTS_WITH.keys()
    for name, value in given.items():
        with refused(SpecError, name):
            ConvLSTMSpec(**BASE, **{name: value})


@pytest.mark.parametrize("seed", range(60))
def test_json_round_trip(seed: int) -> None:
    spec = random_case(seed).spec
    again = ConvLSTMSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False)))
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.layers == spec.layers
    assert replace(spec) == spec == deepcopy(spec)


@pytest.mark.parametrize("seed", range(20))
def test_json_round_trip_of_a_forecaster(seed: int) -> None:
    spec = random_forecast_case(seed).spec
    assert ForecasterSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False))) == spec


def test_unknown_and_missing_keys_are_refused(refused) -> None:
    options = ConvLSTMSpec(**BASE).to_dict()
    forecaster = ForecasterSpec(encoder=ConvLSTMSpec(**BASE), patch_size=2).to_dict()
    for wrong in (options | {"peepholes": "none"}, {"in_channels": 1}, {}, [], None, "spec"):
        with refused(SpecError, "spec"):
            ConvLSTMSpec.from_dict(wrong)
        with refused(SpecError, "spec"):
            ForecasterSpec.from_dict(wrong)
    with refused(SpecError, "spec"):
        ForecasterSpec.from_dict(forecaster | {"encoder": options | {"colour": 1}})
    with refused(SpecError, "spec"):
        ForecasterSpec.from_dict({"frame_channels": 1})


def test_a_function_as_strategy_works_but_is_not_saved(refused) -> None:
    spec = ConvLSTMSpec(**BASE, duration_strategy=np.sqrt)
    with refused(SpecError, "duration_strategy"):
        spec.to_dict()


def test_loose_and_strict_forms_are_one_spec() -> None:
    loose = ConvLSTMSpec(in_channels=4, hidden_channels=[6, 2], kernel_size=[3, (5, 1)], padding=["same", 2])
    strict = ConvLSTMSpec(
        in_channels=np.int64(4),
        hidden_channels=(6, 2),
        kernel_size=((3, 3), (5, 1)),
        num_layers=2,
        recurrent_kernel_size=((3, 3), (5, 1)),
        stride=((1, 1), (1, 1)),
        padding=("same", (2, 2)),
        dilation=(1, 1),
        groups=(1, 1),
        boundary=("zeros", "zeros"),
        forget_bias=1,
    )
    assert loose == strict
    assert strict.layers[1].kernel_size == (5, 1)
    assert [type(n) for n in (strict.in_channels, strict.forget_bias)] == [int, float]


def test_a_tuple_is_per_axis_in_every_layer() -> None:
    assert ConvLSTMSpec(**BASE | {"kernel_size": (3, 5)}).kernel_size == ((3, 5),)
    assert ConvLSTMSpec(**BASE | TWO | {"kernel_size": (3, 5)}).kernel_size == ((3, 5), (3, 5))
    assert ConvLSTMSpec(**BASE | TWO | {"kernel_size": 3}).kernel_size == ((3, 3), (3, 3))
    assert ConvLSTMSpec(**BASE, spatial_dims=1).kernel_size == ((3,),)


PER_AXIS = ("kernel_size", "recurrent_kernel_size", "stride", "padding", "dilation", "recurrent_dilation")


@pytest.mark.parametrize("name", PER_AXIS)
def test_a_list_per_axis_makes_one_layer(name: str) -> None:
    """JSON and YAML have no tuples."""
    spec = ConvLSTMSpec(**BASE | {name: [1, 2]})
    assert spec.depth == 1
    assert getattr(spec, name) == ((1, 2),)


@pytest.mark.parametrize("name", PER_AXIS)
def test_a_list_is_per_layer_if_it_fits_the_layers_alone(name: str) -> None:
    three = ConvLSTMSpec(**BASE | {name: [1, 2, 1], "num_layers": 3})
    assert getattr(three, name) == ((1, 1), (2, 2), (1, 1))
    nested = ConvLSTMSpec(**BASE | {name: [[1, 2], 1], "num_layers": 2})
    assert getattr(nested, name) == ((1, 2), (1, 1))


@pytest.mark.parametrize("name", PER_AXIS)
def test_a_list_is_per_axis_if_it_fits_the_axes_alone(name: str) -> None:
    spec = ConvLSTMSpec(**BASE | {name: [1, 2], "num_layers": 3})
    assert getattr(spec, name) == ((1, 2),) * 3


@pytest.mark.parametrize("name", PER_AXIS)
def test_ambiguous_list_is_refused_with_both_readings(name: str) -> None:
    assert getattr(ConvLSTMSpec(**BASE | TWO | {name: [2, 2]}), name) == ((2, 2), (2, 2)), "both readings are equal"
    with pytest.raises(SpecError) as caught:
        ConvLSTMSpec(**BASE | TWO | {name: [1, 2]})
    assert "[[1, 2], [1, 2]]" in str(caught.value)
    assert "[[1, 1], [2, 2]]" in str(caught.value)


@pytest.mark.parametrize(
    ("kernel", "layers", "rank"),
    [
        (3, 1, 2),
        ((3,), 1, 1),
        ((3, 3), 1, 2),
        ((3, 3, 3), 1, 3),
        ((3, 3, 3), 2, 3),
        ([3, 3, 3], 1, 3),
        ([3, 3, 3], 3, 2),
        ([3], 1, 2),
        ([(3,), (5,)], 2, 1),
        ([(3, 5, 3), 1], 2, 3),
    ],
)
def test_the_kernel_sets_the_number_of_spatial_axes(kernel: Any, layers: int, rank: int) -> None:
    assert ConvLSTMSpec(**BASE | {"kernel_size": kernel, "num_layers": layers}).spatial_dims == rank


def test_a_dense_recurrence_leaves_no_entry_in_a_file() -> None:
    options = ConvLSTMSpec(**BASE | TWO, recurrent_dilation=1).to_dict()
    assert "recurrent_dilation" not in options
    assert ConvLSTMSpec.from_dict(options).recurrent_dilation == ((1, 1), (1, 1))
    dilated = ConvLSTMSpec(**BASE | TWO, recurrent_dilation=[(1, 1), (1, 3)])
    assert dilated.to_dict()["recurrent_dilation"] == [[1, 1], [1, 3]]
    assert ConvLSTMSpec.from_dict(json.loads(json.dumps(dilated.to_dict()))) == dilated


def test_every_spec_returns_from_json() -> None:
    spec = ConvLSTMSpec(**BASE | {"num_layers": 2, "stride": [(2, 1), (1, 1)]}, boundary=("zeros", "circular"))
    assert ConvLSTMSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert ConvLSTMSpec(**BASE, boundary=["zeros", "circular"]).boundary == ("zeros", "circular")


@pytest.mark.parametrize(
    ("merge", "inner", "last"), [("concat", 12, 4), ("sum", 6, 2), ("mul", 6, 2), ("ave", 6, 2), ("separate", 12, 2)]
)
def test_channels_through_a_bidirectional_stack(merge: str, inner: int, last: int) -> None:
    spec = ConvLSTMSpec(**BASE | {"hidden_channels": [6, 2]}, direction="bidirectional", merge=merge)
    assert [layer.in_channels for layer in spec.layers] == [4, inner]
    assert spec.out_channels() == last
    assert spec.directions == ("forward", "reverse")


def test_replace_checks_again(refused) -> None:
    spec = ConvLSTMSpec(**BASE)
    assert replace(spec, peephole="channel").peephole == "channel"
    with refused(SpecError, "peephole"):
        replace(spec, peephole="all")
    with pytest.raises(AttributeError):
        spec.bias = False  # type: ignore[misc]


def test_the_forecaster_stack_is_the_encoder_without_input() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[6, 2], kernel_size=3, groups=[2, 2], memory_decay=True)
    spec = ForecasterSpec(encoder=stack, patch_size=2)
    assert [layer.in_channels for layer in spec.forecaster.layers] == [0, 6]
    assert spec.forecaster.groups == (1, 2)
    dilated = ForecasterSpec(encoder=replace(stack, dilation=2, padding=2, input_dropout=0.1), patch_size=2).forecaster
    assert dilated.dilation == ((1, 1), (2, 2))
    assert dilated.padding == ("same", (2, 2))
    assert dilated.input_dropout == 0.1
    one = ConvLSTMSpec(in_channels=4, hidden_channels=6, kernel_size=3, input_dropout=0.1)
    assert ForecasterSpec(encoder=one, patch_size=2).forecaster.input_dropout == 0
    assert not spec.forecaster.memory_decay
    assert spec.forecaster.layers[0].grid((5, 7)) == (5, 7)
    assert (spec.patch_channels, spec.head_channels) == (4, 8)
    even = replace(stack, memory_decay=False)
    assert ForecasterSpec(encoder=even, patch_size=2, rollout="feedback").head_channels == 2


@pytest.mark.parametrize("option", [{"memory_decay": True}, {"duration_strategy": "mlp"}])
def test_feedback_takes_even_steps(option: dict[str, Any]) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, **option)
    with pytest.raises(SpecError, match=next(iter(option))):
        ForecasterSpec(encoder=stack, rollout="feedback")


def test_a_huge_spec_is_a_matter_of_microseconds() -> None:
    began = time.perf_counter()
    ConvLSTMSpec(in_channels=10**9, hidden_channels=10**9, kernel_size=10**4)
    assert time.perf_counter() - began < 0.1
