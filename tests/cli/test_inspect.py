"""`convlstm inspect`: what it shows of presets, specs, files and runs, and what it refuses."""

import json

import pytest

from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import initialise, parameter_count
from convlstm.weights.checkpoint import save_model

LINE = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3, spatial_dims=1)
FILES = {
    "no.json": "{",
    "bytes.json": "\udcff",
    "list.json": "[]",
    "deep.json": "[" * 100_000,
    "kindless.json": '{"spec": {}}',
    "kind.json": '{"kind": "cell", "spec": {}}',
    "more.json": json.dumps({"kind": "layer", "spec": LINE.to_dict(), "weights": 1}),
    "short.json": '{"kind": "layer", "spec": {"in_channels": 1}}',
    "unknown.json": json.dumps({"kind": "forecaster", "spec": {"encoder": LINE.to_dict(), "depth": 2}}),
    "line.json": json.dumps({"kind": "forecaster", "spec": {"encoder": LINE.to_dict()}}),
    "layer.json": json.dumps({"kind": "layer", "spec": LINE.to_dict()}),
    "foreign.safetensors": "nothing of the kind",
}
WRONG = {
    "no such name": (3, "shi2015-5x5-256", ["shi2016"]),
    "no such file": (3, "Correct the path", ["missing.safetensors"]),
    "a folder without a model": (5, "model.safetensors", ["."]),
    "no model file": (5, "foreign.safetensors", ["foreign.safetensors"]),
    "broken JSON": (3, '"kind"', ["no.json"]),
    "no text": (3, '"kind"', ["bytes.json"]),
    "a list": (3, '"kind"', ["list.json"]),
    "nested without end": (3, '"kind"', ["deep.json"]),
    "no kind": (3, '"kind"', ["kindless.json"]),
    "another kind": (3, "'cell'", ["kind.json"]),
    "another key": (3, "'weights'", ["more.json"]),
    "a missing option": (3, "", ["short.json"]),
    "an unknown option": (3, "'depth'", ["unknown.json"]),
    "options at odds": (3, "encoder.in_channels", ["line.json"]),
    "two numbers": (3, "10x1x128x128", ["openstl-kth", "--input", "10x1"]),
    "five numbers": (3, "time x channel x height x width", ["openstl-kth", "--input", "10x1x64x64x64"]),
    "four numbers for a line": (3, "time x channel x width", ["layer.json", "--input", "10x2x8x8"]),
    "nothing": (3, "''", ["openstl-kth", "--input", ""]),
    "zero frames": (3, "each at least 1", ["openstl-kth", "--input", "0x1x64x64"]),
    "a sign": (3, "each at least 1", ["openstl-kth", "--input", "10x1x-64x64"]),
    "a fraction": (3, "each at least 1", ["openstl-kth", "--input", "10x1x6.4x64"]),
    "other digits": (3, "each at least 1", ["openstl-kth", "--input", "10x1x٦٤x64"]),
    "commas": (3, "--input", ["openstl-kth", "--input", "10,1,64,64"]),
    "too many digits": (3, "--input", ["openstl-kth", "--input", "1x1x64x" + "9" * 11]),
    "channels": (4, "channel=1", ["openstl-kth", "--input", "10x2x64x64"]),
    "no whole patches": (4, "multiples of 2", ["openstl-kth", "--input", "10x1x63x64"]),
    "channels of a layer": (4, "channel=2", ["layer.json", "--input", "10x3x64"]),
    "no samples": (2, "--batch", ["openstl-kth", "--batch", "0"]),
    "no horizon": (2, "--horizon", ["openstl-kth", "--horizon", "0"]),
    "a horizon for a layer": (3, "--horizon", ["layer.json", "--horizon", "3"]),
    "another precision": (3, "precision", ["openstl-kth", "--precision", "float16"]),
}


@pytest.fixture
def files(tmp_path):
    """Specs, right and wrong, in the folder that commands run in."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(fails, name):
    code, words, command = WRONG[name]
    fails(code, words, "inspect", *command)


def test_a_preset(cli):
    code, out, _ = cli("inspect", "openstl-kth", "--input", "10x1x128x128", "--horizon", "20")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["kind", "forecaster"] in rows
    assert ["parameters", "11,520,512"] in rows
    assert ["GFLOP", "2,737", "forward,", "8,153", "forward", "and", "backward"] in rows
    assert rows[-3][:8] == ["encoder", "3", "64x64", "128", "3,276,800", "34x34", "+", "8x8/step"]
    assert rows[-2][:2] == ["head", "512"]
    assert "digest" not in out


@pytest.mark.usefixtures("files")
def test_a_spec_as_json(cli):
    code, out, _ = cli("inspect", "layer.json", "--input", "2x2x5", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["kind"], found["digest"], found["pipeline"], found["horizon"]) == ("layer", None, None, None)
    assert (found["forward_flop"], found["training_flop"], found["parameters"]) == (3600, 9360, 192)
    assert found["layers"][0]["grid"] == [5]


def test_a_model_file(cli, tmp_path):
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=[4, 2], kernel_size=3, direction="bidirectional")
    digest = save_model(tmp_path / "model.safetensors", spec, initialise(spec, 0))
    for target in ("model.safetensors", "."):
        code, out, _ = cli("inspect", target)
        assert code == 0
        assert digest in out
        assert out.count("reverse") == 2
        assert "1 x 10x1x128x128, float32" in out


def test_a_stack_without_input(cli, tmp_path):
    spec = ConvLSTMSpec(in_channels=0, hidden_channels=[4, 2], kernel_size=3)
    save_model(tmp_path / "model.safetensors", spec, initialise(spec, 0))
    code, out, _ = cli("inspect", "model.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["input"] == [10, 0, 128, 128]
    assert json.loads(out)["parameters"] == parameter_count(spec)
    code, _, _ = cli("inspect", "model.safetensors", "--input", "12x0x8x6")
    assert code == 0
    code, _, error = cli("inspect", "model.safetensors", "--input", "12x1x8x6")
    assert code == 4
    assert "channel=0" in error


def test_a_run(cli, trained):
    code, out, _ = cli("inspect", trained / "run")
    assert code == 0
    assert "mm/h" in out
    assert "log_rain" in out
    assert "300.0 s" in out
    assert "1 x 3x1x128x128, 4 ahead" in out  # as it was trained
    code, out, _ = cli("inspect", trained / "run", "--json", "--horizon", "9")
    assert json.loads(out)["pipeline"]["units"] == "mm/h"
    assert json.loads(out)["horizon"] == 9


def test_nothing_is_allocated(cli):
    code, out, _ = cli("inspect", "openstl-kth", "--input", "1000x1x100000x100000", "--batch", "1000", "--json")
    assert code == 0
    assert json.loads(out)["training_bytes"] > 10**18


def test_an_output_at_full_resolution(cli, tmp_path):
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=7, kernel_size=3)
    spec = ForecasterSpec(encoder=stack, patch_size=2, detail_channels=5, detail_frames=3, thresholds=(0.1, 1.0))
    (tmp_path / "events.json").write_text(json.dumps({"kind": "forecaster", "spec": spec.to_dict()}))
    command = ("inspect", "events.json", "--input", "3x1x8x6", "--batch", "2", "--horizon", "4")
    code, out, _ = cli(*command)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["parameters", f"{parameter_count(spec):,}"] in rows
    assert [row[:2] for row in rows[-5:-1]] == [
        ["head", "128"],
        ["detail.0", "140"],
        ["detail.1", "230"],
        ["output", "18"],
    ]
    found = json.loads(cli(*command, "--json")[1])
    assert [part["name"] for part in (found["head"], *found["detail"])] == ["head", "detail.0", "detail.1", "output"]
    assert [part["forward_flop"] for part in found["detail"]] == [25920, 43200, 12288]  # 2 · points · weights
