"""Layouts of further PyTorch repositories: cells written anew from their equations, against the reference."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.nn import functional as F

from convlstm.errors import SpecError, WeightsError
from convlstm.interop import (
    find_layers,
    read_automan000,
    read_hzzone,
    read_jhhuang96,
    read_kamo,
    read_ndrplz,
)

GRID = (6, 5)
TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def randn(*shape, scale=0.4):
    return scale * torch.randn(*shape, dtype=torch.float64)


def zeros(x, hidden):
    return x.new_zeros(len(x), hidden, *x.shape[3:])


def peephole_step(z_i, z_f, z_g, z_o, c, peepholes):
    p_i, p_f, p_o = peepholes
    new = torch.sigmoid(z_f + p_f * c) * c + torch.sigmoid(z_i + p_i * c) * torch.tanh(z_g)
    return torch.sigmoid(z_o + p_o * new) * torch.tanh(new), new


def hzzone(inputs=2, hidden=3, peepholes=True):
    arrays = {"_conv.weight": randn(4 * hidden, inputs + hidden, 3, 3), "_conv.bias": randn(4 * hidden)}
    return arrays | ({f"Wc{g}": randn(1, hidden, *GRID, scale=1.0) for g in "ifo"} if peepholes else {})


def run_hzzone(arrays, x, hidden=3):
    h, c, outputs = zeros(x, hidden), zeros(x, hidden), []
    for frame in x.unbind(1):
        z = F.conv2d(torch.cat([frame, h], 1), arrays["_conv.weight"], arrays["_conv.bias"], padding=1)
        h, c = peephole_step(*z.chunk(4, 1), c, [arrays.get(f"Wc{g}", torch.zeros(())) for g in "ifo"])
        outputs.append(h)
    return torch.stack(outputs, 1), (h, c)


@pytest.mark.parametrize("peepholes", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.encoder.rnn1."])
def test_hzzone(same_numbers, prefix, peepholes):
    arrays, x = hzzone(peepholes=peepholes), randn(2, 4, 2, *GRID, scale=1.0)
    output, (h, c) = run_hzzone(arrays, x)
    converted = read_hzzone({prefix + key: value for key, value in arrays.items()})
    same_numbers(converted, x, output.numpy(), [(h.numpy(), c.numpy())], tolerance=TOLERANCE)
    assert converted.spec.peephole == ("pixel" if peepholes else "none")


def test_peepholes_of_hzzone_that_do_not_fit(refused):
    arrays = hzzone()
    with refused(WeightsError, "Wcf"):
        read_hzzone({key: value for key, value in arrays.items() if key != "Wcf"})
    with refused(WeightsError, "Wci"):
        read_hzzone(arrays | {"Wci": torch.zeros(1, 4, *GRID)})
    with refused(WeightsError, "layers.0.forward.peephole"):
        read_hzzone(arrays | {"Wci": torch.full((1, 3, *GRID), np.nan)})


def automan000(inputs=2, hidden=4, peepholes=True):
    arrays = {f"Wx{g}.weight": randn(hidden, inputs, 3, 3) for g in "ifco"}
    arrays |= {f"Wh{g}.weight": randn(hidden, hidden, 3, 3) for g in "ifco"}
    arrays |= {f"Wx{g}.bias": randn(hidden) for g in "ifco"}
    return arrays | ({f"Wc{g}": randn(1, hidden, *GRID, scale=1.0) for g in "ifo"} if peepholes else {})


def run_automan000(arrays, x, hidden=4):
    def gate(name, frame, h):
        return F.conv2d(frame, arrays[f"Wx{name}.weight"], arrays[f"Wx{name}.bias"], padding=1) + F.conv2d(
            h, arrays[f"Wh{name}.weight"], padding=1
        )

    h, c, outputs = zeros(x, hidden), zeros(x, hidden), []
    for frame in x.unbind(1):
        gates = [gate(name, frame, h) for name in "ifco"]
        h, c = peephole_step(*gates, c, [arrays.get(f"Wc{g}", torch.zeros(())) for g in "ifo"])
        outputs.append(h)
    return torch.stack(outputs, 1), (h, c)


@pytest.mark.parametrize("peepholes", [True, False])
def test_automan000_of_two_layers(same_numbers, peepholes):
    first, second = automan000(peepholes=peepholes), automan000(inputs=4, peepholes=peepholes)
    x = randn(2, 1, 2, *GRID, scale=1.0).expand(-1, 4, -1, -1, -1)  # one frame at every step
    below, states = run_automan000(first, x)
    output, more = run_automan000(second, below)
    named = {f"net.cell{n}.{key}": value for n, cell in enumerate((first, second)) for key, value in cell.items()}
    converted = read_automan000(named | {"net.head.weight": torch.zeros(1, 4, 1, 1)})
    same_numbers(converted, x, output.numpy(), [(h.numpy(), c.numpy()) for h, c in (states, more)], tolerance=TOLERANCE)
    assert converted.notes.left_out == ("net.head.weight",)


def test_automan000_of_one_cell_and_its_faults(same_numbers, refused):
    arrays, x = automan000(), randn(1, 3, 2, *GRID, scale=1.0)
    output, _ = run_automan000(arrays, x)
    same_numbers(read_automan000(arrays), x, output.numpy(), tolerance=TOLERANCE)
    with refused(WeightsError, "Wxc.bias"):
        read_automan000({key: value for key, value in arrays.items() if key != "Wxc.bias"})
    with refused(WeightsError, "Wxf.weight"):
        read_automan000(arrays | {"Wxf.weight": randn(5, 2, 3, 3)})
    with refused(WeightsError, "automan000"):
        read_automan000({key: value for key, value in arrays.items() if key != "Who.weight"})


def kamo(inputs, hidden, kernel, bias=True, suffix="l0"):
    arrays = {
        f"weight_ih_{suffix}": randn(4 * hidden, inputs, *kernel),
        f"weight_hh_{suffix}": randn(4 * hidden, hidden, *kernel),
    }
    biases = {f"bias_{side}_{suffix}": randn(4 * hidden) for side in ("ih", "hh")}
    return arrays | (biases if bias else {})


def run_kamo(arrays, x, suffix, hidden, reverse=False, dilation=None):
    def same(value, side):
        weight = arrays[f"weight_{side}_{suffix}"]
        steps = dilation or (1,) * (weight.ndim - 2)
        spans = [step * (size - 1) for size, step in zip(weight.shape[2:], steps, strict=True)]
        pads = [pad for span in reversed(spans) for pad in (span // 2, (span + 1) // 2)]
        convolve = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
        return convolve(F.pad(value, pads), weight, arrays.get(f"bias_{side}_{suffix}"), dilation=steps)

    h, c, outputs = zeros(x, hidden), zeros(x, hidden), []
    for frame in reversed(x.unbind(1)) if reverse else x.unbind(1):
        z = same(frame, "ih") + same(h, "hh")
        h, c = peephole_step(*z.chunk(4, 1), c, [torch.zeros(())] * 3)
        outputs.append(h)
    return torch.stack(outputs[::-1] if reverse else outputs, 1), (h, c)


@pytest.mark.parametrize(
    ("layers", "bidirectional", "kernel", "bias"),
    [
        (1, False, (3, 3), True),
        (2, False, (2, 4), True),
        (1, True, (3, 3), False),
        (2, True, (3, 5), True),
        (2, True, (4,), True),
        (1, False, (3, 1, 2), True),
    ],
)
def test_kamo(same_numbers, layers, bidirectional, kernel, bias):
    hidden, inputs, x = 3, 2, randn(2, 4, 2, *(6, 5, 4)[: len(kernel)], scale=1.0)
    arrays, states, below = {}, [], x
    for layer in range(layers):
        sides = []
        for side in ("", "_reverse")[: 1 + bidirectional]:
            suffix = f"l{layer}{side}"
            arrays |= kamo(inputs, hidden, kernel, bias, suffix)
            output, (h, c) = run_kamo(arrays, below, suffix, hidden, reverse=bool(side))
            sides.append(output)
            states.append((h.numpy(), c.numpy()))
        below, inputs = torch.cat(sides, 2), hidden * (1 + bidirectional)
    converted = read_kamo({f"model.rnn.{key}": value for key, value in arrays.items()}, dropout=0.5 * (layers > 1))
    same_numbers(converted, x, below.numpy(), states, tolerance=TOLERANCE)
    assert converted.spec.direction == ("bidirectional" if bidirectional else "forward")
    assert converted.spec.dropout == 0.5 * (layers > 1)


@pytest.mark.parametrize(
    ("option", "dilation", "kernel"),
    [(2, (2, 2), (3, 3)), ([2, 1], (2, 1), (3, 2)), (3, (3,), (2,)), (2, (2, 2, 2), (2, 1, 3))],
)
def test_kamo_dilates_both_convolutions(same_numbers, option, dilation, kernel):
    arrays, x = kamo(2, 3, kernel), randn(2, 4, 2, *(6, 5, 4)[: len(kernel)], scale=1.0)
    output, (h, c) = run_kamo(arrays, x, "l0", 3, dilation=dilation)
    converted = read_kamo(arrays, dilation=option)
    assert converted.spec.dilation == converted.spec.recurrent_dilation == (dilation,)
    same_numbers(converted, x, output.numpy(), [(h.numpy(), c.numpy())], tolerance=TOLERANCE)
    assert read_kamo(arrays).notes.assumed == {"dropout": 0.0, "dilation": 1}


def test_kamo_groups_of_a_layer_that_is_not_chosen_are_not_looked_at(refused):
    with_groups = {"b.weight_ih_l0": randn(16, 1, 3, 3), "b.weight_hh_l0": randn(16, 2, 3, 3)}
    arrays = {f"a.{key}": value for key, value in kamo(2, 4, (3, 3)).items()} | with_groups
    with refused(WeightsError, "layer"):  # which of the two is the first question
        read_kamo(arrays)
    assert read_kamo(arrays, layers=["a"]).notes.layers == ("a.l0.forward",)
    with refused(WeightsError, "b.l0.forward.weight_hh"):
        read_kamo(arrays, layers=["b"])


def test_kamo_that_cannot_be_represented(refused):
    arrays = kamo(2, 4, (3, 3))
    with refused(WeightsError, "l0.forward.weight_hh"):  # groups
        read_kamo(arrays | {"weight_ih_l0": randn(16, 1, 3, 3), "weight_hh_l0": randn(16, 2, 3, 3)})
    with refused(WeightsError, "l0.forward.weight_hh"):  # GRU
        read_kamo({"weight_ih_l0": randn(12, 2, 3, 3), "weight_hh_l0": randn(12, 4, 3, 3)})
    with refused(WeightsError, "l0.forward.weight_pi"):
        read_kamo(arrays | {"weight_pi_l0": randn(4, 4, 3, 3)})
    with refused(WeightsError, "kamo"):  # torch.nn.LSTM
        read_kamo({"weight_ih_l0": randn(16, 2), "weight_hh_l0": randn(16, 4)})
    with refused(WeightsError, "l0.forward.bias"):  # this package's own names, whose bias would be lost
        read_kamo({"weight_ih_l0": randn(16, 2, 3, 3), "weight_hh_l0": randn(16, 4, 3, 3), "bias_l0": randn(16)})
    with refused(SpecError, "stride"):
        read_kamo(arrays, stride=2)


class NormalisedCell(nn.Module):
    """A convolution over [x; h] and a group normalisation of 32 channels each, gates i, f, g, o."""

    def __init__(self, inputs, hidden, kernel, groups):
        super().__init__()
        convolution = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=kernel // 2)
        self.conv = nn.Sequential(convolution, nn.GroupNorm(groups, 4 * hidden))
        self.hidden = hidden
        with torch.no_grad():
            self.conv[1].weight.uniform_(0.5, 1.5)
            self.conv[1].bias.normal_()

    def forward(self, x):
        h, c, outputs = zeros(x, self.hidden), zeros(x, self.hidden), []
        for frame in x.unbind(1):
            z = self.conv(torch.cat([frame, h], 1))
            h, c = peephole_step(*z.chunk(4, 1), c, [torch.zeros(())] * 3)
            outputs.append(h)
        return torch.stack(outputs, 1), (h, c)


@pytest.mark.parametrize(("hidden", "kernel"), [(32, 3), (64, 5)])
@pytest.mark.parametrize("prefix", ["", "encoder.rnn2."])
def test_jhhuang96_with_a_bias_that_the_normalisation_removes(same_numbers, hidden, kernel, prefix):
    cell = NormalisedCell(2, hidden, kernel, hidden * 4 // 32).double()
    with torch.no_grad():
        cell.conv[0].bias.copy_(randn(hidden * 4 // 32, scale=1.0).repeat_interleave(32))
        x = randn(1, 3, 2, *GRID, scale=1.0)
        output, (h, c) = cell(x)
    converted = read_jhhuang96({prefix + key: value for key, value in cell.state_dict().items()})
    assert (converted.spec.norm, converted.spec.norm_groups) == ("group", hidden // 32)
    same_numbers(converted, x, output.numpy(), [(h.numpy(), c.numpy())], tolerance=TOLERANCE)


def test_jhhuang96_with_any_bias_takes_a_channel_of_ones(same_numbers, refused):
    cell, x = NormalisedCell(2, 32, 3, 4).double(), randn(2, 3, 2, *GRID, scale=1.0)
    with torch.no_grad():
        cell.conv[0].bias.normal_()
        output, (h, c) = cell(x)
    with refused(WeightsError, "conv.0.bias"):
        read_jhhuang96(cell.state_dict())
    converted = read_jhhuang96(cell.state_dict(), constant_channel=True)
    assert "one more input channel" in converted.notes.differences[-1]
    frames = torch.cat([x, torch.ones_like(x[:, :, :1])], 2)
    same_numbers(converted, frames, output.numpy(), [(h.numpy(), c.numpy())], tolerance=TOLERANCE)


def test_jhhuang96_whose_groups_mix_gates_is_refused(refused):
    cell = NormalisedCell(2, 16, 3, 2)
    with torch.no_grad():
        cell.conv[0].bias.zero_()
    with refused(WeightsError, "jhhuang96"):
        read_jhhuang96(cell.state_dict())
    with refused(SpecError, "constant_channel"):
        read_jhhuang96(cell.state_dict(), constant_channel="yes")


def test_layer_of_a_stage_is_read_alone():
    first, second = (NormalisedCell(2, 32, 3, 4) for _ in range(2))
    with torch.no_grad():
        second.conv[0].bias.zero_()
    arrays = {
        f"encoder.rnn{n}.{key}": v for n, cell in ((1, first), (2, second)) for key, v in cell.state_dict().items()
    }
    converted = read_jhhuang96(arrays, layers=["encoder.rnn2"])  # the bias of the other is not looked at
    assert converted.notes.layers == ("encoder.rnn2",)


def test_jhhuang96_asks_for_the_layer_before_it_looks_at_a_bias(refused):
    cells = {path: NormalisedCell(2, 32, 3, 4).state_dict() for path in ("encoder.rnn1", "decoder.rnn1")}
    arrays = {f"{path}.{key}": value for path, state in cells.items() for key, value in state.items()}
    for options in ({}, {"constant_channel": True}):
        with refused(WeightsError, "layer"):
            read_jhhuang96(arrays, **options)
    with refused(WeightsError, "decoder.rnn1.conv.0.bias"):
        read_jhhuang96(arrays, layers=["decoder.rnn1"])
    assert read_jhhuang96(arrays, layers=["decoder"], constant_channel=True).spec.in_channels == 3


def test_jhhuang96_of_two_layers_in_a_row(same_numbers):
    first, second = NormalisedCell(2, 32, 3, 4).double(), NormalisedCell(32, 32, 3, 4).double()
    with torch.no_grad():
        for cell in (first, second):
            cell.conv[0].bias.copy_(randn(4, scale=1.0).repeat_interleave(32))
        x = randn(1, 3, 2, *GRID, scale=1.0)
        below, states = first(x)
        output, more = second(below)
    cells = ((1, first), (2, second))
    arrays = {f"rnn{n}.{key}": value for n, cell in cells for key, value in cell.state_dict().items()}
    converted = read_jhhuang96(arrays)
    assert converted.notes.left_out == ()
    same_numbers(converted, x, output.numpy(), [(h.numpy(), c.numpy()) for h, c in (states, more)], tolerance=TOLERANCE)


def test_constant_channel_without_a_bias_to_hold_is_refused(refused):
    state = NormalisedCell(2, 32, 3, 4).state_dict()
    del state["conv.0.bias"]
    with refused(SpecError, "constant_channel"):
        read_jhhuang96(state, constant_channel=True)
    assert read_jhhuang96(state).spec.in_channels == 2


def holmdk():
    names = ("encoder_1_convlstm", "encoder_2_convlstm", "decoder_1_convlstm", "decoder_2_convlstm")
    sizes = dict(zip(names, ((1 + 4, 4), (8, 4), (8, 4), (8, 4)), strict=True))
    arrays = {f"{name}.conv.weight": randn(4 * h, n, 3, 3) for name, (n, h) in sizes.items()}
    arrays |= {f"{name}.conv.bias": randn(4 * h) for name, (n, h) in sizes.items()}
    return arrays | {"decoder_CNN.weight": randn(1, 4, 1, 3, 3), "decoder_CNN.bias": randn(1)}


def test_cells_of_a_larger_checkpoint_are_read_by_their_names(same_numbers, refused):
    arrays = {f"model.{key}": value for key, value in holmdk().items()}
    with refused(WeightsError, "layer"):
        read_ndrplz(arrays)
    converted = read_ndrplz(arrays, layers=["encoder_1_convlstm", "encoder_2_convlstm"])
    assert converted.notes.layers == ("model.encoder_1_convlstm", "model.encoder_2_convlstm")
    x = randn(2, 3, 1, *GRID, scale=1.0)
    states = [(zeros(x, 4), zeros(x, 4)) for _ in range(2)]
    outputs = []
    for below in x.unbind(1):
        frame = below
        for n, (h, c) in enumerate(states):
            name = f"model.encoder_{n + 1}_convlstm.conv"
            z = F.conv2d(torch.cat([frame, h], 1), arrays[f"{name}.weight"], arrays[f"{name}.bias"], padding=1)
            z_i, z_f, z_o, z_g = z.chunk(4, 1)
            states[n] = peephole_step(z_i, z_f, z_g, z_o, c, [torch.zeros(())] * 3)
            frame = states[n][0]
        outputs.append(frame)
    numbers = [(h.numpy(), c.numpy()) for h, c in states]
    same_numbers(converted, x, torch.stack(outputs, 1).numpy(), numbers, tolerance=TOLERANCE)


def test_cell_under_any_name_is_read_if_it_is_named(refused):
    arrays = {"net.memory.conv.weight": randn(12, 5, 3, 3), "net.body.conv.weight": randn(64, 32, 3, 3)}
    with refused(WeightsError, "ndrplz"):
        read_ndrplz(arrays)
    assert read_ndrplz(arrays, layers=["memory"]).spec.hidden_channels == (3,)
    assert read_ndrplz(arrays, layers=["net.memory"]).notes.left_out == ("net.body.conv.weight",)
    with refused(WeightsError, "layer"):
        read_ndrplz(arrays, layers=["encoder"])


def test_layers_of_every_layout_are_found():
    arrays = (
        {f"a.{key}": value for key, value in hzzone().items()}
        | {f"b.cell0.{key}": value for key, value in automan000().items()}
        | {f"c.{key}": value for key, value in kamo(2, 3, (3, 3)).items()}
        | {f"d.{key}": value for key, value in NormalisedCell(2, 32, 3, 4).state_dict().items()}
        | holmdk()
        | {"e.conv.weight": randn(64, 32, 3, 3), "f.conv.weight": randn(64, 3, 3, 3), "f.conv.bias": randn(64)}
    )
    layers = {(layer.layout, layer.path): layer for layer in find_layers(arrays)}
    assert set(layers) == {
        ("hzzone", "a"),
        ("automan000", "b.cell0"),
        ("kamo", "c.l0.forward"),
        ("jhhuang96", "d"),
        *(("ndrplz", f"{side}_{n}_convlstm") for side in ("encoder", "decoder") for n in (1, 2)),
        ("ndrplz", "e"),
    }
    assert [path for (_, path), layer in layers.items() if not layer.is_certain] == ["e"]
    assert layers["hzzone", "a"].shapes["Wci"] == (1, 3, *GRID)
    assert layers["jhhuang96", "d"].shapes["conv.1.weight"] == (128,)
    assert {layer.layout for layer in find_layers(arrays, "kamo")} == {"kamo"}


def test_stacks_are_not_joined_by_their_numbers_or_by_a_part_of_their_paths(refused):
    kernel = randn(12, 6, 3, 3)
    two = {f"net.convlstm{n}.cell_list.{layer}.conv.weight": kernel for n in (1, 2) for layer in (0, 1)}
    for layers in ((), ("net",)):
        with refused(WeightsError, "layer"):
            read_ndrplz(two, layers=layers)
    assert read_ndrplz(two, layers=["convlstm2"]).spec.depth == 2
    assert read_ndrplz(two, layers=["convlstm2", "convlstm1"]).spec.depth == 4
    stages = {f"encoder.rnn{n}.{key}": value for n in (1, 2) for key, value in hzzone(3, 3).items()}
    assert read_hzzone(stages).spec.depth == 2
    stages["encoder.stage2.weight"] = randn(3, 3, 3, 3)
    for layers in ((), ("encoder",)):
        with refused(WeightsError, "layer"):
            read_hzzone(stages, layers=layers)
