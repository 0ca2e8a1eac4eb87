"""`convlstm convert`: what it prints and writes, and how it refuses."""

import os

import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.interop import FORMATS, write_file, write_keras, write_ndrplz
from convlstm.interop.formats import WRITTEN
from convlstm.spec.presets import PRESETS
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model, save_model


@pytest.fixture
def stack(tmp_path):
    """A layer stack as a file of this package."""
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=[4, 3], kernel_size=3)
    weights = {key: array.astype("f") for key, array in initialise(spec, 0).items()}
    save_model(tmp_path / "layer.safetensors", spec, weights, {"units": "mm/h"})
    return spec, weights


@pytest.mark.parametrize(
    "name", ["keras.weights.h5", "keras.npz", "linen.npz", "linen.safetensors", "ndrplz.safetensors"]
)
def test_there_and_back(cli, tmp_path, stack, name):
    layout = name.split(".")[0]
    code, out, err = cli("convert", "layer.safetensors", "-o", name, "--to", layout)
    assert (code, err) == (0, "")
    assert out.startswith(f"{name}: for ")
    code, out, err = cli(
        *("convert", name, "-o", "back.safetensors", "--from", layout),
        *(("--set", "padding=same") if layout == "keras" else ()),
    )
    assert (code, err) == (0, "")
    native = load_model(tmp_path / "layer.safetensors")
    back = load_model(tmp_path / "back.safetensors")
    assert back.digest == native.digest
    assert out.splitlines()[-1] == f"back.safetensors: digest {native.digest}"
    assert back.extra == {"converted_from": layout}
    assert back.spec.padding == native.spec.padding


def test_from_one_foreign_layout_to_another(cli, tmp_path, stack):
    spec, weights = stack
    write_file(tmp_path / "model.weights.h5", "keras", spec, weights)
    code, _, err = cli(
        *("convert", "model.weights.h5", "-o", "state.npz", "--from", "keras", "--to", "ndrplz"),
        *("--set", "padding=same"),
    )
    assert (code, err) == (0, "")
    with np.load(tmp_path / "state.npz") as written:
        for key, array in write_ndrplz(spec, weights).items():
            np.testing.assert_array_equal(written[key], array)


def test_what_is_said(cli, tmp_path, stack):
    arrays = {f"net.{key}": array for key, array in write_ndrplz(*stack).items()}
    np.savez(tmp_path / "model.npz", **arrays, **{"head.weight": np.zeros((1, 3, 1, 1))})
    code, out, err = cli("convert", "model.npz", "-o", "a.safetensors", "--from", "ndrplz")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["read net.cell_list.0, net.cell_list.1", "not read: head.weight"]
    assert "order" not in out
    code, out, _ = cli("convert", "model.npz", "-o", "a.safetensors", "--from", "ndrplz", "--explain")
    assert "- The order of the gates is i, f, o, g there and i, f, g, o here." in out.splitlines()
    np.savez(tmp_path / "keras.npz", **write_keras(*stack))
    words = ("convert", "keras.npz", "-o", "a.safetensors", "--from", "keras", "--set", "padding=same")
    out = cli(*words, "--set", "stride=[[2, 2], [1, 1]]", "--layer", "conv_lstm2d", "--layer", "conv_lstm2d_1")[1]
    assert "assumed dilation=1, activation=tanh, recurrent_activation=sigmoid, masked_output=hold" in out
    assert load_model(tmp_path / "a.safetensors").spec.stride == ((2, 2), (1, 1))
    out = cli("convert", "layer.safetensors", "-o", "b.npz", "--to", "linen", "--explain")[1]
    assert "- The carry is (c, h) there, (h, c) here." in out.splitlines()


def test_what_is_said_of_a_layout_that_is_written(cli, tmp_path, stack):
    lines = cli("convert", "layer.safetensors", "-o", "a.npz", "--to", "ndrplz", "--explain")[1].splitlines()
    assert lines[0] == "a.npz: for the ConvLSTM of ndrplz/ConvLSTM_pytorch"
    assert "- The order of the gates is i, f, o, g there and i, f, g, o here." in lines
    assert any(line.startswith("- One kernel over [x; h] there") for line in lines)
    lines = cli("convert", "layer.safetensors", "-o", "a.npz", "--to", "linen", "--explain")[1].splitlines()
    assert lines[0] == "a.npz: for flax.linen.ConvLSTMCell"
    assert "- The order of the gates is i, g, f, o there and i, f, g, o here." in lines
    for words in ("Two biases per layer there", "1 is added to the forget gate at every call there"):
        assert any(line.startswith(f"- {words}") for line in lines)
    assert len(cli("convert", "layer.safetensors", "-o", "a.npz", "--to", "linen")[1].splitlines()) == 1


@pytest.mark.parametrize(
    ("layout", "options", "built"),
    [
        (
            "keras",
            {"hidden_channels": [4, 3], "stride": [(2, 2), (1, 1)], "padding": ["valid", 1], "masked_output": "hold"},
            "padding=['valid', 'same'], strides=[2, 1], dilation_rate=1, activation=tanh, "
            "recurrent_activation=sigmoid, dropout=0.0, recurrent_dropout=0.0, zero_output_for_mask=False, "
            "go_backwards=False",
        ),
        (
            "keras",
            {"stride": (2, 1), "activation": "identity", "direction": "bidirectional", "merge": "separate"},
            "padding=same, strides=(2, 1), dilation_rate=1, activation=linear, recurrent_activation=sigmoid, "
            "dropout=0.0, recurrent_dropout=0.0, zero_output_for_mask=True, go_backwards=False, "
            "merge_mode of Bidirectional=None",
        ),
        ("linen", {"direction": "reverse"}, "reverse=True, keep_order=True"),
        ("linen", {"direction": "bidirectional"}, "merge_fn of nn.Bidirectional=concat"),
    ],
)
def test_constructor_options_are_in_the_words_of_the_project(cli, tmp_path, layout, options, built):
    spec = ConvLSTMSpec(**{"in_channels": 2, "hidden_channels": 4, "kernel_size": 3, **options})
    save_model(tmp_path / "own.safetensors", spec, initialise(spec, 0))
    out = cli("convert", "own.safetensors", "-o", "a.npz", "--to", layout)[1]
    assert out.strip().endswith(f" built with {built}")


def test_the_help_names_every_layout(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    out = cli("convert", "--help")[1]
    for names in (tuple(FORMATS), WRITTEN):
        assert f"{', '.join(names[:-1])} or {names[-1]}" in out


@pytest.mark.parametrize(
    ("code", "words", "command"),
    [
        (2, "pass --from, --to or both", ["layer.safetensors"]),
        (2, "needs --from", ["layer.safetensors", "--to", "keras", "--set", "padding=same"]),
        (2, "needs --from", ["layer.safetensors", "--to", "keras", "--layer", "a"]),
        (2, "Missing argument", []),
        (3, "layout: expected one of keras, linen, haiku, ndrplz", ["model.npz", "--from", "theano"]),
        (3, "layout: expected one of keras, linen, ndrplz, got 'haiku'", ["layer.safetensors", "--to", "haiku"]),
        (3, "stride: expected an option of the layer", ["model.npz", "--from", "ndrplz", "--set", "stride=2"]),
        (3, "Remove it: this layout has none.", ["model.npz", "--from", "ndrplz", "--set", "padding=same"]),
        (3, "--set: expected NAME=VALUE", ["model.npz", "--from", "ndrplz", "--set", "stride"]),
        (3, "--set a: expected a YAML value", ["model.npz", "--from", "ndrplz", "--set", "a=["]),
        (3, "patch_size: expected the side", ["openstl.npz", "--from", "openstl"]),
        (3, "padding: expected one of same, valid", ["keras.npz", "--from", "keras", "--set", "padding=full"]),
        (3, "model: expected a layer stack", ["forecaster.safetensors", "--to", "keras"]),
        (5, "model.pt: expected a file of weights, got a folder or device", ["model.pt", "--from", "ndrplz"]),
        (5, "model.pkl: expected .safetensors, .npz, .h5", ["model.pkl", "--from", "ndrplz"]),
        (5, "model.save_weights", ["model.keras", "--from", "keras"]),
        (5, "none.npz: expected a file of weights, got nothing there", ["none.npz", "--from", "keras"]),
        (5, "Read it as ndrplz", ["model.npz", "--from", "linen"]),
        (5, "model.npz: expected", ["model.npz", "--to", "keras"]),
        (5, "layer: expected one of cell_list.0", ["model.npz", "--from", "ndrplz", "--layer", "encoder"]),
        (5, "the link layers", ["linked.h5", "--from", "keras"]),
        (6, "a folder that can be written", ["model.npz", "--from", "ndrplz", "-o", "model.npz/a"]),
        (6, "a path other than the inputs", ["model.npz", "--from", "ndrplz", "-o", "model.npz"]),
        (6, "a path for a file, got a folder", ["model.npz", "--from", "ndrplz", "-o", "folder"]),
        (6, "a name ending in .safetensors, .npz, .h5", ["layer.safetensors", "--to", "keras", "-o", "a.keras"]),
        (6, "a device or pipe", ["model.npz", "--from", "ndrplz", "-o", "/dev/full"]),
    ],
)
def test_how_it_refuses(fails, tmp_path, stack, code, words, command):
    h5py = pytest.importorskip("h5py")
    np.savez(tmp_path / "model.npz", **write_ndrplz(*stack))
    np.savez(tmp_path / "keras.npz", **write_keras(*stack))
    np.savez(
        tmp_path / "openstl.npz",
        **{f"cell_list.0.conv_{part}.0.weight": np.zeros((8, 2, 3, 3), "f") for part in "xh"},
    )
    for suffix in ("pt", "pkl", "keras"):
        os.mkfifo(tmp_path / f"model.{suffix}")
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["layers"] = h5py.ExternalLink("other.h5", "/")
    spec = PRESETS["openstl-kth"]
    small = type(spec).from_dict(spec.to_dict() | {"encoder": spec.encoder.to_dict() | {"hidden_channels": [1] * 4}})
    save_model(tmp_path / "forecaster.safetensors", small, initialise(small, 0))
    (tmp_path / "folder").mkdir()
    (tmp_path / "out.safetensors").write_bytes(b"the model of yesterday")
    where = [] if "-o" in command else ["-o", "out.safetensors"]
    fails(code, words, "convert", *command, *where)


@pytest.fixture
def checkpoint(tmp_path):
    """A training checkpoint of a larger model with two cells, and one with an object in it."""
    torch = pytest.importorskip("torch")
    state = {f"model.{side}_convlstm.conv.weight": torch.randn(12, 5, 3, 3) for side in ("encoder", "decoder")}
    state["model.head.weight"] = torch.zeros(1, 3, 1, 1)
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "model.pth")
    torch.save({"state_dict": state, "path": tmp_path}, tmp_path / "objects.pth")
    return state


def test_one_layer_of_a_larger_checkpoint(cli, tmp_path, checkpoint):
    words = ("convert", "model.pth", "-o", "a.safetensors", "--from", "ndrplz", "--layer", "decoder_convlstm")
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [
        "read model.decoder_convlstm",
        "not read: model.encoder_convlstm.conv.weight, model.head.weight",
    ]
    kernel = checkpoint["model.decoder_convlstm.conv.weight"].numpy()
    weight = load_model(tmp_path / "a.safetensors").weights["layers.0.forward.weight_ih"]
    np.testing.assert_array_equal(weight[2], kernel[9:, :2])  # g is the last gate there


def test_layers_are_listed(cli, checkpoint):
    lines = [f"ndrplz: model.{side}_convlstm: conv.weight (12, 5, 3, 3)" for side in ("decoder", "encoder")]
    for words in ((), ("--from", "ndrplz")):
        code, out, err = cli("convert", "model.pth", "--list", *words)
        assert (code, err, sorted(out.splitlines())) == (0, "", lines)
    code, out, err = cli("convert", "model.pth", "-o", "a.safetensors", "--from", "ndrplz")
    assert (code, sorted(out.splitlines())) == (5, lines)
    assert err.startswith("error: layer: expected the names of the layers in order")


def test_both_directions_are_one_line_of_the_list(cli, tmp_path):
    shapes = {"weight_ih": (12, 2, 3, 3), "weight_hh": (12, 3, 3, 3)}
    sides = ("l0", "l0_reverse")
    arrays = {f"rnn.{name}_{side}": np.ones(shape, "f") for side in sides for name, shape in shapes.items()}
    np.savez(tmp_path / "model.npz", **arrays)
    code, out, err = cli("convert", "model.npz", "--list")
    path = "rnn.l0.forward"
    assert (code, err) == (0, "")
    assert out.startswith(f"kamo: {path} (both directions): weight_ih (12, 2, 3, 3)")
    assert out.count("\n") == 1
    words = ("--from", "kamo", "--layer", path, "--set", "dilation=[2,1]")
    code, out, err = cli("convert", "model.npz", "-o", "layer.safetensors", *words)
    assert (code, err) == (0, "")
    spec = load_model(tmp_path / "layer.safetensors").spec
    assert (spec.direction, spec.dilation, spec.recurrent_dilation) == ("bidirectional", ((2, 1),), ((2, 1),))


def test_layers_that_cannot_be_listed_or_read(cli, fails, tmp_path, checkpoint):
    np.savez(tmp_path / "none.npz", head=np.zeros((3, 3)))
    fails(5, "a ConvLSTM in a known layout", "convert", "none.npz", "--list")
    fails(5, "torch.save(model.state_dict(), 'state.pth')", "convert", "objects.pth", "--list")
    code, _, err = cli("convert", "model.pth", "--from", "ndrplz")
    assert code == 2
    assert "pass the file to write, or --list" in err
