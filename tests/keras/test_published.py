"""Keras's own published tests of ConvLSTM1D, 2D and 3D, with our layers in place of theirs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from keras.src.layers.rnn import conv_lstm1d_test, conv_lstm2d_test, conv_lstm3d_test, conv_lstm_test

from convlstm.keras import ConvLSTM1D, ConvLSTM2D, ConvLSTM3D
from convlstm.keras.cell import CELLS

LAYERS = SimpleNamespace(ConvLSTM1D=ConvLSTM1D, ConvLSTM2D=ConvLSTM2D, ConvLSTM3D=ConvLSTM3D)
BY_RANK = {1: ConvLSTM1D, 2: ConvLSTM2D, 3: ConvLSTM3D}

# Keras's tests fit on a generator, and are warned of its shuffling
pytestmark = pytest.mark.filterwarnings("ignore:.*shuffle=True:UserWarning")


@pytest.fixture(autouse=True)
def _ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (conv_lstm1d_test, conv_lstm2d_test, conv_lstm3d_test):
        monkeypatch.setattr(module, "layers", LAYERS)
    monkeypatch.setattr(conv_lstm_test, "ConvLSTM", lambda rank, **options: BY_RANK[rank](**options))
    monkeypatch.setattr(conv_lstm_test, "ConvLSTMCell", lambda rank, **options: CELLS[rank](**options))


class TestCell(conv_lstm_test.ConvLSTMCellTest):
    pass


class TestLayer(conv_lstm_test.ConvLSTMTest):
    pass


class _Lifted:
    rank: int

    def test_symbolic_invalid_strides_dilation_rate(self) -> None:
        """Keras refuses a stride together with a dilation; here they work."""
        layer = BY_RANK[self.rank](1, 2, strides=2, padding="same", dilation_rate=3)
        assert tuple(layer(np.zeros((2, 3, *(5,) * self.rank, 1))).shape) == (2, *(3,) * self.rank, 1)


class Test1D(_Lifted, conv_lstm1d_test.ConvLSTM1DTest):
    rank = 1


class Test2D(_Lifted, conv_lstm2d_test.ConvLSTM2DTest):
    rank = 2


class Test3D(_Lifted, conv_lstm3d_test.ConvLSTM3DTest):
    rank = 3
