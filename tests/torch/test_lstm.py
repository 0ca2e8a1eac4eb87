"""On one point the layer is `torch.nn.LSTM`; the laws of every frontend are in `tests/frontends`."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from convlstm.torch import ConvLSTM

F64 = torch.float64


@pytest.mark.parametrize(("bidirectional", "layers", "bias"), list(product([False, True], [1, 2], [True, False])))
def test_on_one_point_it_is_torch_nn_lstm(bidirectional: bool, layers: int, bias: bool) -> None:
    dense = torch.nn.LSTM(3, 4, layers, bias=bias, bidirectional=bidirectional, batch_first=True, dtype=F64)
    layer = ConvLSTM(3, 4, 3, layers, bidirectional=bidirectional, bias=bias, dtype=F64)
    theirs = dict(dense.named_parameters())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight"):
                parameter[..., 1, 1] = theirs[name]  # of a 3×3 kernel only the middle falls on the one point
            else:
                parameter.copy_(theirs[name.replace("bias", "bias_ih")] + theirs[name.replace("bias", "bias_hh")])
    x, count = torch.randn(2, 6, 3, dtype=F64), layers * (1 + bidirectional)
    h, c = torch.randn(2, count, 2, 4, dtype=F64)
    expected, (h_n, c_n) = dense(x, (h, c))
    points = (slice(None), slice(None), None, None)
    output, (h_m, c_m) = layer(x[..., None, None], (tuple(a[points] for a in h), tuple(a[points] for a in c)))
    torch.testing.assert_close(output[..., 0, 0], expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.stack(h_m)[..., 0, 0], h_n, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.stack(c_m)[..., 0, 0], c_n, rtol=0, atol=1e-13)


def test_packed_sequences_of_torch_nn_lstm_are_lengths() -> None:
    dense = torch.nn.LSTM(3, 4, bidirectional=True, batch_first=True, dtype=F64)
    layer = ConvLSTM(3, 4, 1, bidirectional=True, dtype=F64)
    theirs = dict(dense.named_parameters())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            wanted = theirs.get(name)
            if wanted is None:
                wanted = theirs[name.replace("bias", "bias_ih")] + theirs[name.replace("bias", "bias_hh")]
            parameter.copy_(wanted.reshape(parameter.shape))
    x, lengths = torch.randn(3, 5, 3, dtype=F64), [5, 3, 1]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    output, (h_n, _) = dense(packed)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    ours, (h, _) = layer(x[..., None, None], lengths=lengths)
    torch.testing.assert_close(ours[..., 0, 0], expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.stack(h)[..., 0, 0], h_n, rtol=0, atol=1e-13)
