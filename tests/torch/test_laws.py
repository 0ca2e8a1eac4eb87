"""Laws that hold for any weights and any data, with no reference beside them."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from convlstm.spec.durations import durations_from_times
from convlstm.torch import ConvLSTM, ConvLSTMCell, load_canonical, to_canonical

F64 = torch.float64
RICH: dict[str, Any] = {"peephole": "channel", "norm": "layer", "boundary": ("replicate", "circular"), "zoneout_c": 0.2}
BOTH_PATHS = [{"peephole": "channel"}, RICH]


def build(**options: Any) -> ConvLSTM:
    layer = ConvLSTM(2, **{"hidden_channels": 3, "kernel_size": 3, "dtype": F64} | options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer.eval()


def flat(result: Any) -> list[Tensor]:
    output, (h, c) = result
    return [*(output if isinstance(output, tuple) else (output,)), *h, *c]


@pytest.mark.parametrize("options", BOTH_PATHS)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_a_sequence_in_two_parts_is_the_whole(options: dict, dtype: torch.dtype) -> None:
    layer = build(**options, num_layers=2, stride=[(2, 2), (1, 1)]).to(dtype)
    x = torch.randn(2, 7, 2, 6, 5, dtype=dtype)
    whole, final = layer(x)
    first, state = layer(x[:, :3])
    second, state = layer(x[:, 3:], state)
    limit = {"rtol": 0, "atol": 1e-12 if dtype == F64 else 1e-6}
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, **limit)
    for a, b in zip(flat((whole, state)), flat((whole, final)), strict=True):
        torch.testing.assert_close(a, b, **limit)


@pytest.mark.parametrize("options", BOTH_PATHS)
def test_step_by_step_against_step_by_step_is_bit_for_bit(options: dict) -> None:
    layer = build(**options).float()
    cell = ConvLSTMCell(2, 3, 3, **options).eval()
    cell.load_state_dict(layer.state_dict())
    x, state, pair = torch.randn(2, 6, 2, 6, 5), None, None
    for t in range(6):
        output, state = layer(x[:, t : t + 1], state)
        pair = cell(x[:, t], pair)
        assert torch.equal(output[:, 0], pair[0])
        assert torch.equal(state[1][0], pair[1])


@pytest.mark.parametrize("options", BOTH_PATHS)
def test_gradients_flow_through_a_state_that_is_passed_on(options: dict) -> None:
    layer, x = build(**options), torch.randn(1, 4, 2, 5, 5, dtype=F64)
    layer(x)[0][:, 3].sum().backward()
    whole = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    _, state = layer(x[:, :2])
    layer(x[:, 2:], state)[0][:, 1].sum().backward()
    for parameter, wanted in zip(layer.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("options", BOTH_PATHS)
def test_b10_rows_of_a_batch_do_not_meet(options: dict) -> None:
    layer = build(**options, bidirectional=True, num_layers=2)
    x, lengths = torch.randn(3, 5, 2, 6, 5, dtype=F64), [5, 2, 0]
    together = flat(layer(x, lengths=lengths))
    for row in range(3):
        alone = flat(layer(x[row : row + 1], lengths=lengths[row : row + 1]))
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[row : row + 1], rtol=0, atol=1e-13)
    order = [2, 0, 1]
    shuffled = flat(layer(x[order], lengths=[lengths[n] for n in order]))
    for a, b in zip(shuffled, together, strict=True):
        torch.testing.assert_close(a, b[order], rtol=0, atol=1e-13)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_what_lies_in_masked_frames_reaches_nothing(bad: float, masked_output: str) -> None:
    layer = build(
        bidirectional=True, num_layers=2, masked_output=masked_output, duration_strategy="mlp", memory_decay=True
    )
    x = torch.randn(3, 5, 2, 6, 5, dtype=F64)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], dtype=torch.bool)
    durations, gaps = torch.rand(3, 5, dtype=F64) + 0.5, tuple(torch.rand(3, 5, dtype=F64) + 1 for _ in range(2))
    results = []
    for value in (0.0, bad):
        layer.zero_grad()
        dirty = torch.where(mask[:, :, None, None, None], x, torch.tensor(value, dtype=F64)).requires_grad_()
        given = {
            "durations": torch.where(mask, durations, value),
            "gaps": tuple(torch.where(mask, gap, value) for gap in gaps),
        }
        tensors = flat(layer(dirty, mask=mask, **given))
        sum(t.pow(2).sum() for t in tensors).backward()
        assert not dirty.grad[~mask].any()
        results.append([*tensors, dirty.grad, *(p.grad.clone() for p in layer.parameters())])
    for clean, dirty in zip(*results, strict=True):
        assert dirty.isfinite().all()
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_b18_a_masked_sequence_is_the_sequence_of_its_valid_frames(masked_output: str) -> None:
    layer, x = build(masked_output=masked_output), torch.randn(1, 6, 2, 6, 5, dtype=F64)
    mask = torch.tensor([[False, True, True, False, True, False]])
    output, state = layer(x, mask=mask)
    short, final = layer(x[:, mask[0]])
    torch.testing.assert_close(output[:, mask[0]], short, rtol=0, atol=1e-13)
    for a, b in zip(flat((short, state)), flat((short, final)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    held = [None, 0, 1, 1, 2, 2] if masked_output == "hold" else [None, 0, 1, None, 2, None]
    for t, source in enumerate(held):
        wanted = torch.zeros_like(output[:, t]) if source is None else short[:, source]
        torch.testing.assert_close(output[:, t], wanted, rtol=0, atol=1e-13)


def test_lengths_are_a_mask() -> None:
    layer, x = build(bidirectional=True), torch.randn(3, 4, 2, 6, 5, dtype=F64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    for lengths in ([4, 2, 0], torch.tensor([4, 2, 0]), (4, 2, 0)):
        for a, b in zip(flat(layer(x, lengths=lengths)), flat(layer(x, mask=mask)), strict=True):
            assert torch.equal(a, b)


def test_b06_b19_the_reverse_direction_is_the_forward_one_on_reversed_valid_frames() -> None:
    backward, x = build(direction="reverse"), torch.randn(1, 5, 2, 6, 5, dtype=F64)
    forward = ConvLSTM(2, 3, 3, dtype=F64).eval()
    load_canonical(forward, {k.replace("reverse", "forward"): v for k, v in to_canonical(backward).items()})
    output, state = backward(x, lengths=[3])
    mirrored, final = forward(x[:, :3].flip(1))
    torch.testing.assert_close(output[:, :3], mirrored.flip(1), rtol=0, atol=1e-13)
    assert not output[:, 3:].any()
    for a, b in zip(flat((output, state))[1:], flat((output, final))[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", "separate"])
@pytest.mark.parametrize("options", BOTH_PATHS)
def test_reversing_time_swaps_the_directions(merge: str, options: dict) -> None:
    layer, x = build(**options, bidirectional=True, merge=merge), torch.randn(2, 5, 2, 6, 5, dtype=F64)
    swapped = ConvLSTM.from_spec(layer.spec, dtype=F64).eval()
    names = {"forward": "reverse", "reverse": "forward"}
    arrays = {k.replace(f".{d}.", f".{names[d]}."): v for k, v in to_canonical(layer).items() for d in names if d in k}
    load_canonical(swapped, arrays)
    output, (h, c) = layer(x)
    other, (h_s, c_s) = swapped(x.flip(1))
    parts = output if merge == "separate" else output.chunk(2, dim=2) if merge == "concat" else (output,)
    others = other if merge == "separate" else other.chunk(2, dim=2) if merge == "concat" else (other,)
    for a, b in zip(parts, reversed(others), strict=True):
        torch.testing.assert_close(a, b.flip(1), rtol=0, atol=1e-13)
    torch.testing.assert_close(h, h_s[::-1], rtol=0, atol=1e-13)
    torch.testing.assert_close(c, c_s[::-1], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("bidirectional", "layers", "bias"), list(product([False, True], [1, 2], [True, False])))
def test_on_one_point_it_is_torch_nn_lstm(bidirectional: bool, layers: int, bias: bool) -> None:
    dense = torch.nn.LSTM(3, 4, layers, bias=bias, bidirectional=bidirectional, batch_first=True, dtype=F64)
    layer = ConvLSTM(3, 4, 3, layers, bidirectional=bidirectional, bias=bias, dtype=F64)
    theirs = dict(dense.named_parameters())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight"):
                parameter[..., 1, 1] = theirs[name]  # of a 3×3 kernel only the middle falls on the one point
            else:
                parameter.copy_(theirs[name.replace("bias", "bias_ih")] + theirs[name.replace("bias", "bias_hh")])
    x, count = torch.randn(2, 6, 3, dtype=F64), layers * (1 + bidirectional)
    h, c = torch.randn(2, count, 2, 4, dtype=F64)
    expected, (h_n, c_n) = dense(x, (h, c))
    points = (slice(None), slice(None), None, None)
    output, (h_m, c_m) = layer(x[..., None, None], (tuple(a[points] for a in h), tuple(a[points] for a in c)))
    torch.testing.assert_close(output[..., 0, 0], expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.stack(h_m)[..., 0, 0], h_n, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.stack(c_m)[..., 0, 0], c_n, rtol=0, atol=1e-13)


def test_packed_sequences_of_torch_nn_lstm_are_lengths() -> None:
    dense = torch.nn.LSTM(3, 4, bidirectional=True, batch_first=True, dtype=F64)
    layer = ConvLSTM(3, 4, 1, bidirectional=True, dtype=F64)
    theirs = dict(dense.named_parameters())
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            wanted = theirs.get(name)
            if wanted is None:
                wanted = theirs[name.replace("bias", "bias_ih")] + theirs[name.replace("bias", "bias_hh")]
            parameter.copy_(wanted.reshape(parameter.shape))
    x, lengths = torch.randn(3, 5, 3, dtype=F64), [5, 3, 1]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    output, (h_n, _) = dense(packed)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(output, batch_first=True)
    ours, (h, _) = layer(x[..., None, None], lengths=lengths)
    torch.testing.assert_close(ours[..., 0, 0], expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.stack(h)[..., 0, 0], h_n, rtol=0, atol=1e-13)


@pytest.mark.parametrize("strategy", ["linear", "log", "log1p", "scalar", "exp", "mlp"])
def test_equal_durations_make_the_plain_layer(strategy: str) -> None:
    torch.manual_seed(1)
    plain = ConvLSTM(2, 3, 3, peephole="channel", dtype=F64)
    aware = ConvLSTM(
        2, 3, 3, peephole="channel", duration_strategy=strategy, reference_duration=300.0, memory_decay=True, dtype=F64
    )
    plain.reset_parameters(seed=3)
    aware.reset_parameters(seed=3)
    x = torch.randn(2, 4, 2, 6, 5, dtype=F64)
    given = aware(x, durations=300.0, gaps=300.0)
    limit = 1e-5 if strategy == "log" else 1e-14  # log is neutral to ε = 1e-6
    for a, b in zip(flat(given), flat(plain(x)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=limit)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "recurrent_kernel_size": (5, 2)}, {"dilation": 2}])
def test_on_a_globe_a_shift_of_the_input_is_a_shift_of_the_output(options: dict) -> None:
    layer = build(**options, boundary="circular", peephole="channel", norm="layer")
    x = torch.randn(2, 4, 2, 6, 8, dtype=F64)
    shifted = layer(x.roll((2, -3), dims=(3, 4)))
    for a, b in zip(flat(shifted), flat(layer(x)), strict=True):
        torch.testing.assert_close(a, b.roll((2, -3), dims=(-2, -1)), rtol=0, atol=1e-13)


def test_mirrored_weights_mirror_the_output() -> None:
    layer, mirrored = build(boundary="reflect"), ConvLSTM(2, 3, 3, boundary="reflect", dtype=F64)
    load_canonical(mirrored, {k: v[..., ::-1] if v.ndim == 5 else v for k, v in to_canonical(layer).items()})
    x = torch.randn(1, 3, 2, 6, 5, dtype=F64)
    torch.testing.assert_close(mirrored(x.flip(-1))[0], layer(x)[0].flip(-1), rtol=0, atol=1e-13)


def test_one_and_three_dimensions_agree_with_two_on_flat_fields() -> None:
    line = build(spatial_dims=1, peephole="channel")
    x = torch.randn(2, 4, 2, 7, dtype=F64)
    for dims in (2, 3):
        other = ConvLSTM(2, 3, 3, spatial_dims=dims, peephole="channel", dtype=F64)
        with torch.no_grad():
            for mine, theirs in zip(other.parameters(), line.parameters(), strict=True):
                if mine.ndim > 2:
                    mine.zero_()
                    mine[(slice(None), slice(None), *(1,) * (dims - 1))] = theirs
                else:
                    mine.copy_(theirs)
        field = x.reshape(2, 4, 2, *(1,) * (dims - 1), 7)
        torch.testing.assert_close(other(field)[0].reshape(2, 4, 3, 7), line(x)[0], rtol=0, atol=1e-13)


def test_a_stream_with_gaps_is_the_whole_sequence() -> None:
    layer = build(duration_strategy="scalar", memory_decay=True)
    times = torch.tensor([[0.0, 1.0, 4.0, 4.5, 9.0]], dtype=F64)
    gaps = torch.as_tensor(durations_from_times(times.numpy()))
    x = torch.randn(1, 5, 2, 6, 5, dtype=F64)
    whole, _ = layer(x, durations=gaps, gaps=gaps)
    _, state = layer(x[:, :3], durations=gaps[:, :3], gaps=gaps[:, :3])
    later = torch.as_tensor(durations_from_times(times[:, 3:].numpy(), previous=times[:, 2].numpy()))
    second, _ = layer(x[:, 3:], state, durations=later, gaps=later)
    torch.testing.assert_close(second, whole[:, 3:], rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", [*BOTH_PATHS, {"duration_strategy": "mlp", "memory_decay": True, "stride": 2}])
def test_a_cell_step_by_step_is_the_layer(options: dict) -> None:
    layer = build(**options)
    cell = ConvLSTMCell(2, 3, 3, **options, dtype=F64).eval()
    cell.load_state_dict(layer.state_dict())
    x = torch.randn(2, 5, 2, 6, 5, dtype=F64)
    times = {}
    if "duration_strategy" in options:
        times = {"durations": torch.rand(2, 5, dtype=F64) + 0.1, "gaps": torch.rand(2, 5, dtype=F64) + 0.5}
    output, (h_n, c_n) = layer(x, **times)
    state, singular = cell.init_hidden(2, (6, 5)), {"durations": "duration", "gaps": "gap"}
    for t in range(5):
        state = cell(x[:, t], state, **{singular[name]: value[:, t] for name, value in times.items()})
        torch.testing.assert_close(state[0], output[:, t], rtol=0, atol=1e-13)
    torch.testing.assert_close(state, (h_n[0], c_n[0]), rtol=0, atol=1e-13)
