"""Threads of each backend, and training of events; what every trainer does is in `tests/frontends`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError
from convlstm.frontend.trainer import DECAYED, Optimisation, Sample
from convlstm.keras.engines import BACKEND
from convlstm.keras.training import Trainer, set_threads
from convlstm.reference import forecaster as reference
from convlstm.weights.canonical import initialise

STACK = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3)
EVENTS = ForecasterSpec(encoder=STACK, patch_size=2, thresholds=(0.1, 1.0), detail_channels=3, detail_frames=2)


def sample_of_events() -> Sample:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((2, 3, 1, 8, 6)).astype(np.float32)
    events, weight = (random.random((2, 4, 2, 8, 6)) < share for share in (0.3, 0.8))
    return Sample(inputs, events.astype(np.float32), weight.astype(np.float32))


def trainer(**options: Any) -> Trainer:
    return Trainer(EVENTS, initialise(EVENTS, 0), Optimisation(**{"precision": "float32"} | options))


def test_the_loss_of_events_is_their_cross_entropy() -> None:
    ours, sample = trainer(), sample_of_events()
    weights = {key: np.float64(value) for key, value in ours.weights().items()}
    logits = reference.forecast(EVENTS, weights, np.float64(sample.inputs), 4)
    probability = 1.0 / (1.0 + np.exp(-logits))
    log_likelihood = np.where(sample.targets == 1, np.log(probability), np.log(1.0 - probability))
    assert ours.loss(sample) == pytest.approx(-np.average(log_likelihood, weights=sample.weight), rel=1e-5)
    np.testing.assert_allclose(ours.predict(sample, 4), logits, rtol=0, atol=1e-5)


def test_training_of_events_takes_the_steps_of_pytorch() -> None:
    pytorch = pytest.importorskip("convlstm.torch.training")
    ours, sample = trainer(), sample_of_events()
    theirs = pytorch.Trainer(EVENTS, initialise(EVENTS, 0), Optimisation(precision="float32"))
    for key in range(4):
        assert ours.step(sample, 1e-2, key) == pytest.approx(theirs.step(sample, 1e-2, key), abs=1e-5, rel=1e-5)
    wanted = theirs.weights()
    for key, value in ours.weights().items():
        # Adam divides a gradient by its own size: where it is near 0, rounding moves a weight by parts of the rate
        np.testing.assert_allclose(value, wanted[key], rtol=0, atol=1e-4, err_msg=key)


def test_kernels_at_full_resolution_decay_and_a_state_is_restored() -> None:
    ours, sample = trainer(weight_decay=0.1), sample_of_events()
    ours.step(sample, 1e-2, 0)
    saved = ours.state()
    ours.step(sample, 1e-2, 1)
    wanted = ours.state()
    ours.restore(saved)
    ours.step(sample, 1e-2, 1)
    for key, value in ours.state().items():
        np.testing.assert_array_equal(value, wanted[key], err_msg=key)
    ours.restore({key: np.full_like(value, 0.5) for key, value in saved.items() if key.startswith("weights.")})
    ours.step(Sample(sample.inputs, sample.targets, np.zeros_like(sample.weight)), 0.1, 0)  # only the decay acts
    for key, value in ours.weights().items():
        expected = 0.5 * (1 - 0.1 * 0.1) if key.endswith(DECAYED) else 0.5
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=key)


def test_events_are_trained_in_bfloat16_with_weights_in_float32() -> None:
    ours, sample = trainer(precision="bfloat16"), sample_of_events()
    assert ours.loss(sample) == pytest.approx(trainer().loss(sample), rel=5e-2)
    losses = [ours.step(sample, 1e-2, key) for key in range(20)]
    assert losses[-1] < 0.95 * losses[0]
    assert {array.dtype for array in ours.state().values()} == {np.dtype(np.float32)}


def test_threads_are_set_where_the_backend_allows_it() -> None:
    spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), patch_size=2)
    frames = np.ones((2, 3, 1, 8, 8), np.float32)
    Trainer(spec, initialise(spec, 0)).loss(Sample(frames, frames, frames))
    if BACKEND == "torch":
        set_threads(1)
        return
    with pytest.raises(ConfigError, match="threads"):
        set_threads(7)
