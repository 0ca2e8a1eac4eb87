"""Which layers of a file are listed, by the shapes of their arrays."""

from __future__ import annotations

import numpy as np
import pytest

from convlstm.interop import find_layers, read_jhhuang96, read_kamo

STATISTICS = ("conv.1.running_mean", "conv.1.running_var")


def normalised(rows, columns, path=""):
    """A convolution and a normalisation with a scale and a bias, as jhhuang96's cell and the blocks of a U-Net have."""
    arrays = {"conv.0.weight": np.ones((rows, columns, 3, 3)), "conv.0.bias": np.zeros(rows)}
    arrays |= {"conv.1.weight": np.ones(rows), "conv.1.bias": np.zeros(rows)}
    return {path + name: array for name, array in arrays.items()}


def kamo(path="", directions=("",)):
    shapes = {"weight_ih_l0": (12, 2, 3, 3), "weight_hh_l0": (12, 3, 3, 3)}
    return {f"{path}{name}{way}": np.ones(shape) for way in directions for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "arrays",
    [
        {"conv.weight": np.ones((10, 64, 1, 1)), "conv.bias": np.ones(10)},
        {"conv.weight": np.ones((64, 3, 3, 3))},
        {"net._conv.weight": np.ones((64, 16, 3, 3))},
        {"lstm_head.conv.weight": np.ones((64, 3, 3, 3))},
        normalised(64, 3, "inc."),
        normalised(128, 64, "down1.") | {f"down1.{name}": np.ones(128) for name in STATISTICS},
        normalised(128, 64, "down1.") | {"down1.conv.3.weight": np.ones((128, 128, 3, 3))},
        normalised(48, 14),
        {name: array for name, array in normalised(128, 33).items() if name != "conv.1.bias"},
        normalised(128, 33) | {"conv.1.weight": np.ones(32)},
    ],
    ids=[
        *("rows", "no room for h", "no input", "path of an LSTM", "first block", "batch norm", "second convolution"),
        *("part of a group", "no bias of the norm", "scales"),
    ],
)
def test_ordinary_convolutions_are_not_listed(arrays):
    assert find_layers(arrays) == ()


def test_cell_with_a_group_normalisation_is_listed():
    [layer] = find_layers(normalised(128, 33, "encoder.rnn1."))
    assert (layer.layout, layer.path, layer.is_certain) == ("jhhuang96", "encoder.rnn1", True)


def test_jhhuang96_is_read_from_a_model_with_ordinary_convolutions():
    arrays = normalised(128, 34, "encoder.rnn1.") | normalised(64, 3, "inc.")
    converted = read_jhhuang96(arrays)
    assert converted.notes.layers == ("encoder.rnn1",)
    assert set(converted.notes.left_out) == set(normalised(64, 3, "inc."))


def test_every_listed_path_names_a_layer():
    arrays = kamo("rnn.", ("", "_reverse")) | kamo("one.")
    layers = {layer.path: layer.is_bidirectional for layer in find_layers(arrays)}
    assert layers == {"rnn.l0.forward": True, "one.l0.forward": False}
    for path, is_bidirectional in layers.items():
        assert (read_kamo(arrays, layers=[path]).spec.direction == "bidirectional") is is_bidirectional
