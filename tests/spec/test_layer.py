"""The properties of one layer's spec."""

from __future__ import annotations

from typing import Any

import pytest

from convlstm.spec.options import ConvLSTMSpec


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),
        ({"peephole": "channel"}, True),
        ({"stride": 2, "dilation": 2, "padding": "valid"}, True),
        ({"dropout": 0.1, "recurrent_dropout": 0.1, "memory_decay": True}, True),
        ({"activation": "relu"}, False),
        ({"recurrent_activation": "hard_sigmoid"}, False),
        ({"norm": "layer"}, False),
        ({"peephole": "pixel", "input_size": (8, 8)}, False),
        ({"zoneout_h": 0.1}, False),
        ({"zoneout_c": 0.1}, False),
        ({"boundary": ("zeros", "circular")}, False),
        ({"groups": 2}, False),
    ],
)
def test_is_standard_cell(options: dict[str, Any], expected: bool) -> None:
    spec = ConvLSTMSpec(**{"in_channels": 2, "hidden_channels": [4, 4], "kernel_size": 3} | options)
    assert [layer.is_standard_cell for layer in spec.layers] == [expected, expected]
