"""The forecaster module: what it returns, and how it behaves beside its definition (values: tests/parity)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.spec.presets import PRESETS
from convlstm.torch import Forecaster


def build(rollout: str = "states", stack: dict[str, Any] | None = None, **options: Any) -> Forecaster:
    encoder = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 5], kernel_size=3, **stack or {})
    return Forecaster(ForecasterSpec(encoder=encoder, patch_size=2, rollout=rollout, **options)).eval()


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_shapes_and_parts(rollout: str) -> None:
    model = build(rollout)
    assert model(torch.zeros(2, 3, 1, 8, 6), 4).shape == (2, 4, 1, 8, 6)
    assert (model.forecaster is None) == (rollout == "feedback")
    assert model.head.weight.shape == (4, 8 if rollout == "states" else 5, 1, 1)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_a_longer_horizon_goes_on_from_the_shorter(rollout: str) -> None:
    model, frames = build(rollout, residual=True), torch.randn(2, 3, 1, 8, 6)
    torch.testing.assert_close(model(frames, 6)[:, :2], model(frames, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mask", [[[1, 1, 0], [0, 0, 0]], [[0, 1, 0], [1, 1, 1]]])
def test_masked_frames_are_not_seen(mask: list) -> None:
    model, frames = build(residual=True), torch.randn(2, 3, 1, 8, 6)
    valid = torch.tensor(mask)
    forecasts = []
    for value in (0.0, float("nan")):
        dirty = torch.where(valid.bool()[:, :, None, None, None], frames, torch.tensor(value)).requires_grad_()
        forecasts.append(model(dirty, 3, mask=valid))  # bools, 0 and 1, or lists
        forecasts[-1].sum().backward()
        assert not dirty.grad[~valid.bool()].any()
    assert torch.equal(*forecasts)
    assert torch.equal(model(frames, 3, mask=mask), forecasts[0])


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "softplus"])
def test_the_output_activation_bounds_the_output(activation: str) -> None:
    forecast = build(output_activation=activation)(torch.randn(2, 3, 1, 8, 6) * 3, 4)
    assert (forecast >= 0).all()
    assert activation != "sigmoid" or (forecast <= 1).all()


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_rows_do_not_meet(rollout: str) -> None:
    model, frames = build(rollout, stack={"norm": "layer"}), torch.randn(3, 3, 1, 8, 6)
    together = model(frames, 3)
    for row in range(3):
        torch.testing.assert_close(model(frames[row : row + 1], 3)[0], together[row], rtol=0, atol=1e-5)


def test_a_spec_starts_from_one_seed() -> None:
    one, other = build(), build()
    one.reset_parameters(seed=5)
    other.reset_parameters(seed=5)
    frames = torch.randn(1, 2, 1, 4, 4)
    assert torch.equal(one(frames, 2), other(frames, 2))
    assert sorted(one.state_dict()) == sorted(dict(one.named_parameters()))


def test_autocast_of_a_forecaster() -> None:
    model, frames = build(residual=True), torch.randn(2, 3, 1, 8, 6)
    exact = model(frames, 3)
    with torch.autocast("cpu", torch.bfloat16):
        quick = model(frames, 3)
    torch.testing.assert_close(quick.float(), exact, rtol=5e-2, atol=5e-2)  # bfloat16: CONTRACT, Precision
    quick.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["shi2015-1x1-128-64-64", "openstl-kth"])
def test_presets_build_and_run(name: str) -> None:
    spec = PRESETS[name]
    model = Forecaster(spec).eval()
    size = 2 * spec.patch_size
    with torch.no_grad():
        forecast = model(torch.rand(1, 2, spec.frame_channels, size, size), 2)
    assert forecast.shape == (1, 2, spec.frame_channels, size, size)
