"""The stateful layer in PyTorch: modes of autograd and memory; the rest is in `tests/frontends`."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from convlstm.torch import ConvLSTM, StatefulConvLSTM

X = torch.randn(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def make() -> StatefulConvLSTM:
    return StatefulConvLSTM(ConvLSTM(1, 3, 3, num_layers=2))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_state_changed_in_place_does_not_change_the_next_call(mode) -> None:
    stream = make()
    with mode():
        whole = stream.layer(X)[0]
        first, (h, c) = stream(X[:, :2])
        with torch.no_grad():
            for part in (*h, *c):
                part.fill_(9.0)
        torch.testing.assert_close(torch.cat([first, stream(X[:, 2:])[0]], dim=1), whole)


def test_layer_called_in_inference_mode_can_be_trained() -> None:
    stream = make()
    with torch.inference_mode():
        stream(X)
    stream(X)[0].sum().backward()
    assert all(p.grad is not None for p in stream.parameters())


def test_training_over_many_calls() -> None:
    stream = make()
    optimiser = torch.optim.SGD(stream.parameters(), lr=0.1)
    for part in X.split(2, dim=1):
        output, (h_n, _) = stream(part)
        loss = output.square().mean() + h_n[0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert stream.last_state is not None
    assert not any(part.requires_grad for parts in stream.last_state for part in parts)


STREAM = """
import torch
from convlstm.torch import ConvLSTM, ConvLSTMCell, StatefulConvLSTM

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

torch.set_num_threads(1)
frame = torch.randn(1, 1, 1, 16, 16)
stream, cell, state = StatefulConvLSTM(ConvLSTM(1, 4, 3)), ConvLSTMCell(1, 4, 3), None
for step in range(11_000):
    if step == 1_000:
        before = resident()
    output, _ = stream(frame)  # with gradients on: the detached state alone must not hold the past
    with torch.inference_mode():
        state = cell(frame[0], state)
print(before, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_many_steps_take_no_more_memory_than_few() -> None:
    done = subprocess.run([sys.executable, "-c", STREAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 1.01 * before, f"resident memory grew from {before} to {after} kB"
