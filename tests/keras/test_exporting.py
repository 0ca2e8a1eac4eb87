"""SavedModels and files of LiteRT: open sizes, the numbers of the reference, and the refusal of other backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import SpecError
from convlstm.export import to_framework
from convlstm.keras.engines import BACKEND
from convlstm.reference import forecaster as reference_forecaster
from convlstm.weights.canonical import initialise

ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel is TensorFlow's")
FORECASTER = ForecasterSpec(
    encoder=ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3),
    patch_size=2,
    thresholds=(0.1, 1.0),
    detail_channels=2,
    detail_frames=2,
)


@ON_TENSORFLOW
def test_a_saved_model_takes_any_batch_time_and_size(tmp_path: Path) -> None:
    import tensorflow as tf

    weights = initialise(FORECASTER, 0)
    exported = to_framework(tmp_path / "saved", FORECASTER, weights, "savedmodel", horizon=3)
    assert exported.difference <= 1e-5
    assert exported.inputs == {"frames": "float32 (batch, time, height, width, 1)"}
    frames = np.random.default_rng(0).standard_normal((1, 5, 1, 8, 14)).astype(np.float32)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    received = loaded.serve(np.moveaxis(frames, 2, -1))["forecast"].numpy()
    expected = reference_forecaster.forecast(FORECASTER, weights, frames.astype(np.float64), 3)
    np.testing.assert_allclose(received, np.moveaxis(expected, 2, -1), rtol=0, atol=1e-5)


@ON_TENSORFLOW
def test_a_layer_with_strides_masks_durations_and_both_directions(tmp_path: Path) -> None:
    spec = ConvLSTMSpec(
        in_channels=2,
        hidden_channels=3,
        kernel_size=3,
        stride=2,
        direction="bidirectional",
        merge="separate",
        masked_output="hold",
        duration_strategy="log1p",
        memory_decay=True,
    )
    exported = to_framework(tmp_path / "saved", spec, initialise(spec, 0), "savedmodel", mask=True)
    assert list(exported.inputs) == ["x", "mask", "durations", "gaps_forward", "gaps_reverse"]
    assert exported.outputs["output_1"] == "float32 (batch, time, ?, ?, 3)"


@ON_TENSORFLOW
@pytest.mark.filterwarnings("ignore")  # TensorFlow's interpreter points to another package
def test_one_step_of_litert_after_the_other_is_the_whole_sequence(tmp_path: Path) -> None:
    import tensorflow as tf

    weights, path = initialise(FORECASTER, 0), tmp_path / "step.tflite"
    exported = to_framework(path, FORECASTER, weights, "litert", horizon=3, probability=True)
    assert exported.difference <= 1e-5
    assert exported.inputs["frames"] == "float32 (batch, height, width, 1)"
    assert exported.inputs["h_0_0"] == "float32 (batch, ?, ?, 2)"
    assert exported.outputs["forecast"] == "float32 (batch, 3, height, width, 2)"
    frames = np.random.default_rng(0).standard_normal((1, 4, 1, 8, 14)).astype(np.float32)
    step = tf.lite.Interpreter(str(path)).get_signature_runner()
    state = np.zeros((1, 4, 7, 2), np.float32)
    given = {"h_0_0": state, "c_0_0": state, "frames_0": np.zeros((1, 8, 14, 1), np.float32)}
    for frame in np.moveaxis(frames, 2, -1)[0]:
        result = step(frames=frame[None], **given)
        given = {name: result[name.replace("_0", "_n", 1)] for name in given}
    expected = reference_forecaster.forecast(FORECASTER, weights, frames.astype(np.float64), 3)
    expected = 0.5 * (1 + np.tanh(0.5 * np.moveaxis(expected, 2, -1)))
    np.testing.assert_allclose(result["forecast"], expected, rtol=0, atol=1e-5)


LITERT = {
    "feedback": (
        ForecasterSpec(
            encoder=ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3),
            patch_size=2,
            rollout="feedback",
            residual=True,
        ),
        {"horizon": 3},
    ),
    "durations, gaps and peepholes": (
        ConvLSTMSpec(
            in_channels=2,
            hidden_channels=[3, 2],
            kernel_size=3,
            padding="valid",
            peephole="channel",
            duration_strategy="mlp",
            memory_decay=True,
        ),
        {},
    ),
    "a stride, groups and a norm of a fixed size": (
        ConvLSTMSpec(
            in_channels=2, hidden_channels=2, kernel_size=3, stride=2, groups=2, boundary="circular", norm="layer"
        ),
        {"size": (7, 8)},
    ),
    "three dimensions": (ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, spatial_dims=3), {}),
}


@ON_TENSORFLOW
@pytest.mark.parametrize("name", LITERT)
def test_one_step_of_litert_has_the_numbers_of_the_reference(name: str, tmp_path: Path) -> None:
    spec, options = LITERT[name]
    exported = to_framework(tmp_path / "step.tflite", spec, initialise(spec, 0), "litert", **options)
    assert exported.difference <= 1e-5


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow writes these files")
@pytest.mark.parametrize(("kind", "file"), [("savedmodel", "saved"), ("litert", "step.tflite")])
def test_other_backends_are_refused(kind: Any, file: str, refused: Any, tmp_path: Path) -> None:
    with refused(SpecError, "KERAS_BACKEND"):
        to_framework(tmp_path / file, FORECASTER, initialise(FORECASTER, 0), kind, horizon=3)
    assert not list(tmp_path.iterdir())
