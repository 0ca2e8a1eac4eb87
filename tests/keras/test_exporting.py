"""SavedModels: open sizes, the numbers of the reference, and the refusal of other backends."""

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


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow writes SavedModels")
def test_other_backends_are_refused(refused: Any, tmp_path: Path) -> None:
    with refused(SpecError, "KERAS_BACKEND"):
        to_framework(tmp_path / "saved", FORECASTER, initialise(FORECASTER, 0), "savedmodel", horizon=3)
    assert not list(tmp_path.iterdir())
