"""`convlstm export`: what it prints and writes, and how it refuses."""

import sys

import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import save_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PT2 = ("-o", "m.pt2", "--format", "pt2")
LITERT = ("--format", "litert", "-o", "model.tflite")


@pytest.fixture
def layer(tmp_path):
    """A layer as a model file."""
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3)
    save_model(tmp_path / "layer.safetensors", spec, initialise(spec, 0))


def test_a_run_takes_its_horizon_steps_and_units_from_the_training(cli, trained, tmp_path):
    code, out, err = cli("export", trained / "run", "-o", "run.onnx", "--format", "onnx-unrolled", "--physical")
    assert (code, err) == (0, "")
    first, *others = out.splitlines()
    assert first.startswith("run.onnx: onnx-unrolled, ")
    assert first.endswith(" from the reference")
    assert others == [
        "input   frames    float32 (batch, 3, 1, height, width)",
        "output  forecast  float32 (batch, 4, 1, height, width)",
    ]
    props = {entry.key: entry.value for entry in onnx.load(tmp_path / "run.onnx").metadata_props}
    assert (props["units"], props["values"], props["input_length"]) == ("mm/h", "physical values", "3")
    session = onnxruntime.InferenceSession(tmp_path / "run.onnx")
    rain = np.full((1, 3, 1, 22, 18), 2.0, np.float32)
    assert session.run(["forecast"], {"frames": rain})[0].min() >= 0.0


def test_a_layer_step_by_step_in_int8(cli, layer, tmp_path):
    words = ("--format", "onnx-step", "--weights", "int8", "--batch", 1, "--size", "8x8")
    code, out, err = cli("export", "layer.safetensors", "-o", "layer.onnx", *words)
    assert (code, err) == (0, "")
    assert "input   x       float32 (1, 2, 8, 8)" in out.splitlines()
    assert "output  c_n.0   float32 (1, 3, 8, 8)" in out.splitlines()
    assert out.splitlines()[0].endswith("from the reference with kernels in int8")
    stored = {tensor.data_type for tensor in onnx.load(tmp_path / "layer.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in stored


def test_a_layer_as_a_program_of_jax(cli, layer, tmp_path):
    pytest.importorskip("jax")
    code, out, err = cli(
        "export", "layer.safetensors", "-o", "layer.stablehlo", "--format", "stablehlo", "--size", "8x8"
    )
    assert (code, err) == (0, "")
    assert "input   x       float32 (batch, time, 8, 8, 2)" in out.splitlines()
    assert (tmp_path / "layer.stablehlo").stat().st_size > 1000


@pytest.mark.parametrize(
    ("code", "words", "options"),
    [
        (3, "--format: expected one of onnx, onnx-unrolled", ("--format", "coreml")),
        (3, "got pt2. Leave it out; pt2 supports `--size`, `--mask`", (*PT2, "--batch", 1)),
        (3, "--weights: expected --format onnx or onnx-unrolled or onnx-step, got pt2", (*PT2, "--weights", "int8")),
        (3, "litert supports `--size`, `--probability`, `--horizon`.", (*LITERT, "--batch", 1)),
        (3, "mask: expected False in a graph of one step, got True.", (*LITERT, "--mask")),
        (3, "--steps: expected --format onnx-unrolled, got pt2", (*PT2, "--steps", 4)),
        (3, "--states: expected --format onnx or", (*PT2, "--states")),
        (3, "--physical: expected --format onnx or", (*PT2, "--physical")),
        (3, "horizon: expected a forecaster, got a layer stack. Leave it out.", (*PT2, "--horizon", 4)),
        (6, "model.pt2: expected a name that ends in .onnx, got '.pt2'. Pass `model.onnx`", ("-o", "model.pt2")),
        (3, "steps: expected the number of steps of an unrolled graph", ("--format", "onnx-unrolled")),
        (3, "Leave it out, or choose `--format onnx-unrolled`", ("--steps", 4)),
        (3, "probability: expected a forecaster, got a layer stack. Leave it out.", ("--probability",)),
        (5, "expected a forecaster written by `convlstm train`", ("--physical",)),
        (2, "expected sizes as 128x128, got '8,8'", ("--size", "8,8")),
        (3, "size: expected", ("--size", "8x8x8")),
        (6, "expected a path other than the inputs", ("-o", "layer.safetensors")),
    ],
)
def test_refusals(fails, layer, code, words, options):
    fails(code, words, "export", "layer.safetensors", *options)


def test_a_missing_package_is_named_with_the_command_that_installs_it(fails, layer, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    fails(
        8, "onnx: expected the package installed, got no module 'onnx'. Run: pip install", "export", "layer.safetensors"
    )
