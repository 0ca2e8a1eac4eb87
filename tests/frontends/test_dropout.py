"""What is random in training: rates, how long a mask lasts, what seeds it; and that every parameter learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec

KINDS = ["input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c", "dropout"]
PER_STEP = ["zoneout_h", "zoneout_c", "dropout"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


def spec_of(**options: Any) -> ConvLSTMSpec:
    return ConvLSTMSpec(**{"in_channels": 4, "hidden_channels": [8, 6], "kernel_size": 3} | options)


def sampled(frontend, kind: str, steps: int = 5, **options: Any) -> dict[tuple[int, str], np.ndarray]:
    """Return every mask of one kind by layer and direction, for some steps of 3 rows of 16 × 16 frames."""
    masks = frontend.sample_masks(spec_of(**{kind: 0.3} | options), 3, (16, 16), steps, seed=0)
    if kind == "dropout":
        return {(0, "between"): frontend.channels_first(masks.dropout[0])}
    kinds = {place: getattr(layer, kind.removesuffix("_dropout")) for place, layer in masks.masks.items()}
    return {place: frontend.channels_first(mask) for place, mask in kinds.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_scaling(kind: str, frontend) -> None:
    is_zoneout = kind.startswith("zoneout")
    for mask in sampled(frontend, kind).values():
        values = {0.0, 1.0} if is_zoneout else {0.0, np.float32(1.0 / 0.7).item()}
        assert set(np.unique(mask).astype(float).tolist()) == values
        share = np.mean(mask == (1.0 if is_zoneout else 0.0))
        # 3072 values or more: five standard deviations of a share of 0.3 are 0.041
        assert share == pytest.approx(0.3, abs=0.041)


def test_shapes_of_masks_per_call_and_per_step(frontend) -> None:
    def shapes(kind: str, **options: Any) -> dict[Any, tuple[int, ...]]:
        return {key: mask.shape for key, mask in sampled(frontend, kind, **options).items()}

    one_a_call = {(0, "forward"): (3, 4, 16, 16), (1, "forward"): (3, 8, 16, 16)}
    assert shapes("input_dropout") == one_a_call
    strided = {(0, "forward"): (3, 8, 8, 8), (1, "forward"): (3, 6, 8, 8)}
    assert shapes("recurrent_dropout", stride=[(2, 2), (1, 1)]) == strided
    one_a_step = {(0, "forward"): (3, 5, 8, 16, 16), (1, "forward"): (3, 5, 6, 16, 16)}
    assert shapes("zoneout_h") == shapes("zoneout_c") == one_a_step
    assert shapes("dropout") == {(0, "between"): (3, 5, 8, 16, 16)}


@pytest.mark.parametrize("kind", KINDS)
def test_masks_differ_between_layers_directions_rows_and_steps(kind: str, frontend) -> None:
    options = {"direction": "bidirectional", "hidden_channels": [4, 4], "merge": "sum"}
    masks = list(sampled(frontend, kind, **options).values())
    for n, mask in enumerate(masks):
        assert not any(np.array_equal(mask, other) for other in masks[n + 1 :])
        assert not np.array_equal(mask[0], mask[1])
        assert kind not in PER_STEP or not np.array_equal(mask[:, 0], mask[:, 1])


@pytest.mark.parametrize("frontend", ["mlx", "flax"], indirect=True)  # PyTorch samples one mask after another
@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_one_kind_do_not_depend_on_another(kind: str, frontend) -> None:
    other = "zoneout_c" if kind == "input_dropout" else "input_dropout"
    for key, mask in sampled(frontend, kind, **{other: 0.5}).items():
        np.testing.assert_array_equal(sampled(frontend, kind)[key], mask)


@pytest.mark.parametrize("frontend", ["flax"], indirect=True)
@pytest.mark.parametrize("kind", PER_STEP)
def test_longer_sequence_begins_with_the_same_masks(kind: str, frontend) -> None:
    short, long = sampled(frontend, kind, steps=3), sampled(frontend, kind, steps=5)
    for key, mask in short.items():
        np.testing.assert_array_equal(mask, long[key][:, :3])


def test_no_rate_samples_no_mask(frontend) -> None:
    assert not frontend.sample_masks(spec_of(), 3, (8, 8), 5, seed=0).masks
    found = frontend.sample_masks(spec_of(zoneout_h=0.5), 3, (8, 8), 5, seed=0)
    masks = next(iter(found.masks.values()))
    assert (masks.input, masks.recurrent, masks.zoneout_c, found.dropout) == (None, None, None, (None,))


@pytest.mark.parametrize("kind", KINDS)
def test_seed_of_a_call_decides_its_masks(kind: str, frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 4, 8, 3, 2, **{kind: 0.5}), normal(2, 4, 4, 6, 6)
    one, same, other = (frontend.call(layer, x, seed=seed).output for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (frontend.call(layer, x).output != frontend.call(layer, x).output).any()
    layer.eval()
    np.testing.assert_array_equal(frontend.call(layer, x, seed=7).output, frontend.call(layer, x, seed=8).output)


def test_dropout_does_nothing_in_evaluation(frontend) -> None:
    rates = {"input_dropout": 0.5, "recurrent_dropout": 0.5, "dropout": 0.5}
    layers = [frontend.build("ConvLSTM", 4, 8, 3, 2, **options) for options in (rates, {})]
    frontend.load_canonical(layers[1], frontend.to_canonical(layers[0]))
    layers[0].eval()
    x = normal(2, 4, 4, 6, 6)
    np.testing.assert_array_equal(*(frontend.call(layer, x).output for layer in layers))


def test_zoneout_keeps_points_of_the_old_state(frontend) -> None:
    layer = frontend.build("ConvLSTM", 1, 4, 3, zoneout_h=0.4)
    output = frontend.call(layer, normal(2, 12, 1, 8, 8), seed=0).output
    share = np.mean(output[:, 1:] == output[:, :-1])
    # 5632 points: five standard deviations of a share of 0.4 are 0.033
    assert share == pytest.approx(0.4, abs=0.033)


@pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_global_seed_decides_calls_without_a_seed(kind: str, frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 4, 8, 3, 2, **{kind: 0.5}), normal(2, 4, 4, 6, 6)
    frontend.seed(3)
    first = frontend.call(layer, x).output
    assert (frontend.call(layer, x).output != first).any()
    frontend.seed(3)
    frontend.call(layer, x, seed=7)  # leaves the global generator as it is
    np.testing.assert_array_equal(frontend.call(layer, x).output, first)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_seed_decides_the_masks_of_a_forecaster(rollout: str, frontend) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 3], kernel_size=3, zoneout_h=0.3, dropout=0.3)
    model = frontend.build("Forecaster", ForecasterSpec(encoder=stack, rollout=rollout))
    frames = normal(2, 3, 1, 6, 6)
    one, same, other = (frontend.forecast(model, frames, 4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (frontend.forecast(model, frames, 4) != frontend.forecast(model, frames, 4)).any()
    model.eval()
    np.testing.assert_array_equal(*(frontend.forecast(model, frames, 4) for _ in range(2)))


LEARNING: dict[str, dict[str, Any]] = {
    "plain": {},
    "peepholes and norm": {"peephole": "channel", "norm": "group", "norm_groups": 2},
    "pixel peepholes": {"peephole": "pixel", "input_size": 6},
    "scalar": {"duration_strategy": "scalar", "memory_decay": True},
    "exp": {"duration_strategy": "exp", "duration_hidden": (5, 4), "duration_features": "channel"},
    "mlp": {"duration_strategy": "mlp", "memory_decay": True},
    "relu network": {"duration_strategy": "mlp", "duration_activation": "relu"},
}


def check_that_all_learn(frontend, module: Any, loss: Any, shape: tuple[int, ...]) -> None:
    """Take two steps of gradient descent, and hold every parameter to a gradient that is not zero."""
    derive = frontend.gradient(module, loss)
    for step in range(2):
        gradients, _ = derive(normal(*shape, seed=step))
        frontend.descend(module, gradients, 0.1)
    assert gradients.keys() == frontend.to_canonical(module).keys()
    for key, gradient in gradients.items():
        assert np.abs(gradient).max() > 0, key


@pytest.mark.parametrize("name", LEARNING)
def test_every_parameter_learns_within_two_steps(name: str, frontend) -> None:
    options, given = LEARNING[name], {}
    layer = frontend.build("ConvLSTM", 2, [4, 4], 3, direction="bidirectional", **options)
    if "duration_strategy" in options:
        given["durations"] = uniform(0.1, 3.1, 2, 4)
    if options.get("memory_decay"):
        given["gaps"] = (uniform(1.5, 2.5, 2, 4), uniform(1.5, 2.5, 2, 4, seed=1))
    given = {key: frontend.converted(value) for key, value in given.items()}

    def loss(call: Any, x: Any) -> Any:
        output, (h, c) = call(x, **given)
        return (output * output).sum() + sum((part * part).sum() for part in c) + sum(part.sum() for part in h)

    check_that_all_learn(frontend, layer, loss, (2, 4, 2, 6, 6))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_every_parameter_of_a_forecaster_learns(rollout: str, frontend) -> None:
    stack = ConvLSTMSpec(
        in_channels=4,
        hidden_channels=[3, 4],
        kernel_size=3,
        peephole="channel",
        norm="layer",
        duration_strategy="mlp" if rollout == "states" else "none",
        memory_decay=rollout == "states",
    )
    model = frontend.build("Forecaster", ForecasterSpec(encoder=stack, patch_size=2, rollout=rollout, residual=True))
    given = {}
    if rollout == "states":
        durations, lead = uniform(0.1, 3.1, 2, 3), uniform(0.1, 3.1, 2, 4)
        given = {"durations": durations, "lead_durations": lead, "gaps": durations + 1}
        given = {key: frontend.converted(value) for key, value in given.items()}

    def loss(call: Any, frames: Any) -> Any:
        forecast = call(frames, 4, **given)
        return (forecast * forecast).sum()

    check_that_all_learn(frontend, model, loss, (2, 3, 1, 8, 8))


@pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)
def test_long_sequence_with_relu_stays_finite(frontend) -> None:
    steps = {"torch": 400, "mlx": 200}[frontend.name]
    layer, x = frontend.build("ConvLSTM", 1, 4, 3, activation="relu", norm="layer"), normal(1, steps, 1, 4, 4)
    weights, of_x = frontend.gradient(layer, lambda call, x: (call(x)[0] ** 2).mean())(x)
    for array in (*frontend.call(layer, x).arrays, *weights.values(), of_x):
        assert np.isfinite(array).all()
