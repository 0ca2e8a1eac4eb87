"""What is random in training: rates, how long a draw lasts, where it comes from; and that everything learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.torch import ConvLSTM, Forecaster
from convlstm.torch.dropout import sample_masks

KINDS = ["input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c", "dropout"]


def spec(**options: Any) -> ConvLSTMSpec:
    return ConvLSTMSpec(**{"in_channels": 4, "hidden_channels": [8, 6], "kernel_size": 3} | options)


def drawn(kind: str, rate: float = 0.3, seed: int = 0, **options: Any) -> dict[Any, Tensor]:
    """Return every mask of one kind by layer and direction, for 5 steps of 3 rows of 16 × 16 frames."""
    one = spec(**{kind: rate} | options)
    like = torch.zeros(5, 3, 4, 16, 16)
    found = sample_masks(one, like, (16, 16), 5, torch.Generator().manual_seed(seed))
    assert found is not None
    if kind == "dropout":
        return {0: found.dropout[0]}
    part = kind.removesuffix("_dropout")
    return {key: getattr(masks, part) for key, masks in found.masks.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_scaling(kind: str) -> None:
    for mask in drawn(kind).values():
        values = set(mask.unique().tolist())
        kept = {0.0, 1.0} if kind.startswith("zoneout") else {0.0, torch.tensor(1.0 / 0.7).item()}
        assert values == kept
        share = (mask == (1.0 if kind.startswith("zoneout") else 0.0)).float().mean().item()
        # 3072 draws or more: five standard deviations of a share of 0.3 are 0.041
        assert share == pytest.approx(0.3, abs=0.041)


def test_shapes_tell_how_long_a_draw_lasts() -> None:
    one_a_call = {(0, "forward"): (3, 4, 16, 16), (1, "forward"): (3, 8, 16, 16)}
    assert {k: tuple(m.shape) for k, m in drawn("input_dropout").items()} == one_a_call
    assert {k: tuple(m.shape) for k, m in drawn("recurrent_dropout", stride=[(2, 2), (1, 1)]).items()} == {
        (0, "forward"): (3, 8, 8, 8),
        (1, "forward"): (3, 6, 8, 8),
    }
    one_a_step = {(0, "forward"): (5, 3, 8, 16, 16), (1, "forward"): (5, 3, 6, 16, 16)}
    for kind in ("zoneout_h", "zoneout_c"):
        assert {k: tuple(m.shape) for k, m in drawn(kind).items()} == one_a_step
    assert drawn("dropout")[0].shape == (5, 3, 8, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_differ_between_layers_directions_rows_and_steps(kind: str) -> None:
    masks = list(drawn(kind, direction="bidirectional", hidden_channels=[4, 4], merge="sum").values())
    for n, a in enumerate(masks):
        for b in masks[n + 1 :]:
            assert a.shape != b.shape or not torch.equal(a, b)
        assert not torch.equal(a[0], a[1])


def test_no_rate_no_draw() -> None:
    like = torch.zeros(5, 3, 4, 8, 8)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample_masks(spec(), like, (8, 8), 5, generator) is None
    assert torch.equal(generator.get_state(), before)
    found = sample_masks(spec(zoneout_h=0.5), like, (8, 8), 5, generator)
    assert found is not None
    masks = found.masks[0, "forward"]
    assert (masks.input, masks.recurrent, masks.zoneout_c, found.dropout) == (None, None, None, (None,))


def run(layer: ConvLSTM, x: Tensor, seed: int | None) -> Tensor:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return layer(x, generator=generator)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_decides_and_nothing_else(kind: str) -> None:
    layer, x = ConvLSTM(4, 8, 3, 2, **{kind: 0.5}), torch.randn(2, 4, 4, 6, 6)
    first = run(layer, x, 7)
    torch.rand(3)  # PyTorch's global generator is not asked
    assert torch.equal(run(layer, x, 7), first)
    assert not torch.equal(run(layer, x, 8), first)
    state = torch.get_rng_state()
    run(layer, x, 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    a = run(layer, x, None)
    torch.manual_seed(3)
    assert torch.equal(run(layer, x, None), a)
    assert not torch.equal(run(layer, x, None), a)
    layer.eval()
    assert torch.equal(run(layer, x, 7), run(layer, x, 8))


def test_evaluation_without_zoneout_is_the_plain_layer() -> None:
    random = ConvLSTM(4, 8, 3, 2, input_dropout=0.5, recurrent_dropout=0.5, dropout=0.5).eval()
    plain = ConvLSTM(4, 8, 3, 2)
    plain.load_state_dict(random.state_dict())
    x = torch.randn(2, 4, 4, 6, 6)
    torch.testing.assert_close(random(x)[0], plain(x)[0], rtol=0, atol=0)


def test_zoneout_keeps_points_of_the_old_state() -> None:
    layer = ConvLSTM(1, 4, 3, zoneout_h=0.4)
    x = torch.randn(2, 12, 1, 8, 8)
    output, _ = layer(x, generator=torch.Generator().manual_seed(0))
    kept = (output[:, 1:] == output[:, :-1]).float().mean().item()
    # 5632 points: five standard deviations of a share of 0.4 are 0.033
    assert kept == pytest.approx(0.4, abs=0.033)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_zoneout_of_a_forecaster_and_its_generator(rollout: str) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 3], kernel_size=3, zoneout_h=0.3, dropout=0.3)
    model, frames = Forecaster(ForecasterSpec(encoder=stack, rollout=rollout)), torch.randn(2, 3, 1, 6, 6)
    runs = [model(frames, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    quiet = torch.random.get_rng_state()
    model(frames, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), quiet)
    model.eval()
    assert torch.equal(model(frames, 4), model(frames, 4))


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
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    given: dict[str, Any] = {}
    if "duration_strategy" in options:
        given["durations"] = torch.rand(2, 4) * 3 + 0.1
    if options.get("memory_decay"):
        given["gaps"] = (torch.rand(2, 4) + 1.5, torch.rand(2, 4) + 1.5)
    for _ in range(2):
        optimiser.zero_grad()
        output, (h, c) = layer(torch.randn(2, 4, 2, 6, 6), **given)
        (output.pow(2).sum() + sum(a.pow(2).sum() for a in c) + sum(a.sum() for a in h)).backward()
        optimiser.step()
    for key, parameter in layer.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_every_parameter_of_a_forecaster_learns_within_two_steps(rollout: str) -> None:
    stack = ConvLSTMSpec(
        in_channels=4,
        hidden_channels=[3, 4],
        kernel_size=3,
        peephole="channel",
        norm="layer",
        duration_strategy="mlp" if rollout == "states" else "none",
        memory_decay=rollout == "states",
    )
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, rollout=rollout, residual=True))
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    durations, lead = torch.rand(2, 3) * 3 + 0.1, torch.rand(2, 4) * 3 + 0.1
    for _ in range(2):
        optimiser.zero_grad()
        frames = torch.randn(2, 3, 1, 8, 8)
        times = {"durations": durations, "lead_durations": lead, "gaps": durations + 1.0}
        forecast = model(frames, 4, **(times if rollout == "states" else {}))
        forecast.pow(2).sum().backward()
        optimiser.step()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_b25_a_long_run_of_a_trained_size_stays_finite() -> None:
    layer = ConvLSTM(1, 4, 3, activation="relu", norm="layer")
    output, (_, c) = layer(torch.randn(1, 400, 1, 4, 4))
    output.pow(2).mean().backward()
    assert output.isfinite().all()
    assert c[0].isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_it_learns_to_remember() -> None:
    """The layer recalls the first of six frames, which no convolution over the last one could."""
    torch.manual_seed(0)
    layer = ConvLSTM(1, 8, 3)
    head = torch.nn.Conv2d(8, 1, 1)
    optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], 1e-2)
    losses = []
    for _ in range(120):
        x = torch.randn(8, 6, 1, 6, 6)
        loss = (head(layer(x)[0][:, -1]) - x[:, 0]).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 0.8  # the variance of what is to be recalled is 1
    assert sum(losses[-10:]) / 10 < 0.35
