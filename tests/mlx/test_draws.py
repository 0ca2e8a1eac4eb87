"""What is random in training: rates, how long a draw lasts, where it comes from; and that everything learns."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers
from mlx.utils import tree_flatten

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.mlx import ConvLSTM, Forecaster, load_canonical, to_canonical
from convlstm.mlx.dropout import sample_masks

KINDS = ["input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c", "dropout"]


def spec(**options: Any) -> ConvLSTMSpec:
    return ConvLSTMSpec(**{"in_channels": 4, "hidden_channels": [8, 6], "kernel_size": 3} | options)


def drawn(kind: str, rate: float = 0.3, seed: int = 0, **options: Any) -> dict[Any, mx.array]:
    """Return every mask of one kind by layer and direction, for 5 steps of 3 rows of 16 × 16 frames."""
    found = sample_masks(spec(**{kind: rate} | options), mx.zeros((5, 3)), (16, 16), 5, mx.random.key(seed))
    assert found is not None
    if kind == "dropout":
        return {0: found.dropout[0]}
    return {key: getattr(masks, kind.removesuffix("_dropout")) for key, masks in found.masks.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_scaling(kind: str) -> None:
    zoneout = kind.startswith("zoneout")
    for mask in drawn(kind).values():
        assert set(np.unique(mask).tolist()) == ({0.0, 1.0} if zoneout else {0.0, np.float32(1.0 / 0.7).item()})
        share = (mask == (1.0 if zoneout else 0.0)).astype(mx.float32).mean().item()
        # 3072 draws or more: five standard deviations of a share of 0.3 are 0.041
        assert share == pytest.approx(0.3, abs=0.041)


def test_shapes_tell_how_long_a_draw_lasts() -> None:
    one_a_call = {(0, "forward"): (3, 16, 16, 4), (1, "forward"): (3, 16, 16, 8)}
    assert {k: m.shape for k, m in drawn("input_dropout").items()} == one_a_call
    assert {k: m.shape for k, m in drawn("recurrent_dropout", stride=[(2, 2), (1, 1)]).items()} == {
        (0, "forward"): (3, 8, 8, 8),
        (1, "forward"): (3, 8, 8, 6),
    }
    one_a_step = {(0, "forward"): (5, 3, 16, 16, 8), (1, "forward"): (5, 3, 16, 16, 6)}
    for kind in ("zoneout_h", "zoneout_c"):
        assert {k: m.shape for k, m in drawn(kind).items()} == one_a_step
    assert drawn("dropout")[0].shape == (5, 3, 16, 16, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_differ_between_layers_directions_rows_and_steps(kind: str) -> None:
    masks = list(drawn(kind, direction="bidirectional", hidden_channels=[4, 4], merge="sum").values())
    for n, a in enumerate(masks):
        assert not any(mx.array_equal(a, b) for b in masks[n + 1 :])
        assert not mx.array_equal(a[0], a[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_draw_leaves_the_others_as_they_were(kind: str) -> None:
    other = "zoneout_c" if kind == "input_dropout" else "input_dropout"
    for key, mask in drawn(kind).items():
        assert mx.array_equal(drawn(kind, **{other: 0.5})[key], mask)


def test_no_rate_no_draw() -> None:
    like = mx.zeros((5, 3))
    assert sample_masks(spec(), like, (8, 8), 5, mx.random.key(0)) is None
    found = sample_masks(spec(zoneout_h=0.5), like, (8, 8), 5, None)
    assert found is not None
    masks = found.masks[0, "forward"]
    assert (masks.input, masks.recurrent, masks.zoneout_c, found.dropout) == (None, None, None, (None,))


def run(layer: ConvLSTM, x: mx.array, seed: int | None) -> mx.array:
    return layer(x, key=None if seed is None else mx.random.key(seed))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_decides_and_nothing_else(kind: str) -> None:
    layer, x = ConvLSTM(4, 8, 3, 2, **{kind: 0.5}), mx.random.normal((2, 4, 6, 6, 4))
    first = run(layer, x, 7)
    mx.random.normal((3,))  # MLX's global generator is not asked
    assert mx.array_equal(run(layer, x, 7), first)
    assert not mx.array_equal(run(layer, x, 8), first)
    mx.random.seed(3)
    a = run(layer, x, None)
    mx.random.seed(3)
    assert mx.array_equal(run(layer, x, None), a)
    assert not mx.array_equal(run(layer, x, None), a)
    layer.eval()
    assert mx.array_equal(run(layer, x, 7), run(layer, x, 8))


def test_given_draws_are_taken_instead() -> None:
    layer, x = ConvLSTM(4, [8, 6], 3, recurrent_dropout=0.5), mx.random.normal((3, 5, 16, 16, 4))
    draws = sample_masks(layer.spec, mx.zeros((5, 3)), (16, 16), 5, mx.random.key(7))
    assert mx.array_equal(layer(x, draws=draws)[0], run(layer, x, 7))


def test_evaluation_without_zoneout_is_the_plain_layer() -> None:
    random = ConvLSTM(4, 8, 3, 2, input_dropout=0.5, recurrent_dropout=0.5, dropout=0.5).eval()
    plain = ConvLSTM(4, 8, 3, 2)
    load_canonical(plain, to_canonical(random))
    x = mx.random.normal((2, 4, 6, 6, 4))
    assert mx.array_equal(random(x)[0], plain(x)[0])


def test_zoneout_keeps_points_of_the_old_state() -> None:
    layer = ConvLSTM(1, 4, 3, zoneout_h=0.4)
    output, _ = layer(mx.random.normal((2, 12, 8, 8, 1)), key=mx.random.key(0))
    kept = (output[:, 1:] == output[:, :-1]).astype(mx.float32).mean().item()
    # 5632 points: five standard deviations of a share of 0.4 are 0.033
    assert kept == pytest.approx(0.4, abs=0.033)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_zoneout_of_a_forecaster_and_its_key(rollout: str) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 3], kernel_size=3, zoneout_h=0.3, dropout=0.3)
    model, frames = Forecaster(ForecasterSpec(encoder=stack, rollout=rollout)), mx.random.normal((2, 3, 6, 6, 1))
    runs = [model(frames, 4, key=mx.random.key(seed)) for seed in (0, 0, 1)]
    assert mx.array_equal(runs[0], runs[1])
    assert not mx.array_equal(runs[0], runs[2])
    mx.random.seed(2)
    again = model(frames, 4)
    assert not mx.array_equal(again, model(frames, 4))
    model.eval()
    assert mx.array_equal(model(frames, 4), model(frames, 4))


EVERYTHING: dict[str, dict[str, Any]] = {
    "plain": {},
    "peepholes and norm": {"peephole": "channel", "norm": "group", "norm_groups": 2},
    "pixel peepholes": {"peephole": "pixel", "input_size": 6},
    "scalar": {"duration_strategy": "scalar", "memory_decay": True},
    "exp": {"duration_strategy": "exp", "duration_hidden": (5, 4), "duration_features": "channel"},
    "mlp": {"duration_strategy": "mlp", "memory_decay": True},
    "relu network": {"duration_strategy": "mlp", "duration_activation": "relu"},
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_parameter_learns_within_two_steps(name: str) -> None:
    options = EVERYTHING[name]
    layer = ConvLSTM(2, [4, 4], 3, bidirectional=True, **options)
    optimiser = optimizers.SGD(0.1)
    given: dict[str, Any] = {}
    if "duration_strategy" in options:
        given["durations"] = mx.random.uniform(0.1, 3.1, (2, 4))
    if options.get("memory_decay"):
        given["gaps"] = (mx.random.uniform(1.5, 2.5, (2, 4)), mx.random.uniform(1.5, 2.5, (2, 4)))

    def loss(x: mx.array) -> mx.array:
        output, (h, c) = layer(x, **given)
        return output.square().sum() + sum(a.square().sum() for a in c) + sum(a.sum() for a in h)

    for _ in range(2):
        _, gradients = nn.value_and_grad(layer, loss)(mx.random.normal((2, 4, 6, 6, 2)))
        optimiser.update(layer, gradients)
    found = dict(tree_flatten(gradients))
    assert found.keys() == to_canonical(layer).keys()
    for key, gradient in found.items():
        assert mx.abs(gradient).max() > 0, key


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_every_parameter_of_a_forecaster_learns_within_two_steps(rollout: str) -> None:
    aware = rollout == "states"
    stack = ConvLSTMSpec(
        in_channels=4,
        hidden_channels=[3, 4],
        kernel_size=3,
        peephole="channel",
        norm="layer",
        duration_strategy="mlp" if aware else "none",
        memory_decay=aware,
    )
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, rollout=rollout, residual=True))
    optimiser = optimizers.SGD(0.1)
    durations, lead = mx.random.uniform(0.1, 3.1, (2, 3)), mx.random.uniform(0.1, 3.1, (2, 4))
    given = {"durations": durations, "lead_durations": lead, "gaps": durations + 1.0} if aware else {}
    for _ in range(2):
        work = nn.value_and_grad(model, lambda x: model(x, 4, **given).square().sum())
        _, gradients = work(mx.random.normal((2, 3, 8, 8, 1)))
        optimiser.update(model, gradients)
    found = dict(tree_flatten(gradients))
    assert found.keys() == to_canonical(model).keys()
    for key, gradient in found.items():
        assert mx.abs(gradient).max() > 0, key


def test_b25_a_long_run_stays_finite() -> None:
    layer = ConvLSTM(1, 4, 3, activation="relu", norm="layer")
    x = mx.random.normal((1, 200, 4, 4, 1))
    _, gradients = nn.value_and_grad(layer, lambda x: layer(x)[0].square().mean())(x)
    assert all(mx.isfinite(a).all() for _, a in [*tree_flatten(gradients), ("c", layer(x)[1][1][0])])


def test_it_learns_to_remember() -> None:
    """The layer recalls the first of six frames, which no convolution over the last one could."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = ConvLSTM(1, 8, 3), nn.Linear(8, 1)

        def __call__(self, x: mx.array) -> mx.array:
            return (self.head(self.layer(x)[0][:, -1]) - x[:, 0]).square().mean()

    model, optimiser, losses = Model(), optimizers.Adam(1e-2, bias_correction=True), []
    work = nn.value_and_grad(model, model)
    for _ in range(120):
        loss, gradients = work(mx.random.normal((8, 6, 6, 6, 1)))
        optimiser.update(model, gradients)
        mx.eval(model.parameters(), optimiser.state)
        losses.append(loss.item())
    assert losses[0] > 0.8  # the variance of what is to be recalled is 1
    assert sum(losses[-10:]) / 10 < 0.35
