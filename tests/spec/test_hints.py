"""Hints of wrong options and calls: each names the argument to pass."""

from __future__ import annotations

from typing import Any

import pytest

from convlstm import ConvLSTMSpec
from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.spec.calls import check_frames, frame_axes, state_pair
from convlstm.spec.choices import FOREIGN_NAMES, FOREIGN_OPTIONS, LayerOptions
from convlstm.spec.parsing import check_options

SPEC = ConvLSTMSpec(in_channels=3, hidden_channels=4, kernel_size=3)
KERAS = {"filters", "strides", "dilation_rate", "use_bias", "dropout", "peephole", "recurrent_activation"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dropout": -0.1, "num_layers": 2}, "expected a number of at least 0 and below 1, got -0.1. Pass a rate"),
        ({"dropout": 1.0, "num_layers": 2}, "expected a number of at least 0 and below 1, got 1.0. Pass a rate"),
        ({"kernel_size": 3.0}, "expected an integer of at least 1, got 3.0. Pass the integer 3."),
        ({"peephole": "pixel"}, "Give the size of the input frames as `input_size=(height, width)`."),
        ({"bias": 1}, "Pass `bias=True` or `bias=False`."),
        ({"activation": "TANH"}, "Pass 'tanh'."),
        ({"reference_duration": 0.0}, "expected a finite number above 0, got 0.0."),
    ],
)
def test_an_option_out_of_range_says_what_to_pass(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError) as caught:
        ConvLSTMSpec(**{"in_channels": 1, "hidden_channels": 4, "kernel_size": 3} | options)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("padding_mode", "Use `boundary`."),
        ("filters", "Use `hidden_channels`."),
        ("hidden_dim", "Use `hidden_channels`."),
        ("use_bias", "Use `bias`."),
        ("peepholes", "Use `peephole`."),
        ("zoneout_hh", "Use `zoneout_h`."),
        ("colour", "List all options with `help(convlstm.ConvLSTMSpec)`."),
        *FOREIGN_OPTIONS.items(),
    ],
)
def test_an_unknown_keyword_names_the_option_that_does_the_same(name: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_options({name: 1}, LayerOptions.__annotations__)
    assert caught.value.hint == hint


def test_every_name_of_another_library_leads_to_an_option() -> None:
    known = {*ConvLSTMSpec.__dataclass_fields__, *KERAS}
    assert {options[-1] for options in FOREIGN_NAMES.values()} <= known


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stride", "Use `strides`."),
        ("bias", "Use `use_bias`."),
        ("hidden_dim", "Use `filters`."),
        ("proj_size", "List all options with `help(convlstm.ConvLSTMSpec)`."),
    ],
)
def test_an_unknown_keyword_of_keras_gets_the_name_in_keras(name: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_options({name: 1}, KERAS)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("shape", "channels_last", "hint"),
    [
        ((2, 5, 8, 9, 3), False, "The last axis has size 3: if it holds the channels, permute the axes to (0, 1, 4, 2"),
        ((2, 5, 3, 8, 9), True, "Axis 2 has size 3: if it holds the channels, permute the axes to (0, 1, 3, 4, 2"),
        ((5, 8, 9, 3), False, "The last axis has size 3: if it holds the channels, permute the axes to (0, 3, 1, 2)"),
        ((2, 5, 4, 8, 9), False, "Permute the axes, or build the layer for the channels of your data."),
        ((8, 9), False, "Pass 5 axes, or 4 without the batch axis."),
    ],
)
def test_frames_in_another_layout_get_the_permutation(shape: tuple[int, ...], channels_last: bool, hint: str) -> None:
    with pytest.raises(ShapeError) as caught:
        check_frames(SPEC, shape, frame_axes(SPEC, "batch", "time", channels_last=channels_last))
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("state", [None, [1], (1, 2, 3), "h"])
def test_a_state_that_is_not_a_pair_says_what_to_pass(state: Any) -> None:
    with pytest.raises(StateError, match=r"Pass \(h_0, c_0\), each a tuple with one tensor per layer and direction\."):
        state_pair(state)
    with pytest.raises(StateError, match=r"Pass \(h, c\), each one tensor\."):
        state_pair(state, "carry", "(h, c)")


@pytest.mark.parametrize("boundary", [["zeros"], ["zeros", "circular", "zeros"], ("zeros",)])
def test_a_boundary_of_a_wrong_length_names_the_tuple(boundary: Any) -> None:
    with pytest.raises(SpecError, match=r"boundary: expected one value, or 2 values.* or a tuple of 2\."):
        ConvLSTMSpec(in_channels=1, hidden_channels=4, kernel_size=3, boundary=boundary)
    listed = ConvLSTMSpec(in_channels=1, hidden_channels=4, kernel_size=3, boundary=["zeros", "circular"])
    assert listed.boundary == ("zeros", "circular")  # JSON and YAML have no tuples


@pytest.mark.parametrize("name", ["kernel_size", "recurrent_kernel_size", "stride", "padding", "dilation"])
def test_a_list_of_two_numbers_for_one_hidden_size_makes_one_layer(name: str) -> None:
    spec = ConvLSTMSpec(**{"in_channels": 1, "hidden_channels": 4, "kernel_size": 3, name: [3, 3]})
    assert spec.depth == 1
    assert getattr(spec, name) == ((3, 3),)
