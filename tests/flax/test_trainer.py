"""One optimiser step: its loss by hand, PyTorch's beside it, what decays, and going on bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError, WeightsError
from convlstm.flax import from_canonical
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.jax import forecasting
from convlstm.jax.training import Trainer, set_threads
from convlstm.weights.canonical import initialise

RANDOM = np.random.default_rng(0)
STACK = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, peephole="channel", dropout=0.3)
SPEC = ForecasterSpec(encoder=STACK, patch_size=2, residual=True)
PLAIN = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), patch_size=2)


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


SAMPLE = Sample(array(2, 3, 1, 8, 8), array(2, 4, 1, 8, 8), (array(2, 4, 1, 8, 8) > 0).astype(np.float32))


def trainer(spec: ForecasterSpec = SPEC, seed: int = 0, **options: Any) -> Trainer:
    return Trainer(spec, initialise(spec, seed), Optimisation(**{"precision": "float32"} | options))


def test_the_loss_by_hand() -> None:
    params = from_canonical(SPEC, initialise(SPEC, 0), np.float32)
    frames = np.moveaxis(SAMPLE.inputs, 2, -1)
    forecast = np.moveaxis(np.asarray(forecasting.forecast(SPEC, params, frames, 4)), -1, 2)
    error = np.float64(forecast) - SAMPLE.targets
    expected = (SAMPLE.weight * (error**2 + 0.3 * np.abs(error))).sum() / SAMPLE.weight.sum()
    ours = trainer()
    assert ours.loss(SAMPLE) == pytest.approx(expected, rel=1e-5)  # float32 sums
    np.testing.assert_allclose(ours.predict(SAMPLE, 4), forecast, atol=1e-5)
    assert ours.predict(SAMPLE, 7).shape == (2, 7, 1, 8, 8)
    nothing = Sample(SAMPLE.inputs, SAMPLE.targets, np.zeros_like(SAMPLE.weight))
    assert ours.loss(nothing) == 0.0


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_the_first_steps_are_pytorchs(rollout: str) -> None:
    training = pytest.importorskip("convlstm.torch.training")
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, peephole="channel")
    spec = ForecasterSpec(encoder=stack, patch_size=2, residual=True, rollout=rollout)
    options = Optimisation(precision="float32", clip_norm=0.1, weight_decay=0.1)
    ours, theirs = (kind(spec, initialise(spec, 0), options) for kind in (Trainer, training.Trainer))
    for key in range(3):
        assert ours.step(SAMPLE, 1e-2, key) == pytest.approx(theirs.step(SAMPLE, 1e-2, key), rel=1e-5)
    wanted = theirs.weights()
    for name, value in ours.weights().items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=name)


def test_a_step_returns_the_loss_before_it_and_lowers_it() -> None:
    ours = trainer(PLAIN)
    before = ours.loss(SAMPLE)
    assert ours.step(SAMPLE, 1e-2, key=0) == pytest.approx(before, rel=1e-6)
    for key in range(1, 30):
        ours.step(SAMPLE, 1e-2, key)
    assert ours.loss(SAMPLE) < 0.95 * before


def test_a_key_decides_the_dropout_and_evaluation_has_none() -> None:
    ours = trainer()
    start, losses = ours.state(), []
    for key in (1, 1, 2):
        ours.restore(start)
        losses.append(ours.step(SAMPLE, 1e-3, key))
    assert losses[0] == losses[1] != losses[2]
    assert ours.loss(SAMPLE) == ours.loss(SAMPLE)


def test_going_on_from_a_state_is_bit_for_bit() -> None:
    first, second = trainer(), trainer(seed=9)
    for key in range(2):
        first.step(SAMPLE, 1e-2, key)
    second.step(SAMPLE, 1e-2, 77)  # what was there before leaves no trace
    second.restore(first.state())
    for key in range(2, 4):
        first.step(SAMPLE, 1e-2, key)
        second.step(SAMPLE, 1e-2, key)
    wanted, found = first.state(), second.state()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_state_that_does_not_fit_is_refused_by_name(refused) -> None:
    ours = trainer()
    state, key = ours.state(), "optimiser.head.weight.mu"
    for changed, argument in (
        ({k: v for k, v in state.items() if k != key}, key),
        (state | {key: state[key][:1]}, key),
        (state | {"optimiser.tail.weight.mu": state[key]}, "optimiser.tail.weight.mu"),
        ({k: v for k, v in state.items() if k != "weights.head.bias"}, "head.bias"),
    ):
        with refused(WeightsError, argument):
            ours.restore(changed)


def test_only_convolution_kernels_decay() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3, peephole="pixel", input_size=4, norm="layer")
    spec = ForecasterSpec(encoder=stack, patch_size=2)
    start = {k: np.full_like(v, 0.5) for k, v in initialise(spec, 0).items()}
    ours = Trainer(spec, start, Optimisation(precision="float32", weight_decay=0.1))
    blind = Sample(SAMPLE.inputs, SAMPLE.targets, np.zeros_like(SAMPLE.weight))  # no gradient: only the decay acts
    ours.step(blind, 0.1, 0)
    for key, value in ours.weights().items():
        kernel = key.endswith(("weight_ih", "weight_hh", "head.weight"))
        np.testing.assert_allclose(value, 0.5 * (1 - 0.1 * 0.1) if kernel else 0.5, rtol=1e-6, err_msg=key)


def test_low_precision_keeps_weights_in_float32() -> None:
    ours, exact = trainer(PLAIN, precision="bfloat16"), trainer(PLAIN)
    assert ours.loss(SAMPLE) == pytest.approx(exact.loss(SAMPLE), rel=5e-2)
    ours.step(SAMPLE, 1e-3, 0)
    assert {a.dtype for name, a in ours.state().items() if name != "optimiser.count"} == {np.dtype(np.float32)}
    assert ours.predict(SAMPLE, 2).dtype == np.float32
    assert "bfloat16" in ours.description
    assert "float32" in exact.description


def test_an_unknown_precision_is_refused(refused) -> None:
    with refused(ConfigError, "training.precision"):
        trainer(precision="float8")


def test_durations_and_gaps_reach_the_model() -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, duration_strategy="linear", memory_decay=True)
    spec = ForecasterSpec(encoder=stack)
    frames, targets = array(2, 3, 1, 4, 4), array(2, 2, 1, 4, 4)
    times = [np.ones((2, n), dtype=np.float32) for n in (3, 2, 3)]
    ours = trainer(spec)
    base = ours.predict(Sample(frames, targets, targets, *times), 2)
    for changed in range(3):
        other = [3.0 * time if n == changed else time for n, time in enumerate(times)]
        assert (ours.predict(Sample(frames, targets, targets, *other), 2) != base).any()


def test_a_shape_is_compiled_once() -> None:
    ours = trainer(PLAIN)
    for key in range(3):
        ours.step(SAMPLE, 1e-3 * (key + 1), key)
    assert ours._step._cache_size() == 1


def test_threads_are_set_before_jax_starts_and_refused_after(refused) -> None:
    set_threads(int(os.environ["NPROC"]))
    jax.devices()
    with refused(ConfigError, "threads"):
        set_threads(7)
    code = "from convlstm.jax.training import set_threads; set_threads(3); import os; print(os.environ['NPROC'])"
    clean = {name: value for name, value in os.environ.items() if name != "NPROC"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.strip() == "3"
