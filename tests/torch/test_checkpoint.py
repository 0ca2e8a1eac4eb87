"""Activation checkpointing in time: the same numbers from √T of the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm.errors import SpecError
from convlstm.torch import ConvLSTM

OPTIONS: dict[str, dict[str, Any]] = {
    "plain cell": {},
    "stack": {"hidden_channels": [3, 2], "peephole": "channel", "dropout": 0.4, "zoneout_h": 0.3},
    "reverse": {"hidden_channels": [3, 2], "direction": "reverse", "masked_output": "hold"},
    "two ways": {"hidden_channels": [3, 2], "bidirectional": True, "merge": "separate", "masked_output": "hold"},
    "durations": {"duration_strategy": "mlp", "memory_decay": True, "bidirectional": True, "zoneout_c": 0.2},
}


def run(layer: ConvLSTM, x: Tensor, mask: Tensor | None, **given: Any) -> list[Tensor]:
    """Return outputs, states and gradients of a sum that weighs every value differently."""
    x = x.clone().requires_grad_()
    output, (h, c) = layer(x, mask=mask, generator=torch.Generator().manual_seed(4), **given)
    results = [*(output if isinstance(output, tuple) else (output,)), *h, *c]
    random = torch.Generator().manual_seed(5)
    loss = sum((torch.rand(r.shape, generator=random, dtype=r.dtype) * r).sum() for r in results)
    return [*results, *torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True)]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("checkpoint", [True, 1, 3, 50])
def test_it_changes_no_number(name: str, masked: bool, checkpoint: bool | int) -> None:
    options = {"in_channels": 1, "hidden_channels": 3, "kernel_size": 3, "dtype": torch.float64} | OPTIONS[name]
    layer, twin = ConvLSTM(**options), ConvLSTM(checkpoint=checkpoint, **options)
    twin.load_state_dict(layer.state_dict())
    x, mask = torch.randn(2, 7, 1, 5, 4, dtype=torch.float64), None
    if masked:
        mask = torch.tensor([[0, 1, 1, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0, 0]], dtype=torch.bool)
    steps = torch.rand(2, 7, dtype=torch.float64) + 0.5
    given = {"durations": steps, "gaps": (steps, steps + 0.3)} if name == "durations" else {}
    for a, b in zip(run(layer, x, mask, **given), run(twin, x, mask, **given), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_it_changes_no_number_without_input(direction: str) -> None:
    layer = ConvLSTM(0, [3, 2], 3, direction=direction, dtype=torch.float64)
    twin = ConvLSTM(0, [3, 2], 3, direction=direction, dtype=torch.float64, checkpoint=3)
    twin.load_state_dict(layer.state_dict())
    channels = [n for n in (3, 2) for _ in layer.spec.directions]
    h, c = (tuple(torch.randn(2, n, 5, 4, dtype=torch.float64).requires_grad_() for n in channels) for _ in "hc")
    found = []
    for one in (layer, twin):
        output, (h_n, _) = one(None, (h, c), steps=7)
        loss = (output**2).sum() + sum((part**3).sum() for part in h_n)
        found.append([output, *torch.autograd.grad(loss, [*h, *c, *one.parameters()])])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def kept(layer: ConvLSTM, steps: int) -> int:
    """Return the bytes that are held between forward and backward, beyond input and output."""
    x = torch.zeros(1, steps, 1, 8, 8, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        output, _ = layer(x)
    held = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    return held - output.nbytes


@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"peephole": "channel", "norm": "layer"}])
def test_what_is_kept_grows_as_the_root_of_time(options: dict[str, Any]) -> None:
    layer = ConvLSTM(1, 4, kernel_size=3, checkpoint=True, **options)
    plain = ConvLSTM(1, 4, kernel_size=3, **options)
    small, large = kept(layer, 16), kept(layer, 256)
    assert large < 5 * small, "16 times the steps keep 4 times as much"
    assert large < kept(plain, 256) / 10


def test_it_is_off_without_gradients_and_prints_itself() -> None:
    layer = ConvLSTM(1, 2, 3, checkpoint=4)
    assert "checkpoint=4" in repr(layer)
    with torch.no_grad():
        layer(torch.zeros(1, 3, 1, 4, 4))
    assert "checkpoint" not in repr(ConvLSTM(1, 2, 3))


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "yes"])
def test_wrong_values(wrong: Any, refused) -> None:
    with refused(SpecError, "checkpoint"):
        ConvLSTM(1, 2, 3, checkpoint=wrong)
