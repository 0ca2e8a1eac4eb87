"""One optimiser step: its loss by hand, what decays, going on bit for bit, and PyTorch's trainer beside it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError, WeightsError
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.mlx import Forecaster, load_canonical
from convlstm.mlx.training import Trainer, set_threads
from convlstm.weights.canonical import initialise

RANDOM = np.random.default_rng(0)
STACK = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, peephole="channel", dropout=0.3)
SPEC = ForecasterSpec(encoder=STACK, patch_size=2, residual=True)


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


SAMPLE = Sample(array(2, 3, 1, 8, 6), array(2, 4, 1, 8, 6), (array(2, 4, 1, 8, 6) > 0).astype(np.float32))


def trainer(spec: ForecasterSpec = SPEC, **options: Any) -> Trainer:
    return Trainer(spec, initialise(spec, 0), Optimisation(**{"precision": "float32"} | options))


def test_the_loss_by_hand() -> None:
    model = Forecaster(SPEC).eval()
    load_canonical(model, initialise(SPEC, 0))
    forecast = np.moveaxis(np.array(model(mx.array(np.moveaxis(SAMPLE.inputs, 2, -1)), 4)), -1, 2).astype(float)
    error = forecast - SAMPLE.targets
    expected = (SAMPLE.weight * (error**2 + 0.3 * np.abs(error))).sum() / SAMPLE.weight.sum()
    ours = trainer()
    assert ours.loss(SAMPLE) == pytest.approx(expected, rel=1e-5)  # float32 sums
    np.testing.assert_allclose(ours.predict(SAMPLE, 4), forecast, atol=1e-5)
    assert ours.predict(SAMPLE, 7).shape == (2, 7, 1, 8, 6)
    nothing = Sample(SAMPLE.inputs, SAMPLE.targets, np.zeros_like(SAMPLE.weight))
    assert ours.loss(nothing) == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"peephole": "channel"},
        {"norm": "layer", "duration_strategy": "mlp", "memory_decay": True, "recurrent_activation": "hard_sigmoid"},
        {"peephole": "pixel", "input_size": (4, 3), "boundary": "replicate"},
    ],
)
def test_torchs_trainer_takes_the_same_steps(options: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("lightning_fabric")
    from convlstm.torch.training import Trainer as TorchTrainer

    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3, **options)
    spec = ForecasterSpec(encoder=stack, patch_size=2, residual=True)
    times = [np.abs(array(2, n)) + 1 for n in (3, 4, 3)] if spec.uses_durations else []
    sample = Sample(SAMPLE.inputs, SAMPLE.targets, SAMPLE.weight, *times)
    ours, theirs = trainer(spec), TorchTrainer(spec, initialise(spec, 0), Optimisation(precision="float32"))
    for step in range(4):
        assert ours.step(sample, 1e-2, step) == pytest.approx(theirs.step(sample, 1e-2, step), abs=1e-5)
    wanted = theirs.weights()
    for key, value in ours.weights().items():
        # Adam divides a gradient by its own size: where it is near 0, rounding moves a weight by parts of the rate
        np.testing.assert_allclose(value, wanted[key], rtol=0, atol=1e-4, err_msg=key)


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


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_going_on_from_a_state_is_bit_for_bit(precision: str) -> None:
    whole, first = trainer(precision=precision), trainer(precision=precision)
    for key in range(6):
        whole.step(SAMPLE, 1e-2, key)
    for key in range(3):
        first.step(SAMPLE, 1e-2, key)
    second = Trainer(SPEC, initialise(SPEC, 9), Optimisation(precision=precision))
    second.step(SAMPLE, 1e-2, 77)  # what was there before leaves no trace
    second.restore(first.state())
    second.loss(SAMPLE)
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


def test_a_state_is_a_copy() -> None:
    ours = trainer()
    ours.step(SAMPLE, 1e-2, 0)
    state = ours.state()
    before = {key: value.copy() for key, value in state.items()}
    ours.step(SAMPLE, 1e-2, 1)
    for key, value in before.items():
        np.testing.assert_array_equal(state[key], value)


def test_a_state_that_does_not_fit_is_refused_by_name(refused) -> None:
    ours = trainer()
    ours.step(SAMPLE, 1e-2, 0)
    state, key = ours.state(), "optimiser.head.weight.m"
    for changed, argument in (
        ({k: v for k, v in state.items() if k != key}, key),
        ({k: v for k, v in state.items() if k != "optimiser.step"}, "optimiser.step"),
        (state | {key: state[key][:1]}, key),
        (state | {"optimiser.tail.weight.m": state[key]}, "optimiser.tail.weight.m"),
        ({k: v for k, v in state.items() if k != "weights.head.bias"}, "head.bias"),
    ):
        with refused(WeightsError, argument):
            trainer().restore(changed)


def test_only_convolution_kernels_decay() -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3, peephole="pixel", input_size=4, norm="layer")
    spec = ForecasterSpec(encoder=stack, patch_size=2)
    start = {k: np.full_like(v, 0.5) for k, v in initialise(spec, 0).items()}
    ours = Trainer(spec, start, Optimisation(precision="float32", weight_decay=0.1))
    frames = array(2, 3, 1, 8, 8)
    blind = Sample(frames, frames, np.zeros_like(frames))  # no gradient: only the decay acts
    ours.step(blind, 0.1, 0)
    for key, value in ours.weights().items():
        kernel = key.endswith(("weight_ih", "weight_hh", "head.weight"))
        np.testing.assert_allclose(value, 0.5 * (1 - 0.1 * 0.1) if kernel else 0.5, rtol=1e-6, err_msg=key)


def test_the_gradient_is_clipped() -> None:
    huge = Sample(SAMPLE.inputs, 1e6 * SAMPLE.targets, SAMPLE.weight)
    ours = trainer(clip_norm=0.5)
    ours.step(huge, 0.0, 0)
    moments = [value for key, value in ours.state().items() if key.endswith(".m")]
    norm = np.sqrt(sum(np.square(m / 0.1).sum() for m in moments))  # the first moment is a tenth of the gradient
    assert norm == pytest.approx(0.5, rel=1e-3)


def test_low_precision_keeps_weights_in_float32() -> None:
    ours, exact = trainer(precision="bfloat16"), trainer()
    loss = ours.loss(SAMPLE)
    assert loss != exact.loss(SAMPLE)
    assert loss == pytest.approx(exact.loss(SAMPLE), rel=5e-2)
    ours.step(SAMPLE, 1e-3, 0)
    assert {a.dtype for a in ours.state().values()} == {np.dtype(np.float32)}
    assert ours.predict(SAMPLE, 2).dtype == np.float32
    assert "bfloat16" in ours.description
    assert "float32" in exact.description


def test_an_unknown_precision_is_refused(refused) -> None:
    with refused(ConfigError, "training.precision"):
        trainer(precision="float8")


def test_threads_are_not_mlx_s_to_set(refused) -> None:
    set_threads(1)
    with refused(ConfigError, "threads"):
        set_threads(2)


def test_durations_and_gaps_reach_the_model() -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, duration_strategy="linear", memory_decay=True)
    spec = ForecasterSpec(encoder=stack)
    frames, targets = array(2, 3, 1, 4, 4), array(2, 2, 1, 4, 4)
    times = [np.ones((2, n), dtype=np.float32) for n in (3, 2, 3)]
    base = trainer(spec).predict(Sample(frames, targets, targets, *times), 2)
    for n in range(3):
        changed = [3.0 * t if n == k else t for k, t in enumerate(times)]
        assert np.abs(trainer(spec).predict(Sample(frames, targets, targets, *changed), 2) - base).max() > 1e-4
