"""One optimiser step in each framework: its loss, PyTorch's steps, what decays, and resuming bit for bit.

With KERAS_BACKEND set these tests run on Keras alone, since a process has one backend.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import ConfigError, WeightsError
from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.reference import forecaster as reference
from convlstm.weights.canonical import initialise

FRAMEWORKS = ["keras"] if "KERAS_BACKEND" in os.environ else ["torch", "mlx", "flax"]
LIBRARIES = {"torch": "lightning_fabric", "mlx": "mlx", "flax": "flax", "keras": "keras"}
FIRST_MOMENTS = {"torch": "exp_avg", "mlx": "m", "flax": "mu", "keras": "exp_avg"}

RANDOM = np.random.default_rng(0)
STACK = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, peephole="channel", dropout=0.3)
SPEC = ForecasterSpec(encoder=STACK, patch_size=2, residual=True)
SMALL = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3), patch_size=2)


def array(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


SAMPLE = Sample(array(2, 3, 1, 8, 6), array(2, 4, 1, 8, 6), (array(2, 4, 1, 8, 6) > 0).astype(np.float32))
WITHOUT_WEIGHT = Sample(SAMPLE.inputs, SAMPLE.targets, np.zeros_like(SAMPLE.weight))

EVENT_OPTIONS: dict[str, Any] = {
    "thresholds": (-0.5, 0.5),
    "detail_channels": 3,
    "detail_frames": 2,
    "detail_kernel": 3,
}
EVENTS = ForecasterSpec(encoder=SMALL.encoder, patch_size=2, **EVENT_OPTIONS)


def event_sample(sample: Sample = SAMPLE, *times: np.ndarray) -> Sample:
    """Return the events of a sample's targets for the thresholds of `EVENT_OPTIONS`."""
    reached = [sample.targets >= threshold for threshold in EVENT_OPTIONS["thresholds"]]
    weight = np.concatenate([sample.weight] * len(reached), axis=2)
    return Sample(sample.inputs, np.concatenate(reached, axis=2).astype(np.float32), weight, *times)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    """Name of a framework that is installed."""
    name: str = request.param
    if find_spec(LIBRARIES[name]) is None:
        pytest.skip(f"{name} is not installed")
    return name


def trainer(framework: str, spec: ForecasterSpec = SPEC, *, seed: int = 0, **options: Any) -> Any:
    package = "jax" if framework == "flax" else framework
    training = import_module(f"convlstm.{package}.training")
    return training.Trainer(spec, initialise(spec, seed), Optimisation(**{"precision": "float32"} | options))


def same_state(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_loss_by_hand(framework: str) -> None:
    weights = {key: np.float64(np.float32(value)) for key, value in initialise(SPEC, 0).items()}
    forecast = reference.forecast(SPEC, weights, np.float64(SAMPLE.inputs), 4)
    error = forecast - SAMPLE.targets
    expected = (SAMPLE.weight * (error**2 + 0.3 * np.abs(error))).sum() / SAMPLE.weight.sum()
    ours = trainer(framework)
    assert ours.loss(SAMPLE) == pytest.approx(expected, rel=1e-5)  # float32 sums
    np.testing.assert_allclose(ours.predict(SAMPLE, 4), forecast, rtol=0, atol=1e-5)
    assert ours.predict(SAMPLE, 7).shape == (2, 7, 1, 8, 6)
    assert ours.loss(WITHOUT_WEIGHT) == 0.0


def test_loss_of_events_by_hand(framework: str) -> None:
    sample = event_sample()
    weights = {key: np.float64(np.float32(value)) for key, value in initialise(EVENTS, 0).items()}
    logits = reference.forecast(EVENTS, weights, np.float64(SAMPLE.inputs), 4)
    probability = 1 / (1 + np.exp(-logits))
    entropy = -np.where(sample.targets == 1, np.log(probability), np.log(1 - probability))
    ours = trainer(framework, EVENTS)
    assert ours.loss(sample) == pytest.approx((sample.weight * entropy).sum() / sample.weight.sum(), rel=1e-5)
    np.testing.assert_allclose(ours.predict(sample, 4), logits, rtol=0, atol=1e-5)
    assert ours.predict(sample, 7).shape == (2, 7, 2, 8, 6)
    assert ours.loss(event_sample(WITHOUT_WEIGHT)) == 0.0


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "states": ({"peephole": "channel", "norm": "layer"}, {"residual": True}),
    "feedback": ({"peephole": "channel", "norm": "layer"}, {"residual": True, "rollout": "feedback"}),
    "events": ({"peephole": "channel"}, EVENT_OPTIONS),
    "durations": (
        {"norm": "layer", "duration_strategy": "mlp", "memory_decay": True, "recurrent_activation": "hard_sigmoid"},
        {"residual": True},
    ),
    "pixel peephole": ({"peephole": "pixel", "input_size": (4, 3), "boundary": "replicate"}, {"residual": True}),
}


# JAX and TensorFlow compile each case for seconds
COMPARED = [("mlx", name) for name in CASES] + [
    (one, name) for one in ("flax", "keras") for name in ("states", "feedback", "events")
]


@pytest.mark.parametrize(
    ("framework", "name"), [case for case in COMPARED if case[0] in FRAMEWORKS], indirect=["framework"]
)
def test_steps_are_those_of_pytorch(framework: str, name: str) -> None:
    pytest.importorskip("convlstm.torch.training")
    stack_options, options = CASES[name]
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3, **stack_options)
    spec = ForecasterSpec(encoder=stack, patch_size=2, **options)
    times = [np.abs(array(2, n)) + 1 for n in (3, 4, 3)] if spec.uses_durations else []
    sample = Sample(SAMPLE.inputs, SAMPLE.targets, SAMPLE.weight, *times)
    sample = event_sample(sample) if spec.thresholds else sample
    strong = {"clip_norm": 0.1, "weight_decay": 0.1} if name in ("states", "feedback", "events") else {}
    ours, theirs = (trainer(one, spec, **strong) for one in (framework, "torch"))
    for key in range(4):
        assert ours.step(sample, 1e-2, key) == pytest.approx(theirs.step(sample, 1e-2, key), abs=1e-5, rel=1e-5)
    wanted = theirs.weights()
    for key, value in ours.weights().items():
        # Adam divides a gradient by its own size: where it is near 0, rounding moves a weight by parts of the rate
        np.testing.assert_allclose(value, wanted[key], rtol=0, atol=1e-4, err_msg=key)
    np.testing.assert_allclose(ours.predict(sample, 4), theirs.predict(sample, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("spec", "sample"), [(SMALL, SAMPLE), (EVENTS, event_sample())], ids=["frames", "events"])
def test_step_returns_the_loss_before_it_and_lowers_it(framework: str, spec: ForecasterSpec, sample: Sample) -> None:
    ours = trainer(framework, spec)
    before = ours.loss(sample)
    assert ours.step(sample, 1e-2, key=0) == pytest.approx(before, rel=1e-6)
    for key in range(1, 30):
        ours.step(sample, 1e-2, key)
    assert ours.loss(sample) < 0.95 * before


def test_key_decides_the_dropout_of_a_step(framework: str) -> None:
    ours, losses = trainer(framework), []
    start = ours.state()
    keys = [1, 1, 2]
    if framework == "keras":
        keys.append(2**40 + 1)  # the others take the last 32 bits
    for key in keys:
        ours.restore(start)
        losses.append(ours.step(SAMPLE, 1e-3, key))
    assert losses[0] == losses[1]
    assert len(set(losses)) == len(set(keys))
    assert ours.loss(SAMPLE) == ours.loss(SAMPLE)


RESUMED = [("mlx", "bfloat16"), *((framework, "float32") for framework in FRAMEWORKS)]


@pytest.mark.parametrize(
    ("framework", "precision"), [case for case in RESUMED if case[0] in FRAMEWORKS], indirect=["framework"]
)
@pytest.mark.parametrize(("spec", "sample"), [(SPEC, SAMPLE), (EVENTS, event_sample())], ids=["frames", "events"])
def test_resumed_run_is_the_whole_bit_for_bit(
    framework: str, precision: str, spec: ForecasterSpec, sample: Sample
) -> None:
    first, second = (trainer(framework, spec, seed=seed, precision=precision) for seed in (0, 9))
    states = [first.state()]
    for key in range(4):
        first.step(sample, 1e-2, key)
        states.append(first.state())
    second.step(sample, 1e-2, 77)  # nothing of this step is left after `restore`
    for start in (0, 2):
        second.restore(states[start])
        second.loss(sample)
        for key in range(start, 4):
            second.step(sample, 1e-2, key)
        same_state(second.state(), states[4])


def test_state_is_a_copy(framework: str) -> None:
    ours = trainer(framework, SMALL)
    ours.step(SAMPLE, 1e-2, 0)
    state = ours.state()
    before = {key: value.copy() for key, value in state.items()}
    ours.step(SAMPLE, 1e-2, 1)
    same_state(state, before)


def test_state_that_does_not_fit_is_refused_by_name(framework: str, refused) -> None:
    ours = trainer(framework, SMALL)
    ours.step(SAMPLE, 1e-2, 0)
    state, moment = ours.state(), FIRST_MOMENTS[framework]
    key, unknown = f"optimiser.head.weight.{moment}", f"optimiser.tail.weight.{moment}"
    changes = [
        (key, {k: v for k, v in state.items() if k != key}),
        (key, state | {key: state[key][:1]}),
        (unknown, state | {unknown: state[key]}),
        ("head.bias", {k: v for k, v in state.items() if k != "weights.head.bias"}),
    ]
    if framework == "mlx":
        changes.append(("optimiser.step", {k: v for k, v in state.items() if k != "optimiser.step"}))
    for argument, changed in changes:
        with refused(WeightsError, argument):
            ours.restore(changed)


def test_only_convolution_kernels_decay(framework: str) -> None:
    options = {"peephole": "pixel", "input_size": (4, 3), "norm": "layer"}
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3, **options)
    ours = trainer(framework, ForecasterSpec(encoder=stack, patch_size=2, **EVENT_OPTIONS), weight_decay=0.1)
    ours.restore({key: np.full_like(value, 0.5) for key, value in ours.state().items() if key.startswith("weights.")})
    ours.step(event_sample(WITHOUT_WEIGHT), 0.1, 0)  # no gradient: only the decay acts
    kernels = ("weight_ih", "weight_hh", "head.weight", "detail.0.weight", "detail.1.weight", "output.weight")
    for key, value in ours.weights().items():
        kernel = key.endswith(kernels)
        np.testing.assert_allclose(value, 0.5 * (1 - 0.1 * 0.1) if kernel else 0.5, rtol=1e-6, err_msg=key)


def test_gradient_is_clipped(framework: str) -> None:
    huge = Sample(SAMPLE.inputs, 1e6 * SAMPLE.targets, SAMPLE.weight)
    ours = trainer(framework, SMALL, clip_norm=0.5)
    ours.step(huge, 0.0, 0)
    moments = [value for key, value in ours.state().items() if key.endswith(f".{FIRST_MOMENTS[framework]}")]
    norm = np.sqrt(sum(np.square(moment / 0.1).sum() for moment in moments))  # the moment is a tenth of the gradient
    assert norm == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("output", ["frames", "events"])
def test_low_precision_keeps_weights_in_float32(framework: str, output: str) -> None:
    frames = SMALL if framework == "flax" else SPEC
    spec, sample = (frames, SAMPLE) if output == "frames" else (EVENTS, event_sample())
    ours, exact = trainer(framework, spec, precision="bfloat16"), trainer(framework, spec)
    loss = ours.loss(sample)
    assert loss != exact.loss(sample)
    assert loss == pytest.approx(exact.loss(sample), rel=5e-2)
    ours.step(sample, 1e-3, 0)
    assert {a.dtype for key, a in ours.state().items() if key != "optimiser.count"} == {np.dtype(np.float32)}
    assert ours.predict(sample, 2).dtype == np.float32
    assert "bfloat16" in ours.description
    assert "float32" in exact.description


def test_unknown_precision_is_refused(framework: str, refused) -> None:
    with refused(ConfigError, "precision"):
        trainer(framework, precision="float8")


def test_durations_and_gaps_reach_the_model(framework: str) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, duration_strategy="linear", memory_decay=True)
    frames, targets = array(2, 3, 1, 4, 4), array(2, 2, 1, 4, 4)
    times = [np.ones((2, n), dtype=np.float32) for n in (3, 2, 3)]
    ours = trainer(framework, ForecasterSpec(encoder=stack))
    base = ours.predict(Sample(frames, targets, targets, *times), 2)
    for n in range(3):
        changed = [3.0 * time if n == k else time for k, time in enumerate(times)]
        assert np.abs(ours.predict(Sample(frames, targets, targets, *changed), 2) - base).max() > 1e-4
