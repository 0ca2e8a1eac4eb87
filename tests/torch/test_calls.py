"""What PyTorch alone has: time-first layout, strides of views, threads; the rest is in `tests/frontends`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from convlstm.engine.torch import recurrence as engine
from convlstm.errors import ShapeError
from convlstm.torch import ConvLSTM


@pytest.mark.parametrize("merge", ["concat", "separate"])
def test_time_first_and_without_a_batch(merge: str) -> None:
    layer = ConvLSTM(2, 3, 3, bidirectional=True, merge=merge, num_layers=2)
    x = torch.randn(2, 5, 2, 6, 6)
    first = ConvLSTM(2, 3, 3, bidirectional=True, merge=merge, num_layers=2, batch_first=False)
    first.load_state_dict(layer.state_dict())
    output, state = layer(x)
    other, state_first = first(x.transpose(0, 1))
    parts, others = ((output,), (other,)) if merge == "concat" else (output, other)
    for a, b in zip(parts, others, strict=True):
        assert torch.equal(a, b.transpose(0, 1))
    torch.testing.assert_close(state, state_first, rtol=0, atol=0)
    alone, (h, c) = first(x[1])  # (time, channel, height, width) in either layout
    for a, b in zip(parts, (alone,) if merge == "concat" else alone, strict=True):
        torch.testing.assert_close(b, a[1], rtol=0, atol=1e-6)
    again, _ = layer(x[1], (h, c))
    assert (again if merge == "concat" else again[0]).ndim == 4
    assert h[0].shape == (3, 6, 6)


def test_durations_follow_the_layout_of_the_frames() -> None:
    layer = ConvLSTM(1, 2, 3, duration_strategy="linear", memory_decay=True)
    first = ConvLSTM(1, 2, 3, duration_strategy="linear", memory_decay=True, batch_first=False)
    first.load_state_dict(layer.state_dict())
    x, d, gap = torch.randn(2, 3, 1, 4, 4), torch.rand(2, 3) + 0.5, torch.rand(2, 3) + 1.0
    expected, _ = layer(x, durations=d, gaps=gap)
    for given in (d.T, d.T[..., None]):
        output, _ = first(x.transpose(0, 1), durations=given, gaps=gap.T)
        assert torch.equal(output.transpose(0, 1), expected)
    assert torch.equal(layer(x, durations=d[..., None], gaps=(gap,))[0], expected)
    shared = layer(x, durations=d[0], gaps=1.0)[0]
    assert torch.equal(shared, layer(x, durations=d[:1].expand(2, 3), gaps=torch.ones(2, 3))[0])
    assert torch.equal(layer(x, durations=2, gaps=1)[0], layer(x, durations=torch.tensor(2.0), gaps=1.0)[0])
    assert torch.equal(layer(x, durations=d.tolist(), gaps=gap.numpy())[0], expected)
    alone = layer(x[0], durations=d[0], gaps=gap[0])[0]
    torch.testing.assert_close(alone, expected[0], rtol=0, atol=1e-6)


def test_detached_state_trains_for_many_steps() -> None:
    """Truncated backpropagation: detach what is carried, and no graph grows or breaks."""
    layer = ConvLSTM(1, 4, 3, num_layers=2)
    optimiser, state = torch.optim.SGD(layer.parameters(), 0.1), None
    for _ in range(4):
        output, (h, c) = layer(torch.randn(2, 3, 1, 6, 6), state)
        optimiser.zero_grad()
        output.pow(2).sum().backward()
        optimiser.step()
        state = (tuple(a.detach() for a in h), tuple(a.detach() for a in c))
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_peepholes_are_parameters_and_learn() -> None:
    layer = ConvLSTM(1, 3, 3, peephole="channel")
    optimiser = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(2):
        optimiser.zero_grad()
        layer(torch.randn(2, 3, 1, 6, 6))[0].pow(2).sum().backward()
        optimiser.step()
    learned = layer.peephole_l0.detach().clone()
    assert (learned != 0).all()
    layer(torch.randn(2, 3, 1, 6, 6))
    assert torch.equal(layer.peephole_l0, learned)


def test_strided_and_overlapping_inputs_are_only_read() -> None:
    layer = ConvLSTM(2, 3, 3, bidirectional=True)
    base = torch.randn(2, 5, 6, 7, 2)
    x = base.permute(0, 1, 4, 2, 3)
    copy = x.clone()
    state = (tuple(torch.randn(2, 3, 6, 7) for _ in range(2)), tuple(torch.randn(2, 3, 6, 7) for _ in range(2)))
    kept = [a.clone() for part in state for a in part]
    first = layer(x, state)[0]
    torch.testing.assert_close(layer(copy.contiguous(), state)[0], first, rtol=0, atol=1e-6)
    assert torch.equal(x, copy)
    assert all(torch.equal(a, b) for a, b in zip(kept, [a for part in state for a in part], strict=True))
    expanded = torch.randn(1, 1, 2, 6, 7).expand(2, 5, 2, 6, 7)
    torch.testing.assert_close(layer(expanded)[0], layer(expanded.contiguous())[0], rtol=0, atol=1e-6)


def test_frames_of_a_wrong_rank_are_refused(refused) -> None:
    """Even kernels work; what is wrong is refused by name, and the error itself does not break."""
    assert ConvLSTM(1, 2, kernel_size=4)(torch.zeros(1, 2, 1, 8, 8))[0].shape[-2:] == (8, 8)
    for x in (torch.zeros(8), torch.zeros(1, 1, 2, 1, 8, 8), torch.zeros(())):
        with refused(ShapeError, "x"):
            ConvLSTM(1, 2, kernel_size=3)(x)


def test_threads_that_share_a_layer_get_the_serial_values() -> None:
    layer, stream = ConvLSTM(1, 4, 3).eval(), torch.randn(16, 1, 6, 1, 12, 12)

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return layer(x)[0]

    serial = [run(x) for x in stream]
    with ThreadPoolExecutor(16) as pool:
        for found in (list(pool.map(run, stream)) for _ in range(5)):
            assert all(torch.equal(a, b) for a, b in zip(found, serial, strict=True))


def test_lengths_and_mask_without_a_batch() -> None:
    layer, x = ConvLSTM(1, 2, 3), torch.randn(5, 1, 6, 6)
    wanted = layer(x.unsqueeze(0), lengths=[3])[0].squeeze(0)
    torch.testing.assert_close(layer(x, lengths=3)[0], wanted)
    torch.testing.assert_close(layer(x, mask=torch.arange(5) < 3)[0], wanted)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_channel_in_channels_last_strides(dims: int) -> None:
    """A view of channels-last frames: oneDNN's convolution reads past the end of one channel with mixed strides."""
    random = np.random.default_rng(0)
    for _ in range(100):
        stride, kernel = (tuple(random.integers(1, high, dims).tolist()) for high in (3, 4))
        size = tuple(random.integers(3, 8, dims).tolist())
        spec = ConvLSTM(1, 3, kernel, stride=stride, padding="valid", spatial_dims=dims).spec
        weight = torch.from_numpy(random.standard_normal((12, 1, *kernel)).astype(np.float32))
        x = torch.from_numpy(random.standard_normal((6, *size, 1)).astype(np.float32)).movedim(-1, 1)
        found = engine.input_convolution(spec.layers[0], {"weight_ih": weight}, x)
        wanted = engine.input_convolution(spec.layers[0], {"weight_ih": weight.double()}, x.double().contiguous())
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
