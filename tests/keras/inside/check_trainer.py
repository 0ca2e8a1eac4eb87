"""One optimiser step: the same as PyTorch's, what decays, and going on bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError, WeightsError
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.keras.engines import BACKEND
from convlstm.keras.training import Trainer, set_threads
from convlstm.weights.canonical import initialise

RANDOM = np.random.default_rng(0)
STACK = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, peephole="channel", dropout=0.3)
SPEC = ForecasterSpec(encoder=STACK, patch_size=2, residual=True)
EVEN = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), patch_size=2)


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


SAMPLE = Sample(array(2, 3, 1, 8, 8), array(2, 4, 1, 8, 8), (array(2, 4, 1, 8, 8) > 0).astype(np.float32))
NOTHING = Sample(SAMPLE.inputs, SAMPLE.targets, np.zeros_like(SAMPLE.weight))


def trainer(spec: ForecasterSpec = SPEC, seed: int = 0, **options: Any) -> Trainer:
    return Trainer(spec, initialise(spec, seed), Optimisation(**{"precision": "float32"} | options))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_steps_are_those_of_pytorch(rollout: str) -> None:
    torch_training = pytest.importorskip("convlstm.torch.training")
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, peephole="channel", norm="layer")
    spec = ForecasterSpec(encoder=stack, patch_size=2, residual=True, rollout=rollout)
    options = Optimisation(precision="float32", clip_norm=0.1, weight_decay=0.1)
    ours, theirs = (kind(spec, initialise(spec, 0), options) for kind in (Trainer, torch_training.Trainer))
    for key in range(5):
        assert ours.step(SAMPLE, 1e-2, key) == pytest.approx(theirs.step(SAMPLE, 1e-2, key), rel=1e-5)
    wanted = theirs.weights()
    for key, value in ours.weights().items():
        # Adam's first steps divide gradients of the size of their rounding by themselves
        np.testing.assert_allclose(value, wanted[key], rtol=0, atol=1e-4, err_msg=key)
    np.testing.assert_allclose(ours.predict(SAMPLE, 6), theirs.predict(SAMPLE, 6), rtol=0, atol=1e-4)


def test_the_loss_before_a_step_and_without_weight() -> None:
    ours = trainer(EVEN)
    before = ours.loss(SAMPLE)
    assert ours.step(SAMPLE, 1e-2, key=0) == pytest.approx(before, rel=1e-6)
    for key in range(1, 20):
        ours.step(SAMPLE, 1e-2, key)
    assert ours.loss(SAMPLE) < 0.97 * before
    assert ours.loss(NOTHING) == 0.0
    assert "float32" in ours.description


def test_a_key_decides_the_dropout() -> None:
    ours, losses = trainer(), []
    start = ours.state()
    for key in (1, 1, 2, 2**40 + 1):
        ours.restore(start)
        losses.append(ours.step(SAMPLE, 1e-3, key))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_going_on_from_a_state_is_bit_for_bit() -> None:
    first = trainer()
    states = [first.state()]
    for key in range(4):
        first.step(SAMPLE, 1e-2, key)
        states.append(first.state())
    second = trainer(seed=9)
    second.step(SAMPLE, 1e-2, 77)  # what was there before leaves no trace
    second.restore(states[2])
    for key in range(2, 4):
        second.step(SAMPLE, 1e-2, key)
    wanted, found = states[4], second.state()
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_state_that_does_not_fit_is_refused_by_name(refused) -> None:
    ours = trainer(EVEN)
    state, key = ours.state(), "optimiser.head.weight.exp_avg"
    for changed, argument in (
        ({k: v for k, v in state.items() if k != key}, key),
        (state | {key: state[key][:1]}, key),
        (state | {"optimiser.tail.exp_avg": state[key]}, "optimiser.tail.exp_avg"),
        ({k: v for k, v in state.items() if k != "weights.head.bias"}, "head.bias"),
    ):
        with refused(WeightsError, argument):
            ours.restore(changed)


def test_only_convolution_kernels_decay() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3, peephole="pixel", input_size=4, norm="layer")
    spec = ForecasterSpec(encoder=stack, patch_size=2)
    start = {k: np.full_like(v, 0.5) for k, v in initialise(spec, 0).items()}
    ours = Trainer(spec, start, Optimisation(precision="float32", weight_decay=0.1))
    ours.step(NOTHING, 0.1, 0)  # no gradient: only the decay acts
    for key, value in ours.weights().items():
        kernel = key.endswith(("weight_ih", "weight_hh", "head.weight"))
        np.testing.assert_allclose(value, 0.5 * (1 - 0.1 * 0.1) if kernel else 0.5, rtol=1e-6, err_msg=key)


def test_low_precision_keeps_weights_in_float32() -> None:
    ours, exact = trainer(precision="bfloat16"), trainer()
    assert ours.loss(SAMPLE) == pytest.approx(exact.loss(SAMPLE), rel=5e-2)
    ours.step(SAMPLE, 1e-3, 0)
    assert {a.dtype for a in ours.state().values()} == {np.dtype(np.float32)}
    assert ours.predict(SAMPLE, 2).dtype == np.float32
    assert "bfloat16" in ours.description


def test_durations_and_gaps_reach_the_model() -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, duration_strategy="linear", memory_decay=True)
    frames, targets = array(2, 3, 1, 4, 4), array(2, 2, 1, 4, 4)
    times, ours = [np.ones((2, n), dtype=np.float32) for n in (3, 2, 3)], trainer(ForecasterSpec(encoder=stack))
    base = ours.predict(Sample(frames, targets, targets, *times), 2)
    for n in range(3):
        changed = [3.0 * t if n == k else t for k, t in enumerate(times)]
        assert np.abs(ours.predict(Sample(frames, targets, targets, *changed), 2) - base).max() > 1e-4


def test_an_unknown_precision_is_refused(refused) -> None:
    with refused(ConfigError, "training.precision"):
        trainer(precision="float8")


def test_threads_are_set_where_the_backend_lets_them() -> None:
    trainer(EVEN).loss(SAMPLE)
    if BACKEND == "torch":
        set_threads(1)
        return
    with pytest.raises(ConfigError, match="threads"):
        set_threads(7)
