"""A layer that goes on where its last call ended."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from convlstm.errors import SpecError, StateError
from convlstm.torch import ConvLSTM, ConvLSTMCell, StatefulConvLSTM

X = torch.randn(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def make(**options) -> StatefulConvLSTM:
    return StatefulConvLSTM(ConvLSTM(1, 3, 3, num_layers=2, **options))


def test_pieces_make_the_whole_until_it_is_reset() -> None:
    stream = make()
    whole = stream.layer(X)[0]
    pieces = [stream(X[:, :2])[0], stream(X[:, 2:5])[0], stream(X[:, 5:])[0]]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert not torch.equal(stream(X)[0], whole)
    stream.reset_state()
    torch.testing.assert_close(stream(X)[0], whole)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_returned_state_changed_in_place_does_not_change_the_next_call(mode) -> None:
    stream = make()
    with mode():
        whole = stream.layer(X)[0]
        first, (h, c) = stream(X[:, :2])
        with torch.no_grad():
            for part in (*h, *c):
                part.fill_(9.0)
        torch.testing.assert_close(torch.cat([first, stream(X[:, 2:])[0]], dim=1), whole)


def test_one_row_begins_anew() -> None:
    stream = make()
    whole = stream.layer(X)[0]
    stream(X)
    stream.reset_state([True, False])
    output = stream(X)[0]
    torch.testing.assert_close(output[0], whole[0])
    assert not torch.allclose(output[1], whole[1])


def test_a_row_that_begins_anew_forgets_nan() -> None:
    stream, bad = make(), X.clone()
    bad[0] = float("nan")
    stream(bad)
    stream.reset_state(torch.tensor([True, False]))
    assert stream(X)[0].isfinite().all()


def test_without_a_batch_there_is_one_row(refused) -> None:
    stream = make()
    whole = stream.layer(X[0])[0]
    stream(X[0])
    with refused(StateError, "rows"):
        stream.reset_state([True] * 3)
    stream.reset_state([True])
    torch.testing.assert_close(stream(X[0])[0], whole)


def test_a_stream_that_was_watched_can_be_trained() -> None:
    stream = make()
    with torch.inference_mode():
        stream(X)
    stream(X)[0].sum().backward()
    assert all(p.grad is not None for p in stream.parameters())


def test_b01_b02_training_goes_on_over_many_calls_and_layers() -> None:
    stream = make()
    optimiser = torch.optim.SGD(stream.parameters(), lr=0.1)
    for part in X.split(2, dim=1):
        output, (h_n, _) = stream(part)
        loss = output.square().mean() + h_n[0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert stream.state is not None
    assert not any(part.requires_grad for parts in stream.state for part in parts)


def test_b03_a_smaller_last_batch_is_named_and_changes_nothing(refused) -> None:
    stream = make()
    stream(X)
    before = stream.state
    for x in (X[:1], X[..., :4]):
        with refused(StateError, "x"):
            stream(x)
    with pytest.raises(StateError, match=r"differs in batch. Call `reset_state\(\)`"):
        stream(X[:1])
    assert stream.state is before
    with refused(StateError, "state"):
        stream(X, state=None)
    for rows in ([True], [0.5, 1.0], [1, 0], [[True, False]]):
        with refused(StateError, "rows"):
            stream.reset_state(rows)
    for layer in (ConvLSTMCell(1, 2, 3), torch.nn.Linear(1, 1), None):
        with refused(SpecError, "layer"):
            StatefulConvLSTM(layer)  # type: ignore[arg-type]


def test_b08_the_state_is_not_saved() -> None:
    stream = make()
    names = set(stream.state_dict())
    stream(X)
    assert set(stream.state_dict()) == names == {f"layer.{name}" for name, _ in stream.layer.named_parameters()}


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_only_forward(direction: str, refused) -> None:
    with refused(SpecError, "direction"):
        StatefulConvLSTM(ConvLSTM(1, 2, 3, direction=direction))


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
def test_ten_thousand_steps_take_no_more_memory_than_one_thousand() -> None:
    done = subprocess.run([sys.executable, "-c", STREAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 1.01 * before, f"resident memory grew from {before} to {after} kB"
