"""One optimiser step: its loss by hand, what decays, and going on bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError, WeightsError
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.torch import Forecaster, load_canonical
from convlstm.torch.training import Trainer
from convlstm.weights.canonical import initialise

RANDOM = np.random.default_rng(0)
STACK = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, peephole="channel", dropout=0.3)
SPEC = ForecasterSpec(encoder=STACK, patch_size=2, residual=True)


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


SAMPLE = Sample(array(2, 3, 1, 8, 8), array(2, 4, 1, 8, 8), (array(2, 4, 1, 8, 8) > 0).astype(np.float32))


def trainer(spec: ForecasterSpec = SPEC, **options: Any) -> Trainer:
    return Trainer(spec, initialise(spec, 0), Optimisation(**{"precision": "float32"} | options))


def test_the_loss_by_hand() -> None:
    model = Forecaster(SPEC).eval()
    load_canonical(model, initialise(SPEC, 0))
    forecast = model(torch.from_numpy(SAMPLE.inputs), 4).detach().double().numpy()
    error = forecast - SAMPLE.targets
    expected = (SAMPLE.weight * (error**2 + 0.3 * np.abs(error))).sum() / SAMPLE.weight.sum()
    ours = trainer()
    assert ours.loss(SAMPLE) == pytest.approx(expected, rel=1e-5)  # float32 sums
    np.testing.assert_allclose(ours.predict(SAMPLE, 4), forecast, atol=1e-5)
    assert ours.predict(SAMPLE, 7).shape == (2, 7, 1, 8, 8)
    nothing = Sample(SAMPLE.inputs, SAMPLE.targets, np.zeros_like(SAMPLE.weight))
    assert ours.loss(nothing) == 0.0


def test_a_step_returns_the_loss_before_it_and_lowers_it() -> None:
    spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), patch_size=2)
    ours = trainer(spec)
    before = ours.loss(SAMPLE)
    assert ours.step(SAMPLE, 1e-2, key=0) == pytest.approx(before, rel=1e-6)
    for key in range(1, 30):
        ours.step(SAMPLE, 1e-2, key)
    assert ours.loss(SAMPLE) < 0.95 * before


def test_a_key_decides_the_dropout() -> None:
    losses = [trainer().step(SAMPLE, 1e-3, key) for key in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_going_on_from_a_state_is_bit_for_bit() -> None:
    whole = trainer()
    for key in range(6):
        whole.step(SAMPLE, 1e-2, key)
    first = trainer()
    for key in range(3):
        first.step(SAMPLE, 1e-2, key)
    second = Trainer(SPEC, initialise(SPEC, 9), Optimisation(precision="float32"))
    second.step(SAMPLE, 1e-2, 77)  # what was there before leaves no trace
    second.restore(first.state())
    for key in range(3, 6):
        second.step(SAMPLE, 1e-2, key)
    wanted, found = whole.state(), second.state()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_state_before_the_first_step_restores() -> None:
    one, other = trainer(), Trainer(SPEC, initialise(SPEC, 9), Optimisation(precision="float32"))
    other.step(SAMPLE, 1e-2, 0)
    other.restore(one.state())
    assert one.step(SAMPLE, 1e-2, 5) == other.step(SAMPLE, 1e-2, 5)
    for a, b in zip(one.weights().values(), other.weights().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_that_does_not_fit_is_refused_by_name(refused) -> None:
    ours = trainer()
    ours.step(SAMPLE, 1e-2, 0)
    state, key = ours.state(), "optimiser.head.weight.exp_avg"
    for changed, argument in (
        ({k: v for k, v in state.items() if k != key}, key),
        (state | {key: state[key][:1]}, key),
        (state | {"optimiser.tail.weight.exp_avg": state[key]}, "optimiser.tail.weight.exp_avg"),
        ({k: v for k, v in state.items() if k != "weights.head.bias"}, "head.bias"),
    ):
        with refused(WeightsError, argument):
            trainer().restore(changed)


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


def test_the_gradient_is_clipped() -> None:
    huge = Sample(SAMPLE.inputs, 1e6 * SAMPLE.targets, SAMPLE.weight)
    ours = trainer(clip_norm=0.5)
    ours.step(huge, 0.0, 0)
    norm = torch.stack([p.grad.norm() for p in ours.module.parameters()]).norm().item()
    assert norm == pytest.approx(0.5, rel=1e-3)


def test_low_precision_keeps_weights_in_float32() -> None:
    ours, exact = trainer(precision="bfloat16"), trainer()
    assert ours.loss(SAMPLE) == pytest.approx(exact.loss(SAMPLE), rel=5e-2)
    ours.step(SAMPLE, 1e-3, 0)
    assert {a.dtype for a in ours.state().values()} == {np.dtype(np.float32)}
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
    base = trainer(spec).predict(Sample(frames, targets, targets, *times), 2)
    for n in range(3):
        changed = [3.0 * t if n == k else t for k, t in enumerate(times)]
        assert np.abs(trainer(spec).predict(Sample(frames, targets, targets, *changed), 2) - base).max() > 1e-4
