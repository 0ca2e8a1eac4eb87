"""What is particular to the forecaster and the layer in PyTorch; the rest is in `tests/frontends`."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.torch import ConvLSTM, Forecaster, forecaster
from convlstm.torch.forecaster import _enlarge
from convlstm.weights.canonical import parameter_count


def build(rollout: str, **options: float) -> Forecaster:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 3], kernel_size=3, **options)
    return Forecaster(ForecasterSpec(encoder=stack, patch_size=2, rollout=rollout))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_generator_alone_decides_the_masks(rollout: str) -> None:
    model, frames = build(rollout, zoneout_h=0.5).train(), torch.rand(2, 3, 1, 8, 8)
    before = torch.get_rng_state()
    one, again, other = (model(frames, 2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_parameter_count_is_that_of_the_module(rollout: str) -> None:
    model = build(rollout)
    assert parameter_count(model.spec) == sum(parameter.numel() for parameter in model.parameters())


def test_final_states_are_tuples_by_layer() -> None:
    _, (h, c) = ConvLSTM(1, [2, 3], 3)(torch.rand(2, 3, 1, 8, 8))
    assert isinstance(h, tuple)
    assert isinstance(c, tuple)
    assert [tuple(part.shape) for part in h] == [(2, 2, 8, 8), (2, 3, 8, 8)]


@pytest.mark.parametrize("padding", [0, 1])
def test_stride_of_one_number_gives_the_size_of_a_convolution(padding: int) -> None:
    layer, x = ConvLSTM(1, 3, 3, stride=2, padding=padding), torch.rand(2, 3, 1, 9, 10)
    size = F.conv2d(x[:, 0], torch.ones(1, 1, 3, 3), stride=2, padding=padding).shape[2:]
    assert layer(x)[0].shape[3:] == size


def events(**options: object) -> Forecaster:
    stack = ConvLSTMSpec(in_channels=8, hidden_channels=[3, 3], kernel_size=3)
    detail = {"detail_channels": 4, "detail_frames": 2, "thresholds": (0.1, 1.0, 5.0)}
    return Forecaster(ForecasterSpec(encoder=stack, frame_channels=2, patch_size=2, **{**detail, **options}))


def test_a_forecast_without_gradients_is_the_same_with_one_lead_time_in_memory() -> None:
    model, frames = events().eval(), torch.rand(2, 3, 2, 8, 12)
    shapes = []
    model.output.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        lean = model(frames, 4)
    torch.testing.assert_close(lean, model(frames, 4), rtol=0, atol=1e-6)
    assert shapes == [(2, 3, 8, 12)] * 4 + [(8, 3, 8, 12)]


def test_a_forecast_of_events_exports_with_a_dynamic_grid() -> None:
    model = events().eval()
    height, width = (torch.export.Dim(name, min=2, max=64) for name in ("height", "width"))
    shapes = {"frames": {3: 2 * height, 4: 2 * width}, "horizon": None}
    program = torch.export.export(model, (torch.rand(1, 3, 2, 8, 12), 4), dynamic_shapes=shapes, strict=False)
    frames = torch.rand(1, 3, 2, 10, 8)
    torch.testing.assert_close(program.module()(frames, 4), model(frames, 4), rtol=0, atol=1e-5)


def test_events_are_learned_by_more_training() -> None:
    """Rain that stays where it is: the cross-entropy falls far below that of the climatology."""
    torch.manual_seed(0)
    model = events().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    thresholds = torch.tensor([0.1, 1.0, 5.0]).reshape(3, 1, 1)
    losses = []
    for _ in range(60):
        field = torch.distributions.Exponential(0.7).sample((4, 1, 1, 8, 8))
        frames = torch.cat([field, torch.ones_like(field)], dim=2).expand(-1, 3, -1, -1, -1)
        happened = (field >= thresholds).float().expand(-1, 2, -1, -1, -1)
        loss = F.binary_cross_entropy_with_logits(model(frames, 2), happened)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    chance = torch.exp(-0.7 * thresholds)
    climatology = F.binary_cross_entropy(chance, chance)
    assert sum(losses[-5:]) / 5 < 0.5 * climatology


def test_a_forecaster_is_built_from_the_dict_that_a_configuration_file_holds() -> None:
    spec = ForecasterSpec(
        encoder=ConvLSTMSpec(in_channels=4, hidden_channels=[4, 5], kernel_size=3), patch_size=2, thresholds=(0.1, 1.0)
    )
    for plain in (json.loads(json.dumps(spec.to_dict())), json.loads(json.dumps(asdict(spec)))):
        assert Forecaster(plain).spec == spec


@pytest.mark.parametrize("limit", [1, 128])
def test_the_interpolation_in_training_is_that_in_inference(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with matrices up to the limit of the grid, and PyTorch's operator beyond it."""
    monkeypatch.setattr("convlstm.torch.forecaster._LONGEST_PRODUCT", limit)
    coarse = torch.randn(2, 3, 4, 7, dtype=torch.float64, requires_grad=True)
    trained = _enlarge(coarse, 12, 21)
    with torch.no_grad():
        torch.testing.assert_close(trained, _enlarge(coarse, 12, 21), rtol=0, atol=1e-14)
    slope = torch.randn_like(trained)
    (gradient,) = torch.autograd.grad(trained, coarse, slope)
    operator = F.interpolate(coarse, size=(12, 21), mode="bilinear", align_corners=False)
    torch.testing.assert_close(gradient, torch.autograd.grad(operator, coarse, slope)[0], rtol=0, atol=1e-13)
    assert ("Upsample" in type(trained.grad_fn).__name__) == (limit == 1)


def test_an_inference_releases_the_memory_of_the_encoder_before_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    released = []
    monkeypatch.setattr(forecaster, "release_memory", lambda: released.append(True))
    model, frames = events(), torch.zeros(1, 3, 2, 8, 8)
    model(frames, horizon=2)
    assert not released  # the backward pass needs it
    with torch.no_grad():
        model(frames, horizon=2)
    assert len(released) == 1
