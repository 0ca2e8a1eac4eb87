"""The layers inside the structures of public projects, loaded from the layouts of their weights.

Each model is built twice from what is known of the project's structure: with a cell written from its equations, and
with a layer of this package. Both have the same further modules. Their outputs agree to 1e-6.

The file is long because each project has a cell and a structure of its own; they share only `advance`.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convlstm.interop import read_automan000, read_hzzone, read_jhhuang96, read_kamo, read_openstl
from convlstm.torch import ConvLSTM, ConvLSTMCell, Forecaster, compat, load_canonical

GRID = (8, 6)
DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def same(found, expected):
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def advance(z_i, z_f, z_g, z_o, c, p_i=0.0, p_f=0.0, p_o=0.0):
    new = torch.sigmoid(z_f + p_f * c) * c + torch.sigmoid(z_i + p_i * c) * torch.tanh(z_g)
    return torch.sigmoid(z_o + p_o * new) * torch.tanh(new), new


def conv(inputs, outputs, size=3, **options):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def copy_rest(new, old):
    """Load all that is no ConvLSTM from the old model: its names are the same in both."""
    own = new.state_dict()
    shared = {key: value for key, value in old.state_dict().items() if key in own and own[key].shape == value.shape}
    assert shared
    new.load_state_dict(shared, strict=False)


def layer_of(converted, batch_first=True):
    """Build a layer from a converted spec and weights."""
    layer = ConvLSTM.from_spec(converted.spec, dtype=DOUBLE)
    layer.batch_first = batch_first
    load_canonical(layer, converted.weights)
    return layer


class FusedCell(nn.Module):
    """One convolution over [x; h], gates i, f, o, g: ndrplz/ConvLSTM_pytorch."""

    def __init__(self, input_dim, hidden_dim, kernel_size, bias):
        super().__init__()
        self.conv = conv(input_dim + hidden_dim, 4 * hidden_dim, kernel_size[0], bias=bias)
        self.hidden_dim = hidden_dim

    def init_hidden(self, batch_size, image_size):
        return (self.conv.weight.new_zeros(batch_size, self.hidden_dim, *image_size),) * 2

    def forward(self, input_tensor, cur_state):
        z_i, z_f, z_o, z_g = self.conv(torch.cat([input_tensor, cur_state[0]], 1)).chunk(4, 1)
        return advance(z_i, z_f, z_g, z_o, cur_state[1])


class FusedStack(nn.Module):
    """Layers in `cell_list`; returns lists of outputs and of (h, c) of the last layer."""

    def __init__(self, input_dim, hidden_dim, kernel_size, num_layers, batch_first):
        super().__init__()
        inputs = [input_dim, *hidden_dim[:-1]]
        cells = [FusedCell(n, h, kernel_size, True) for n, h in zip(inputs, hidden_dim, strict=True)]
        assert (num_layers, batch_first) == (len(cells), True)
        self.cell_list = nn.ModuleList(cells)

    def forward(self, x):
        for cell in self.cell_list:
            state, outputs = cell.init_hidden(len(x), x.shape[-2:]), []
            for frame in x.unbind(1):
                state = cell(frame, state)
                outputs.append(state[0])
            x = torch.stack(outputs, 1)
        return [x], [state]


class Segmenter(nn.Module):
    """A model that uses the last state of an ndrplz stack."""

    def __init__(self, stack):
        super().__init__()
        self.stem = conv(1, 2)
        self.convlstm = stack(2, [4, 3], (3, 3), 2, batch_first=True)
        self.head = conv(3, 2, 1)

    def forward(self, x):
        outputs, states = self.convlstm(self.stem(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        return self.head(states[0][0]) + outputs[0].mean()


def test_ndrplz_stack_in_a_segmentation_model():
    old, new = Segmenter(FusedStack).double(), Segmenter(compat.ConvLSTM).double()
    new.load_state_dict(old.state_dict())
    x = torch.randn(2, 4, 1, *GRID, dtype=DOUBLE)
    same(new(x), old(x))


class Seq2Seq(nn.Module):
    """Two cells encode, two decode and feed themselves, a 3-D convolution gives the frames: holmdk."""

    def __init__(self, cell, hidden=4):
        super().__init__()
        for side, inputs in (("encoder", 1), ("decoder", hidden)):
            for n in (1, 2):
                options = {"input_dim": inputs if n == 1 else hidden, "hidden_dim": hidden}
                setattr(self, f"{side}_{n}_convlstm", cell(**options, kernel_size=(3, 3), bias=True))
        self.decoder_CNN = nn.Conv3d(hidden, 1, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, x, future):
        cells = [getattr(self, f"{side}_{n}_convlstm") for side in ("encoder", "decoder") for n in (1, 2)]
        states = [cell.init_hidden(batch_size=len(x), image_size=x.shape[-2:]) for cell in cells]
        for frame in x.unbind(1):
            states[0] = cells[0](input_tensor=frame, cur_state=list(states[0]))
            states[1] = cells[1](input_tensor=states[0][0], cur_state=list(states[1]))
        vector, outputs = states[1][0], []
        for _ in range(future):
            states[2] = cells[2](input_tensor=vector, cur_state=list(states[2]))
            states[3] = cells[3](input_tensor=states[2][0], cur_state=list(states[3]))
            vector = states[3][0]
            outputs.append(vector)
        return torch.sigmoid(self.decoder_CNN(torch.stack(outputs, 2)))


def test_holmdk_sequence_to_sequence_model():
    old, new = Seq2Seq(FusedCell).double(), Seq2Seq(compat.ConvLSTMCell).double()
    new.load_state_dict(old.state_dict())
    x = torch.randn(2, 4, 1, *GRID, dtype=DOUBLE)
    same(new(x, 3), old(x, 3))


class SplitCell(nn.Module):
    """Convolutions of x and h without bias, gates i, f, g, o: OpenSTL."""

    def __init__(self, inputs, hidden):
        super().__init__()
        self.conv_x = nn.Sequential(conv(inputs, 4 * hidden, 5, bias=False))
        self.conv_h = nn.Sequential(conv(hidden, 4 * hidden, 5, bias=False))

    def forward(self, x, state):
        return advance(*(self.conv_x(x) + self.conv_h(state[0])).chunk(4, 1), state[1])


class OpenSTL(nn.Module):
    """Cells that receive frames, then their own forecasts, both folded into patches."""

    def __init__(self, cells, hidden, patch_channels):
        super().__init__()
        self.cell_list, self.hidden = nn.ModuleList(cells), hidden
        self.conv_last = conv(hidden[-1], patch_channels, 1, bias=False)

    def forward(self, patches, horizon):
        states = [(patches.new_zeros(len(patches), n, *patches.shape[-2:]),) * 2 for n in self.hidden]
        frame, forecasts = None, []
        for t in range(patches.shape[1] + horizon - 1):
            frame = patches[:, t] if t < patches.shape[1] else forecasts[-1]
            for n, cell in enumerate(self.cell_list):
                states[n] = cell(frame, states[n])
                frame = states[n][0]
            forecasts.append(self.conv_last(frame))
        return torch.stack(forecasts[-horizon:], 1)


def fold(frames, side):
    """(..., channel, height, width) to patches, channel order (dy, dx, channel)."""
    c, height, width = frames.shape[-3:]
    split = frames.reshape(*frames.shape[:-3], c, height // side, side, width // side, side)
    return torch.einsum("...cyaxb->...abcyx", split).flatten(-5, -3)


def test_openstl_model_with_our_cells_and_as_a_forecaster():
    hidden, patch = (4, 3), 2
    old = OpenSTL([SplitCell(4, 4), SplitCell(4, 3)], hidden, 4).double()
    x = torch.randn(2, 4, 1, *GRID, dtype=DOUBLE)
    expected = old(fold(x, patch), 3)
    converted = read_openstl({f"method.model.{k}": v for k, v in old.state_dict().items()}, patch_size=patch)
    forecaster = Forecaster(converted.spec, dtype=DOUBLE)
    load_canonical(forecaster, converted.weights)
    same(fold(forecaster(x, 3), patch), expected)
    cells = [ConvLSTMCell(n, h, 5, bias=False, dtype=DOUBLE) for n, h in ((4, 4), (4, 3))]
    new = OpenSTL(cells, hidden, 4).double()
    renamed = {
        key.replace("conv_x.0.weight", "weight_ih_l0").replace("conv_h.0.weight", "weight_hh_l0"): value
        for key, value in old.state_dict().items()
    }
    new.load_state_dict(renamed)
    same(new(fold(x, patch), 3), expected)


class PeepholeLayer(nn.Module):
    """One convolution over [x; h] and full-grid peepholes, time first; steps on zeros without frames: Hzzone."""

    def __init__(self, inputs, hidden, grid):
        super().__init__()
        self._conv = conv(inputs + hidden, 4 * hidden)
        for gate in "ifo":
            self.register_parameter(f"Wc{gate}", nn.Parameter(torch.randn(1, hidden, *grid)))
        self.inputs, self.hidden, self.grid = inputs, hidden, grid

    def forward(self, frames, state, steps):
        batch = frames.shape[1] if state is None else len(state[0])
        h, c = (self._conv.weight.new_zeros(batch, self.hidden, *self.grid),) * 2 if state is None else state
        outputs = []
        for t in range(steps):
            x = h.new_zeros(batch, self.inputs, *self.grid) if frames is None else frames[t]
            z = self._conv(torch.cat([x, h], 1)).chunk(4, 1)
            h, c = advance(*z, c, self.Wci, self.Wcf, self.Wco)
            outputs.append(h)
        return torch.stack(outputs), (h, c)


class NormalisedLayer(nn.Module):
    """One convolution over [x; h] and a normalisation in groups of 32 channels, time first: jhhuang96."""

    def __init__(self, inputs, hidden, grid):
        super().__init__()
        self.conv = nn.Sequential(conv(inputs + hidden, 4 * hidden), nn.GroupNorm(hidden // 8, 4 * hidden))
        self.inputs, self.hidden, self.grid = inputs, hidden, grid
        nn.init.normal_(self.conv[0].bias)

    def forward(self, frames, state, steps):
        batch = frames.shape[1] if state is None else len(state[0])
        h, c = (self.conv[0].weight.new_zeros(batch, self.hidden, *self.grid),) * 2 if state is None else state
        outputs = []
        for t in range(steps):
            x = h.new_zeros(batch, self.inputs, *self.grid) if frames is None else frames[t]
            h, c = advance(*self.conv(torch.cat([x, h], 1)).chunk(4, 1), c)
            outputs.append(h)
        return torch.stack(outputs), (h, c)


class Ours(nn.Module):
    """A layer of this package with the call form of these projects: frames of zeros where they take none."""

    def __init__(self, layer, inputs, grid, ones=False):
        super().__init__()
        self.layer, self.inputs, self.grid, self.ones = layer, inputs, grid, ones

    def forward(self, frames, state, steps):
        if frames is None:
            frames = state[0].new_zeros(steps, len(state[0]), self.inputs, *self.grid)
        if self.ones:
            frames = torch.cat([frames, torch.ones_like(frames[:, :, :1])], 2)
        output, (h, c) = self.layer(frames, None if state is None else ((state[0],), (state[1],)))
        return output, (h[0], c[0])


class EncoderForecaster(nn.Module):
    """Stages of convolutions between recurrent layers, down and up again: Hzzone and jhhuang96."""

    def __init__(self, rnns, widths):
        super().__init__()
        small, large = widths
        self.encoder = nn.ModuleDict(
            {
                "stage1": nn.Sequential(conv(1, 2), nn.LeakyReLU(0.2)),
                "rnn1": rnns["encoder.rnn1"],
                "stage2": nn.Sequential(conv(small, 3, stride=2), nn.LeakyReLU(0.2)),
                "rnn2": rnns["encoder.rnn2"],
            }
        )
        self.forecaster = nn.ModuleDict(
            {
                "rnn2": rnns["forecaster.rnn2"],
                "stage2": nn.Sequential(nn.ConvTranspose2d(large, 3, 4, 2, 1), nn.LeakyReLU(0.2)),
                "rnn1": rnns["forecaster.rnn1"],
                "stage1": nn.Sequential(conv(small, 1, 1)),
            }
        )

    def forward(self, x, horizon):
        def stage(module, frames):
            return module(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

        states = {}
        for n in (1, 2):
            x, states[n] = self.encoder[f"rnn{n}"](stage(self.encoder[f"stage{n}"], x), None, len(x))
        y = None
        for n in (2, 1):
            y, _ = self.forecaster[f"rnn{n}"](y, states[n], horizon)
            y = stage(self.forecaster[f"stage{n}"], y)
        return y


@pytest.mark.parametrize(
    ("cell", "reader", "options", "widths"),
    [
        (PeepholeLayer, read_hzzone, {}, (3, 4)),
        (NormalisedLayer, read_jhhuang96, {"constant_channel": True}, (32, 64)),
    ],
    ids=["Hzzone", "jhhuang96"],
)
def test_encoder_forecaster(cell, reader, options, widths):
    small, large = widths
    half = (GRID[0] // 2, GRID[1] // 2)
    sizes = {
        **{"encoder.rnn1": (2, small, GRID), "encoder.rnn2": (3, large, half)},
        **{"forecaster.rnn2": (large, large, half), "forecaster.rnn1": (3, small, GRID)},
    }
    old = EncoderForecaster({name: cell(*size) for name, size in sizes.items()}, widths).double()
    state = {f"module.{key}": value for key, value in old.state_dict().items()}
    ours = {
        name: Ours(layer_of(reader(state, layers=[name], **options), False), inputs, grid, ones=bool(options))
        for name, (inputs, _, grid) in sizes.items()
    }
    new = EncoderForecaster(ours, widths).double()
    copy_rest(new, old)
    x = torch.randn(4, 2, 1, *GRID, dtype=DOUBLE)
    same(new(x, 3), old(x, 3))


class GateCell(nn.Module):
    """One convolution per gate and input: automan000."""

    def __init__(self, inputs, hidden):
        super().__init__()
        for gate in "ifco":
            self.add_module(f"Wx{gate}", conv(inputs, hidden))
            self.add_module(f"Wh{gate}", conv(hidden, hidden, bias=False))
        for gate in "ifo":
            self.register_parameter(f"Wc{gate}", nn.Parameter(torch.randn(1, hidden, *GRID)))

    def forward(self, x, h, c):
        gates = [getattr(self, f"Wx{gate}")(x) + getattr(self, f"Wh{gate}")(h) for gate in "ifco"]
        return advance(*gates, c, self.Wci, self.Wcf, self.Wco)


class SameFrame(nn.Module):
    """Layers `cell0`, `cell1` on one frame at every step; some steps are returned."""

    def __init__(self, inputs, hidden, step, effective_step):
        super().__init__()
        for n, (i, h) in enumerate(zip([inputs, *hidden[:-1]], hidden, strict=True)):
            self.add_module(f"cell{n}", GateCell(i, h))
        self.hidden, self.step, self.effective_step = hidden, step, effective_step

    def forward(self, frame):
        states = [(frame.new_zeros(len(frame), n, *GRID),) * 2 for n in self.hidden]
        outputs = []
        for step in range(self.step):
            x = frame
            for n in range(len(states)):
                states[n] = getattr(self, f"cell{n}")(x, *states[n])
                x = states[n][0]
            if step in self.effective_step:
                outputs.append(x)
        return outputs, states[-1]


def test_automan000_layer_on_one_frame():
    old, steps = SameFrame(2, [4, 6], step=5, effective_step=[1, 4]).double(), [1, 4]
    layer = layer_of(read_automan000(old.state_dict()))
    frame = torch.randn(2, 2, *GRID, dtype=DOUBLE)
    outputs, state = old(frame)
    output, (h, c) = layer(frame.unsqueeze(1).expand(-1, 5, -1, -1, -1))
    same(output[:, steps], torch.stack(outputs, 1))
    same(torch.stack([h[-1], c[-1]]), torch.stack(state))


class StackedStates(nn.Module):
    """Layers and directions with the names and the states of `torch.nn.LSTM`, time first: kamo-naoyuki."""

    def __init__(self, inputs, hidden, layers):
        super().__init__()
        self.hidden, self.layers = hidden, layers
        for layer in range(layers):
            for side in ("", "_reverse"):
                width = 2 * hidden if layer else inputs
                shapes = {"weight_ih": (width, 3, 3), "weight_hh": (hidden, 3, 3), "bias_ih": (), "bias_hh": ()}
                for name, shape in shapes.items():
                    value = 0.3 * torch.randn(4 * hidden, *shape)
                    self.register_parameter(f"{name}_l{layer}{side}", nn.Parameter(value))

    def forward(self, x, states):
        final = []
        for layer in range(self.layers):
            sides = []
            for n, side in enumerate(("", "_reverse")):
                h, c = (state[2 * layer + n] for state in states)
                weights = [
                    getattr(self, f"{name}_l{layer}{side}") for name in ("weight_ih", "bias_ih", "weight_hh", "bias_hh")
                ]
                outputs = []
                for frame in reversed(x.unbind(0)) if side else x.unbind(0):
                    z = F.conv2d(frame, *weights[:2], padding=1) + F.conv2d(h, *weights[2:], padding=1)
                    h, c = advance(*z.chunk(4, 1), c)
                    outputs.append(h)
                sides.append(torch.stack(outputs[::-1] if side else outputs))
                final.append((h, c))
            x = torch.cat(sides, 2)
        return x, tuple(torch.stack(part) for part in zip(*final, strict=True))


class Tagger(nn.Module):
    """A model around a bidirectional layer of kamo's, with states of its own."""

    def __init__(self, rnn, hidden):
        super().__init__()
        self.rnn, self.head = rnn, conv(2 * hidden, 2, 1)
        self.h_0, self.c_0 = (nn.Parameter(0.5 * torch.randn(4, 1, hidden, *GRID)) for _ in range(2))

    def forward(self, x):
        states = [part.expand(-1, x.shape[1], -1, -1, -1) for part in (self.h_0, self.c_0)]
        output, (h_n, c_n) = self.rnn(x, states)
        return self.head(output.flatten(0, 1)), torch.cat([h_n, c_n])


class Unstacked(nn.Module):
    """A layer of this package that takes and returns stacked states."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, states):
        output, (h_n, c_n) = self.layer(x, tuple(part.unbind(0) for part in states))
        return output, (torch.stack(h_n), torch.stack(c_n))


def test_kamo_bidirectional_layers_with_stacked_states():
    old = Tagger(StackedStates(2, 3, 2), 3).double()
    converted = read_kamo({f"net.{key}": value for key, value in old.state_dict().items()})
    new = Tagger(Unstacked(layer_of(converted, False)), 3).double()
    copy_rest(new, old)
    x = torch.randn(4, 2, 2, *GRID, dtype=DOUBLE)
    for found, expected in zip(new(x), old(x), strict=True):
        same(found, expected)
