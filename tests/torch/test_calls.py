"""Axes, layouts, empty and single sizes, and states, as a user passes them."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from convlstm.engine.torch import recurrence as engine
from convlstm.errors import ShapeError, SpecError, StateError
from convlstm.torch import ConvLSTM, ConvLSTMCell, save


def flat(result: Any) -> list[Tensor]:
    output, (h, c) = result
    return [output, *h, *c]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_shapes(dims: int, bidirectional: bool) -> None:
    layer = ConvLSTM(2, [3, 4], 3, stride=[(2,) * dims, (1,) * dims], spatial_dims=dims, bidirectional=bidirectional)
    size, grid, ways = (7, 8, 9)[:dims], (4, 4, 5)[:dims], 1 + bidirectional
    output, (h, c) = layer(torch.zeros(2, 5, 2, *size))
    assert output.shape == (2, 5, 4 * ways, *grid)
    assert isinstance(h, tuple)
    assert [tuple(a.shape) for a in h] == [(2, n, *grid) for n in (3, 4) for _ in range(ways)]
    assert [a.shape for a in c] == [a.shape for a in h]


@pytest.mark.parametrize("merge", ["concat", "separate"])
def test_b09_time_first_and_without_a_batch(merge: str) -> None:
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


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [{}, {"norm": "layer", "boundary": "replicate"}], ids=["fused", "plain"])
def test_b11_sizes_of_one_keep_their_axes(options: dict, train: bool) -> None:
    for batch, steps, channels, hidden in product((1, 2), repeat=4):
        layer = ConvLSTM(channels, hidden, 3, **options).train(train)
        output, (h, _) = layer(torch.randn(batch, steps, channels, 1, 1))
        assert output.shape == (batch, steps, hidden, 1, 1)
        assert h[0].shape == (batch, hidden, 1, 1)


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}, {"bidirectional": True, "num_layers": 2, "dropout": 0.5}])
def test_an_empty_sequence_returns_the_state(options: dict) -> None:
    layer = ConvLSTM(2, 3, 3, **options)
    count = 4 if "num_layers" in options else 1
    state = tuple(tuple(torch.randn(2, 3, 5, 5) for _ in range(count)) for _ in range(2))
    output, after = layer(torch.zeros(2, 0, 2, 5, 5), state)
    assert output.shape == (2, 0, 6 if count == 4 else 3, 5, 5)
    torch.testing.assert_close(after, state, rtol=0, atol=0)
    assert layer(torch.zeros(2, 0, 2, 5, 5), lengths=[0, 0])[1][0][0].abs().max() == 0


@pytest.mark.parametrize("options", [{}, {"norm": "layer", "peephole": "channel"}, {"bidirectional": True}])
def test_an_empty_batch_has_empty_results_and_zero_gradients(options: dict) -> None:
    layer = ConvLSTM(2, 3, 3, **options)
    tensors = flat(layer(torch.zeros(0, 4, 2, 5, 5)))
    assert all(t.shape[0] == 0 for t in tensors)
    sum(t.sum() for t in tensors).backward()
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize(("kernel", "recurrent"), [(2, 2), (4, 3), ((2, 3), (4, 1)), (1, 6)])
def test_b13_even_kernels_keep_the_size_and_their_odd_point_at_the_end(kernel: Any, recurrent: Any) -> None:
    layer = ConvLSTM(1, 2, kernel, recurrent_kernel_size=recurrent)
    assert layer(torch.zeros(1, 3, 1, 8, 8))[0].shape == (1, 3, 2, 8, 8)
    impulse = torch.zeros(1, 1, 1, 8, 8)
    impulse[..., 4, 4] = 1.0
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.weight_ih_l0.fill_(1.0)
    reached = layer(impulse)[0][0, 0, 0] != 0
    k = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    rows, columns = (torch.nonzero(reached.any(dim=axis)).ravel() for axis in (1, 0))
    # output y sees inputs from y − ⌊(k−1)/2⌋ on, so a point reaches back ⌊k/2⌋ and ahead ⌊(k−1)/2⌋
    for places, size in ((rows, k[0]), (columns, k[1])):
        assert places.tolist() == list(range(4 - size // 2, 4 + (size - 1) // 2 + 1))


def test_b01_a_state_carried_on_trains_for_many_steps() -> None:
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


def test_b02_a_state_of_every_layer_comes_back_and_goes_in() -> None:
    layer = ConvLSTM(1, [5, 7], 3, stride=[(1, 1), (2, 2)], bidirectional=True)
    x = torch.randn(2, 3, 1, 8, 8)
    _, state = layer(x)
    assert [h.shape[1] for h in state[0]] == [5, 5, 7, 7]
    output, _ = layer(x, state)
    assert (output != layer(x)[0]).any()
    as_lists = layer(x, [list(part) for part in state])[0]
    assert torch.equal(as_lists, output)


@pytest.mark.parametrize(
    ("shape", "word"),
    [((1, 3, 8, 8), "batch"), ((2, 3, 8, 7), "width"), ((2, 4, 8, 8), "hidden_channels"), ((2, 3, 1, 8), "height")],
)
def test_b03_a_state_that_does_not_fit_says_where(shape: tuple[int, ...], word: str, refused) -> None:
    layer, x = ConvLSTM(1, 3, 3), torch.zeros(2, 4, 1, 8, 8)
    good, bad = torch.zeros(2, 3, 8, 8), torch.zeros(shape)
    with refused(StateError, "h_0[0]"):
        layer(x, (bad, good))
    with refused(StateError, "c_0[0]"):
        layer(x, ((good,), (bad,)))
    with pytest.raises(StateError, match=f"which differs in {word}"):
        layer(x, (bad, good))


def test_b04_no_call_leaves_a_trace_for_the_next() -> None:
    layer = ConvLSTM(1, 3, 3, num_layers=2)
    x, other = torch.randn(2, 4, 1, 8, 8), torch.randn(5, 2, 1, 6, 7)
    before = flat(layer(x))
    layer(other)
    for a, b in zip(flat(layer(x)), before, strict=True):
        assert torch.equal(a, b)


def test_b05_outputs_and_states_carry_gradients() -> None:
    layer, x = ConvLSTM(1, 3, 3), torch.randn(2, 4, 1, 6, 6, requires_grad=True)
    for pick in range(3):
        (gradient,) = torch.autograd.grad(flat(layer(x))[pick].sum(), x)
        assert gradient.abs().max() > 0


def test_b07_final_states_are_one_tensor_per_direction() -> None:
    layer = ConvLSTM(1, 4, 3, bidirectional=True)
    output, (h, c) = layer(torch.randn(2, 3, 1, 5, 6))
    assert [tuple(a.shape) for a in (*h, *c)] == [(2, 4, 5, 6)] * 4
    torch.testing.assert_close(h[0], output[:, -1, :4], rtol=0, atol=0)
    torch.testing.assert_close(h[1], output[:, 0, 4:], rtol=0, atol=0)


def test_b15_peepholes_are_parameters_from_the_start_and_learn() -> None:
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


@pytest.mark.parametrize("stride", [2, (1, 3)])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_b20_stride_and_padding_shape_the_state_and_no_step_breaks(stride: Any, padding: Any) -> None:
    layer = ConvLSTM(1, 3, 3, stride=stride, padding=padding)
    x = torch.randn(2, 5, 1, 9, 10, requires_grad=True)
    output, (h, _) = layer(x)
    reference = torch.nn.functional.conv2d(x[:, 0], layer.weight_ih_l0, None, stride, 0 if padding == "valid" else 1)
    if padding != "same":
        assert output.shape[3:] == reference.shape[2:]
    assert output.shape[3:] == h[0].shape[2:] == layer.spec.grids((9, 10))[0]
    output.sum().backward()
    assert x.grad.abs().sum() > 0


def test_a_cell_without_a_batch_and_with_a_mask_of_durations() -> None:
    cell = ConvLSTMCell(2, 3, 3, stride=2, duration_strategy="linear", memory_decay=True)
    h, c = cell.init_hidden(batch_size=2, image_size=(7, 8))
    assert h.shape == c.shape == (2, 3, 4, 4)
    x, d = torch.randn(2, 2, 7, 8), torch.tensor([0.5, 2.0])
    both = cell(x, (h, c), duration=d, gap=d)
    for form in (d[:, None], d.tolist()):
        torch.testing.assert_close(cell(x, [h, c], duration=form, gap=form), both, rtol=0, atol=0)
    for row in range(2):
        single = cell(x[row], (h[row], c[row]), duration=d[row], gap=float(d[row]))
        assert single[0].shape == (3, 4, 4)
        torch.testing.assert_close(single, (both[0][row], both[1][row]), rtol=0, atol=1e-6)
    one = ConvLSTMCell(1, 2, 3, spatial_dims=1)
    assert [a.shape for a in one.init_hidden(3, 5)] == [(3, 2, 5)] * 2
    assert one(torch.zeros(3, 1, 5))[0].shape == (3, 2, 5)


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


def test_a_function_of_the_duration_runs_and_is_not_saved(refused, tmp_path: Any) -> None:
    layer = ConvLSTM(1, 2, 3, duration_strategy=torch.sqrt, reference_duration=4.0)
    linear = ConvLSTM(1, 2, 3, duration_strategy="linear")
    linear.load_state_dict(layer.state_dict())
    x, durations = torch.randn(2, 3, 1, 4, 4), torch.rand(2, 3) + 0.5
    expected, _ = linear(x, durations=(durations / 4.0).sqrt())
    torch.testing.assert_close(layer(x, durations=durations)[0], expected, rtol=0, atol=1e-6)
    with refused(SpecError, "duration_strategy"):
        save(tmp_path / "m", layer)


def test_b12_wrong_calls_are_refused_and_nothing_fails_on_the_way(refused) -> None:
    """Even kernels work; what is wrong is refused by name, and the error itself does not break."""
    assert ConvLSTM(1, 2, kernel_size=4)(torch.zeros(1, 2, 1, 8, 8))[0].shape[-2:] == (8, 8)
    for x in (torch.zeros(8), torch.zeros(1, 1, 2, 1, 8, 8), torch.zeros(())):
        with refused(ShapeError, "x"):
            ConvLSTM(1, 2, kernel_size=3)(x)


def test_b16_b17_peepholes_act_and_the_output_gate_sees_the_new_cell() -> None:
    """One step on one point, by hand."""
    cell = ConvLSTMCell(1, 1, kernel_size=1, peephole="channel", dtype=torch.float64)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.peephole_l0.copy_(torch.tensor([[0.5], [-0.7], [0.9]], dtype=torch.float64))
        cell.bias_l0.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64))
    c_before = torch.full((1, 1, 1, 1), 0.8, dtype=torch.float64)
    h, c = cell(torch.zeros_like(c_before), (torch.zeros_like(c_before), c_before))
    i, f = torch.sigmoid(0.1 + 0.5 * c_before), torch.sigmoid(0.2 - 0.7 * c_before)
    after = f * c_before + i * math.tanh(0.3)
    torch.testing.assert_close(c, after, rtol=1e-15, atol=1e-15)
    torch.testing.assert_close(h, torch.sigmoid(0.4 + 0.9 * after) * after.tanh(), rtol=1e-15, atol=1e-15)
    assert not torch.allclose(h, torch.sigmoid(0.4 + 0.9 * c_before) * after.tanh())


def test_b26_threads_that_share_a_layer_get_the_serial_numbers() -> None:
    layer, stream = ConvLSTM(1, 4, 3).eval(), torch.randn(16, 1, 6, 1, 12, 12)

    def run(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return layer(x)[0]

    serial = [run(x) for x in stream]
    with ThreadPoolExecutor(16) as pool:
        for found in (list(pool.map(run, stream)) for _ in range(5)):
            assert all(torch.equal(a, b) for a, b in zip(found, serial, strict=True))


def test_b21_an_empty_output_is_refused_before_any_work(refused) -> None:
    with refused(ShapeError, "height"):
        ConvLSTM(1, 2, kernel_size=5, padding="valid")(torch.zeros(1, 2, 1, 4, 8))


def test_b24_every_frame_is_seen_at_its_own_step() -> None:
    layer, x = ConvLSTM(1, 2, 3), torch.randn(1, 4, 1, 6, 6, requires_grad=True)
    output = layer(x)[0]
    for t in range(4):
        (gradient,) = torch.autograd.grad(output[:, t].sum(), x, retain_graph=True)
        reached = gradient.abs().sum(dim=(0, 2, 3, 4)) > 0
        assert reached.tolist() == [n <= t for n in range(4)]


def test_without_a_batch_lengths_are_a_number_and_a_mask_is_one_row() -> None:
    layer, x = ConvLSTM(1, 2, 3), torch.randn(5, 1, 6, 6)
    wanted = layer(x.unsqueeze(0), lengths=[3])[0].squeeze(0)
    torch.testing.assert_close(layer(x, lengths=3)[0], wanted)
    torch.testing.assert_close(layer(x, mask=torch.arange(5) < 3)[0], wanted)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_b27_one_channel_in_the_strides_of_channels_last(dims: int) -> None:
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
