"""What is particular to the forecaster and the layer in PyTorch; the rest is in `tests/frontends`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.torch import ConvLSTM, Forecaster
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
