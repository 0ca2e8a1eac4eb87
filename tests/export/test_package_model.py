"""The model of rain in the package and a model of values as ONNX, against PyTorch and the nowcaster on real frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.data import LogRain, open_frames, sample_path
from convlstm.export import Physical, to_onnx
from convlstm.nowcast.models import shipped_model
from convlstm.nowcast.moving_frame import with_known
from convlstm.nowcast.nowcaster import load_nowcaster
from convlstm.nowcast.pipeline import Pipeline
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model, save_model

torch = pytest.importorskip("torch")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def rain(steps: int, height: int, width: int) -> np.ndarray:
    """Frames of the sample with rain (1, time, 1, height, width) in mm/h."""
    frames = open_frames(sample_path())
    start = 14
    return frames.read(np.arange(start, start + steps))[None, :, :, :height, :width]


def test_probabilities_of_the_model_in_the_package(tmp_path: Path) -> None:
    from convlstm.torch import load

    model = load_model(shipped_model())
    pipeline = Pipeline.of_model(model, shipped_model())
    physical = Physical(transform=pipeline.transform.to_dict(), rain=True, moving=True)
    to_onnx(tmp_path / "rain.onnx", model.spec, model.weights, physical=physical)
    values = rain(6, 32, 48)
    values[0, 2, 0, 5:9, 7:20] = np.nan
    session = onnxruntime.InferenceSession(tmp_path / "rain.onnx")
    received = session.run(["forecast"], {"frames": values, "horizon": np.array([4])})[0]
    inputs = with_known(pipeline.transform.forward(values[0]))[None]
    with torch.no_grad():
        expected = load(shipped_model())(torch.from_numpy(inputs), 4).sigmoid().numpy()
    assert received.max() > 0.3
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5)


def test_physical_values_are_those_of_the_nowcaster(tmp_path: Path) -> None:
    encoder = ConvLSTMSpec(in_channels=16, hidden_channels=[6], kernel_size=3)
    spec = ForecasterSpec(encoder=encoder, patch_size=4, residual=True)
    pipeline = Pipeline(("rain",), "mm/h", LogRain(), 300.0, None, 6, 3, (1.0,), {})
    path = tmp_path / "model.safetensors"
    save_model(path, spec, initialise(spec, 0), {"pipeline": pipeline.to_dict(), "provenance": {"config": {}}})
    physical = Physical(transform=pipeline.transform.to_dict(), rain=True)
    to_onnx(tmp_path / "model.onnx", spec, load_model(path).weights, physical=physical)
    values = rain(6, 30, 45)
    values[0, 1:3, 0, 5:9, 7:20] = np.nan
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    received = session.run(["forecast"], {"frames": values, "horizon": np.array([3])})[0]
    seconds = 300.0 * np.arange(6)[None]
    expected = load_nowcaster(path).predict(values, seconds, 300.0 * np.arange(1, 4))
    assert expected.max() > 1.0
    np.testing.assert_allclose(received, expected, rtol=1e-5, atol=1e-5)
