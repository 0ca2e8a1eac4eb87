"""ConvLSTMs of PyTorch and MLX that are on no package index or cannot run right.

Their cells are written here anew, from what is known of them: gate order, one convolution over [x; h] or two, biases,
names of the arrays. So these tests hold the readers to that knowledge, not to the projects' files.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
import torch
from torch import nn
from torch.nn import functional as F

from convlstm import ConvLSTMSpec
from convlstm.conformance.compare import error
from convlstm.errors import SpecError, WeightsError
from convlstm.interop import read_ndrplz, read_openstl, read_tomo_oga, write_ndrplz
from convlstm.reference import forecaster as reference_forecaster
from convlstm.spec.presets import PRESETS
from convlstm.torch import load
from convlstm.weights.canonical import initialise, parameter_count
from convlstm.weights.checkpoint import save_model


@pytest.fixture(autouse=True)
def _one_seed():
    torch.manual_seed(0)


def advance(z_i, z_f, z_g, z_o, c):
    c = torch.sigmoid(z_f) * c + torch.sigmoid(z_i) * torch.tanh(z_g)
    return torch.sigmoid(z_o) * torch.tanh(c), c


class FusedCell(nn.Module):
    """One convolution over [x; h], gates i, f, o, g."""

    def __init__(self, inputs, hidden, kernel, bias):
        super().__init__()
        self.conv = nn.Conv2d(inputs + hidden, 4 * hidden, kernel, padding=tuple(k // 2 for k in kernel), bias=bias)

    def forward(self, x, h, c):
        z_i, z_f, z_o, z_g = self.conv(torch.cat([x, h], 1)).chunk(4, 1)
        return advance(z_i, z_f, z_g, z_o, c)


class SplitCell(nn.Module):
    """Two convolutions without bias, gates i, f, g, o, and two layers that are never called."""

    def __init__(self, inputs, hidden, size, norm):
        super().__init__()

        def conv(channels, out):
            layers = [nn.Conv2d(channels, out, size, padding=size // 2, bias=False)]
            return nn.Sequential(*layers, *([nn.LayerNorm([out, 6, 6])] if norm else []))

        self.conv_x, self.conv_h = conv(inputs, 4 * hidden), conv(hidden, 4 * hidden)
        self.conv_o, self.conv_last = conv(2 * hidden, hidden), nn.Conv2d(2 * hidden, hidden, 1, bias=False)

    def forward(self, x, h, c):
        return advance(*(self.conv_x(x) + self.conv_h(h)).chunk(4, 1), c)


class Stack(nn.Module):
    def __init__(self, cells, hidden, head=None):
        super().__init__()
        self.cell_list, self.hidden = nn.ModuleList(cells), hidden
        if head is not None:
            self.conv_last = head

    def step(self, x, states):
        for n, cell in enumerate(self.cell_list):
            states[n] = cell(x, *states[n])
            x = states[n][0]
        return x

    def start(self, x):
        return [(x.new_zeros(len(x), n, *x.shape[-2:]),) * 2 for n in self.hidden]

    def forward(self, x):
        states = self.start(x)
        return torch.stack([self.step(frame, states) for frame in x.unbind(1)], 1), states


def arrays(module):
    return {key: value.numpy() for key, value in module.state_dict().items()}


def ndrplz(hidden=(3, 4), bias=True):
    inputs = (2, *hidden[:-1])
    sizes = [(3, 5), (1, 3)]
    return Stack([FusedCell(i, h, k, bias) for i, h, k in zip(inputs, hidden, sizes, strict=False)], hidden).double()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "module.net.convlstm."])
def test_ndrplz(same_numbers, bias, prefix):
    model, x = ndrplz(bias=bias), torch.randn(2, 3, 2, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        output, states = model(x)
    extra = {"head.weight": np.zeros((1, 4, 1, 1))} if prefix else {}
    converted = read_ndrplz({prefix + key: value for key, value in arrays(model).items()} | extra)
    same_numbers(converted, x.numpy(), output.numpy(), [(h.numpy(), c.numpy()) for h, c in states])
    assert converted.notes.left_out == tuple(key.replace("/", ".") for key in extra)
    assert converted.spec.bias is bias
    written = write_ndrplz(converted.spec, converted.weights)
    assert {k: v.tobytes() for k, v in written.items()} == {k: v.tobytes() for k, v in arrays(model).items()}
    model.load_state_dict({k: torch.from_numpy(v) for k, v in written.items()})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_converted_file_gives_the_same_output_in_our_layer(tmp_path, dtype, tolerance):
    model, x = ndrplz().to(dtype), torch.randn(2, 3, 2, 6, 5, dtype=dtype)
    converted = read_ndrplz(model.state_dict())
    save_model(tmp_path / "layer.safetensors", converted.spec, converted.weights)
    with torch.no_grad():
        (theirs, states), (ours, (h, c)) = model(x), load(tmp_path / "layer.safetensors")(x)
    for a, b in [
        (ours, theirs),
        *zip(h, (s[0] for s in states), strict=True),
        *zip(c, (s[1] for s in states), strict=True),
    ]:
        assert a.dtype == dtype
        assert error(a.numpy(), b.numpy()) < tolerance


def test_one_ndrplz_cell_and_tensors_as_they_are(same_numbers):
    model, x = ndrplz(hidden=(3,)), torch.randn(2, 3, 2, 6, 5, dtype=torch.float64)
    with torch.no_grad():
        output, _ = model(x)
    same_numbers(read_ndrplz(model.cell_list[0].state_dict()), x.numpy(), output.numpy())


def test_two_ndrplz_layers_in_one_model(refused):
    both = {f"{side}.{key}": value for side in ("encoder", "decoder") for key, value in arrays(ndrplz()).items()}
    with refused(WeightsError, "layer"):
        read_ndrplz(both)
    assert read_ndrplz(both, layers=["decoder"]).notes.layers == ("decoder.cell_list.0", "decoder.cell_list.1")


def test_eleven_layers_stay_in_order():
    model = Stack([FusedCell(2, 2, (1, 1), True) for _ in range(11)], (2,) * 11)
    converted = read_ndrplz(dict(sorted(arrays(model).items())))
    assert converted.notes.layers == tuple(f"cell_list.{n}" for n in range(11))


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        (lambda a: a | {"cell_list.0.W_ci": np.zeros((3, 6, 5), "f")}, "cell_list.0.W_ci"),
        (lambda a: a | {"cell_list.0.conv.weight": np.zeros((12, 5, 2, 2))}, "cell_list.0.conv.weight"),
        (lambda a: a | {"cell_list.0.conv.weight": np.zeros((13, 5, 3, 3))}, "cell_list.0.conv.weight"),
        (lambda a: a | {"cell_list.0.conv.weight": np.zeros((12, 3, 3, 3))}, "cell_list.0.conv.weight"),
        (lambda a: a | {"cell_list.0.conv.weight": np.zeros((12, 5, 3, 3), int)}, "cell_list.0.conv.weight"),
        (lambda a: a | {"cell_list.0.conv.bias": np.zeros(11)}, "cell_list.0.conv.bias"),
        (lambda a: a | {"cell_list.1.conv.weight": np.zeros((16, 9, 3, 3))}, "cell_list.1"),
        (lambda a: {k: v for k, v in a.items() if k != "cell_list.1.conv.bias"}, "layer"),
        (lambda a: {"backbone.conv.weight": np.zeros((64, 32, 3, 3))}, "ndrplz"),
        (lambda a: {}, "ndrplz"),
    ],
    ids=["peephole", "even", "rows", "no x", "integers", "bias", "chain", "mixed bias", "a plain CNN", "nothing"],
)
def test_ndrplz_arrays_that_do_not_fit(refused, change, argument):
    with refused(WeightsError, argument):
        read_ndrplz(change(arrays(ndrplz())))


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"peephole": "channel"}, "peephole"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"recurrent_kernel_size": 1}, "recurrent_kernel_size"),
        ({"recurrent_dilation": 2}, "recurrent_dilation"),
        ({"in_channels": 0}, "in_channels"),
        ({"stride": 2}, "stride"),
        ({"padding": "valid"}, "padding"),
        ({"padding": (2, 1)}, "padding"),
        ({"groups": 2}, "groups"),
        ({"boundary": "circular"}, "boundary"),
        ({"norm": "layer"}, "norm"),
        ({"direction": "bidirectional"}, "direction"),
        ({"activation": "relu"}, "activation"),
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation"),
        ({"duration_strategy": "log1p"}, "duration_strategy"),
        ({"memory_decay": True}, "memory_decay"),
        ({"zoneout_h": 0.1}, "zoneout_h"),
        ({"spatial_dims": 3}, "spatial_dims"),
    ],
)
def test_what_ndrplz_cannot_hold_is_named(refused, options, argument):
    spec = ConvLSTMSpec(**{"in_channels": 2, "hidden_channels": 4, "kernel_size": 3, **options})
    with refused(SpecError, argument):
        write_ndrplz(spec, initialise(spec, 0))


def test_numbers_that_mean_same_padding_are_held():
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=4, kernel_size=(3, 5), padding=(1, 2))
    back = read_ndrplz(write_ndrplz(spec, initialise(spec, 0)))
    assert back.spec.padding == ("same",)


def test_tomo_oga(same_numbers):
    weight, bias = torch.randn(12, 5, 5, 2 + 3, dtype=torch.float64) / 5, torch.randn(12, dtype=torch.float64)
    x = torch.randn(1, 3, 2, 6, 5, dtype=torch.float64)
    h = c = torch.zeros(1, 3, 6, 5, dtype=torch.float64)
    outputs = []
    for frame in x.unbind(1):
        z = F.conv2d(torch.cat([frame, h], 1), weight.permute(0, 3, 1, 2), bias, padding=2)
        h, c = advance(*z.chunk(4, 1), c)
        outputs.append(h)
    converted = read_tomo_oga({"cell.conv.weight": weight.numpy(), "cell.conv.bias": bias.numpy()})
    same_numbers(converted, x.numpy(), torch.stack(outputs, 1).numpy(), [(h.numpy(), c.numpy())])


def fold(frames, p):
    """(batch, channel, height, width) to patches, channel order (dy, dx, channel)."""
    b, c, height, width = frames.shape
    split = frames.reshape(b, c, height // p, p, width // p, p).permute(0, 3, 5, 1, 2, 4)
    return split.reshape(b, p * p * c, height // p, width // p)


def unfold(patches, p):
    b, channels, height, width = patches.shape
    split = patches.reshape(b, p, p, channels // p**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return split.reshape(b, channels // p**2, height * p, width * p)


def openstl(inputs=12, hidden=(3, 4), norm=False):
    channels = (inputs, *hidden[:-1])
    cells = [SplitCell(i, h, 3, norm) for i, h in zip(channels, hidden, strict=True)]
    return Stack(cells, hidden, nn.Conv2d(hidden[-1], inputs, 1, bias=False)).double()


def test_openstl_forecasts_the_same_frames():
    model, patch = openstl(), 2
    x = torch.randn(2, 4, 3, 12, 10, dtype=torch.float64)
    states, forecast = model.start(fold(x[:, 0], patch)), []
    with torch.no_grad():
        for t in range(4 + 5 - 1):
            frame = fold(x[:, t], patch) if t < 4 else forecast[-1]
            forecast.append(model.conv_last(model.step(frame, states)))
    expected = torch.stack([unfold(f, patch) for f in forecast[3:]], 1).numpy()
    converted = read_openstl({f"method.model.{key}": value for key, value in arrays(model).items()}, patch_size=patch)
    assert (converted.spec.frame_channels, converted.spec.rollout) == (3, "feedback")
    found = reference_forecaster.forecast(converted.spec, converted.weights, x.numpy(), 5)
    assert np.abs(expected).max() > 0.01
    assert error(found, expected) < 1e-12
    dead = next(line for line in converted.notes.differences if "Never used" in line)
    assert f"{sum(p.numel() for k, p in model.named_parameters() if '_o.' in k or '.conv_last' in k):,} values" in dead
    assert converted.notes.left_out == ()


def test_openstl_of_the_published_size_is_its_preset():
    shapes = {"conv_x.0.weight": (512, 128, 5, 5), "conv_h.0.weight": (512, 128, 5, 5)}
    full = {f"cell_list.{n}.{key}": np.zeros(shape, "f") for n in range(4) for key, shape in shapes.items()}
    full |= {
        "cell_list.0.conv_x.0.weight": np.zeros((512, 16, 5, 5), "f"),
        "conv_last.weight": np.zeros((16, 128, 1, 1)),
    }
    spec = read_openstl(full, patch_size=4).spec
    assert spec == PRESETS["openstl-mmnist-s"]
    assert parameter_count(spec) == 11_675_648


def test_openstl_that_cannot_be_read(refused):
    model = arrays(openstl())
    with refused(SpecError, "patch_size"):
        read_openstl(model)
    with refused(SpecError, "patch_size"):
        read_openstl(model, patch_size=5)
    with refused(WeightsError, "cell_list.0.conv_x.1.weight"):
        read_openstl(arrays(openstl(norm=True)), patch_size=2)
    with refused(WeightsError, "conv_last.weight"):
        read_openstl({key: value for key, value in model.items() if key != "conv_last.weight"}, patch_size=2)
    with refused(WeightsError, "head.weight"):
        read_openstl(model | {"conv_last.weight": np.zeros((7, 4, 1, 1))}, patch_size=2)
