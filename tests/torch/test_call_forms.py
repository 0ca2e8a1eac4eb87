"""The call forms of `torch.nn.LSTM`: attributes, `hx`, stacked states and packed sequences."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from convlstm.errors import StateError
from convlstm.torch import ConvLSTM, ConvLSTMCell, StatefulConvLSTM, compat

NAMES = ("in_channels", "hidden_channels", "kernel_size", "num_layers", "bias", "bidirectional")
LENGTHS = {"sorted": [5, 3, 2], "unsorted": [2, 5, 3], "equal": [5, 5, 5]}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((3, 8, 5), (3, 8, (5, 5), 1, True, False)),
        ((3, 8, (3, 5), 2), (3, 8, (3, 5), 2, True, False)),
        ((3, [8, 4], [(3, 5), 1]), (3, [8, 4], [(3, 5), (1, 1)], 2, True, False)),
        ((3, [8, 8], [(3, 3), (5, 5)]), (3, 8, [(3, 3), (5, 5)], 2, True, False)),
        ((3, 8, (5,)), (3, 8, (5,), 1, True, False)),
    ],
)
def test_attributes_are_the_arguments_and_build_the_layer_again(given: tuple, expected: tuple) -> None:
    layer = ConvLSTM(*given)
    found = tuple(getattr(layer, name) for name in NAMES)
    assert found == expected
    assert ConvLSTM(*found[:4], bias=layer.bias, bidirectional=layer.bidirectional).spec == layer.spec
    assert tuple(getattr(StatefulConvLSTM(layer), name) for name in NAMES) == expected


def test_attributes_of_two_directions_and_of_no_bias() -> None:
    layer = ConvLSTM(1, 2, 3, bidirectional=True, bias=False)
    assert layer.bidirectional
    assert layer.bias is False
    assert not ConvLSTM(1, 2, 3, direction="reverse").bidirectional


def test_attributes_of_cells() -> None:
    for cell in (ConvLSTMCell(3, 8, (3, 5)), compat.ConvLSTMCell(3, 8, (3, 5)), compat.ConvGate(3, 8, (3, 5))):
        assert (cell.in_channels, cell.hidden_channels, cell.kernel_size) == (3, 8, (3, 5))
        assert cell.bias is True
    old = compat.ConvLSTM(3, [8, 8], (3, 5), 2)
    assert (old.in_channels, old.hidden_channels, old.kernel_size, old.num_layers) == (3, 8, [(3, 5)] * 2, 2)
    assert (old.input_dim, old.hidden_dim, old.bidirectional) == (3, [8, 8], False)


@pytest.mark.parametrize("name", NAMES)
def test_attributes_are_read_only(name: str) -> None:
    layer = ConvLSTM(1, 2, 3)
    for module in (layer, StatefulConvLSTM(layer), compat.ConvLSTM(1, 2, 3, 1)):
        with pytest.raises(AttributeError):
            setattr(module, name, 1)


def test_attributes_change_neither_state_dict_nor_repr() -> None:
    layer = ConvLSTM(1, 2, 3)
    assert set(layer.state_dict()) == {"weight_ih_l0", "weight_hh_l0", "bias_l0"}
    assert repr(layer) == "ConvLSTM(1, 2, kernel_size=3)"
    assert deepcopy(layer).hidden_channels == 2


def state_of(layer: ConvLSTM, batch: int = 3, size: tuple[int, int] = (6, 7)) -> Any:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    return torch.randn(2, count, batch, 2, *size)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("argument", ["state", "hx"])
def test_stacked_states_are_the_tuples_of_their_layers(options: dict, argument: str) -> None:
    layer, x = ConvLSTM(1, 2, 3, **options), torch.randn(3, 4, 1, 6, 7)
    h, c = state_of(layer).requires_grad_()
    tuples = tuple(h.unbind()), tuple(c.unbind())
    expected, (h_n, c_n) = layer(x, tuples)
    output, (h_m, c_m) = layer(x, **{argument: (h, c)})
    assert torch.equal(output, expected)
    assert all(torch.equal(a, b) for a, b in zip(h_m + c_m, h_n + c_n, strict=True))
    assert isinstance(h_m, tuple)
    for found, wanted in zip(
        torch.autograd.grad(output.sum(), (h, c)), torch.autograd.grad(expected.sum(), (h, c)), strict=True
    ):
        assert torch.equal(found, wanted)
    assert torch.equal(layer(x, (torch.stack(h_n), c_n))[0], layer(x, (h_n, c_n))[0])  # one part stacked


def test_stacked_states_without_a_batch_axis() -> None:
    layer, x = ConvLSTM(1, 2, 3, num_layers=2), torch.randn(4, 1, 6, 7)
    h, c = torch.randn(2, 2, 2, 6, 7)
    assert torch.equal(layer(x, (h, c))[0], layer(x, (tuple(h), tuple(c)))[0])


def test_the_state_of_torch_nn_lstm_fits_as_it_is() -> None:
    dense = torch.nn.LSTM(3, 2, 2, batch_first=True)
    layer = ConvLSTM(3, 2, 1, 2)
    x = torch.randn(4, 5, 3)
    _, (h, c) = dense(x)
    output, _ = layer(x[..., None, None], (h[..., None, None], c[..., None, None]))
    assert output.shape == (4, 5, 2, 1, 1)


def test_layers_that_differ_take_no_stacked_state() -> None:
    layer, x = ConvLSTM(1, [2, 2], 3, stride=[(2, 2), 1]), torch.randn(3, 4, 1, 6, 8)
    same_grid = torch.randn(2, 2, 3, 2, 3, 4)
    assert layer(x, tuple(same_grid))[0].shape == (3, 4, 2, 3, 4)
    strided = ConvLSTM(1, [2, 2], 3, stride=2)
    with pytest.raises(StateError, match="because the layers differ in channels or grid"):
        strided(x, tuple(same_grid))


def test_hx_is_another_name_of_the_state() -> None:
    layer, cell, x = ConvLSTM(1, 2, 3), ConvLSTMCell(1, 2, 3), torch.randn(3, 4, 1, 6, 7)
    h, c = torch.randn(2, 3, 2, 6, 7)
    assert torch.equal(layer(x, hx=(h, c))[0], layer(x, (h, c))[0])
    assert torch.equal(cell(x[:, 0], hx=(h, c))[0], cell(x[:, 0], (h, c))[0])
    old_cell, old = compat.ConvLSTMCell(1, 2, 3), compat.ConvLSTM(1, 2, 3, 1, batch_first=True)
    assert torch.equal(old_cell(x[:, 0], hx=[h, c])[0], old_cell(x[:, 0], [h, c])[0])
    assert torch.equal(old(x, hx=[(h, c)])[0][0], old(x, [(h, c)])[0][0])
    for call in (lambda: old(x, [(h, c)], hx=[(h, c)]), lambda: StatefulConvLSTM(layer)(x, hx=(h, c))):
        with pytest.raises(StateError, match=r"^hx: "):
            call()


def packed_and_padded(lengths: list[int], *, enforce_sorted: bool) -> tuple[PackedSequence, Tensor]:
    padded = torch.randn(3, 5, 2, 6, 7)
    for row, length in enumerate(lengths):
        padded[row, length:] = 0.0
    packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=enforce_sorted)
    return packed, padded


PACKED_OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bidirectional": True, "merge": "separate"},
    {"batch_first": False},
    {"masked_output": "hold", "stride": 2},
    {"checkpoint": 2},
]


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("options", PACKED_OPTIONS, ids=str)
def test_packed_sequences_equal_padded_ones_with_lengths_to_the_bit(name: str, options: dict) -> None:
    lengths = LENGTHS[name]
    packed, padded = packed_and_padded(lengths, enforce_sorted=name != "unsorted")
    layer = ConvLSTM(2, 3, 3, **options)
    twin = deepcopy(layer)
    data = packed.data.clone().requires_grad_()
    packed = PackedSequence(data, *packed[1:])
    padded = padded.requires_grad_()
    frames = padded if layer.batch_first else padded.transpose(0, 1)
    state = tuple(torch.randn(2, 3, 3, *grid) for grid in [(3, 4) if "stride" in options else (6, 7)] * 2)
    state = state if layer.bidirectional else tuple(part[:1] for part in state)
    if layer.num_layers == 2:
        state = tuple(torch.cat([part, part]) for part in state)
    output, found = layer(packed, state)
    expected, wanted = twin(frames, state, lengths=lengths)
    outputs = (output,) if isinstance(output, PackedSequence) else output
    loss, other = 0.0, 0.0
    for part, whole in zip(outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert isinstance(part, PackedSequence)
        assert torch.equal(part.batch_sizes, packed.batch_sizes)
        for a, b in zip(part[2:], packed[2:], strict=True):
            assert a is b
        unpacked, counts = pad_packed_sequence(part, batch_first=layer.batch_first)
        valid = torch.arange(5) < torch.tensor(lengths)[:, None]
        valid = (valid if layer.batch_first else valid.T)[..., None, None, None]
        assert counts.tolist() == lengths
        assert torch.equal(unpacked, whole * valid)
        loss, other = loss + unpacked.square().sum(), other + (whole * valid).square().sum()
    for a, b in zip(found[0] + found[1], wanted[0] + wanted[1], strict=True):
        assert torch.equal(a, b)
        loss, other = loss + a.sum(), other + b.sum()
    loss.backward()
    other.backward()
    for (key, a), b in zip(layer.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key
    expected_gradient = pack_padded_sequence(padded.grad, lengths, batch_first=True, enforce_sorted=name != "unsorted")
    assert torch.equal(data.grad, expected_gradient.data)


def test_packed_sequences_of_frames_in_any_order_of_their_lengths() -> None:
    """The same rows, packed from a list in two orders, give the same rows."""
    layer = ConvLSTM(1, 2, 3, bidirectional=True)
    rows = [torch.randn(n, 1, 4, 5) for n in (2, 5, 3)]
    output, (h, _) = layer(pack_sequence(rows, enforce_sorted=False))
    padded, _ = pad_packed_sequence(output, batch_first=True)
    for index, row in enumerate(rows):
        alone, (h_alone, _) = layer(row)
        torch.testing.assert_close(padded[index, : len(row)], alone, rtol=0, atol=1e-6)
        torch.testing.assert_close(h[1][index], h_alone[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [1, 3])
def test_packed_sequences_in_one_and_three_dimensions(dims: int) -> None:
    layer = ConvLSTM(1, 2, 3, spatial_dims=dims)
    x = torch.randn(2, 3, 1, *(4,) * dims)
    output, _ = layer(pack_padded_sequence(x, [1, 3], batch_first=True, enforce_sorted=False))
    assert torch.equal(pad_packed_sequence(output, batch_first=True)[0], layer(x, lengths=[1, 3])[0])


def test_packed_sequences_with_durations_outputs_of_all_layers_and_dropout_masks() -> None:
    layer = ConvLSTM(2, 3, 3, num_layers=2, duration_strategy="linear", recurrent_dropout=0.5)
    packed, padded = packed_and_padded([2, 5, 3], enforce_sorted=False)
    masks, durations = layer.sample_masks(packed), torch.rand(3, 5) + 0.5
    outputs, _ = layer(packed, durations=durations, dropout_masks=masks, all_layers=True)
    expected, _ = layer(padded, durations=durations, dropout_masks=masks, all_layers=True, lengths=[2, 5, 3])
    assert len(outputs) == 2
    for part, whole in zip(outputs, expected, strict=True):
        assert torch.equal(pad_packed_sequence(part, batch_first=True)[0], whole)


def test_packed_sequences_of_stateful_and_of_copied_layers() -> None:
    layer, packed = ConvLSTM(2, 3, 3), packed_and_padded([2, 5, 3], enforce_sorted=False)[0]
    stream = StatefulConvLSTM(layer)
    _, state = layer(packed)
    stream(packed)
    assert torch.equal(stream(packed)[0].data, layer(packed, state)[0].data)
    stream.reset_state([True, False, False])
    old = compat.ConvLSTM(2, 3, 3, 1)
    old.load_state_dict(layer.state_dict())
    (output,), ((h, _),) = old(packed)
    assert torch.equal(output.data, layer(packed)[0].data)
    assert torch.equal(h, state[0][0])


def test_stacked_states_and_hx_give_the_grid_of_a_layer_without_input() -> None:
    layer = ConvLSTM(0, [3, 3], 3)
    h, c = torch.randn(2, 2, 3, 5, 4), torch.randn(2, 2, 3, 5, 4)
    wanted = layer(None, (tuple(h), tuple(c)), steps=3)[0]
    assert torch.equal(layer(None, (h, c), steps=3)[0], wanted)
    assert torch.equal(layer(None, hx=(h, c), steps=3)[0], wanted)
