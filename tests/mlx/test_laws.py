"""Laws that hold for any weights and any data, with no reference beside them."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn import LSTM
from mlx.utils import tree_map

from convlstm.mlx import ConvLSTM, ConvLSTMCell, load_canonical, to_canonical
from convlstm.spec.durations import durations_from_times

F64 = mx.float64
RICH: dict[str, Any] = {"peephole": "channel", "norm": "layer", "boundary": ("replicate", "circular"), "zoneout_c": 0.2}
STACKS = [{"peephole": "channel"}, RICH]


def normal(*shape: int, dtype: mx.Dtype = F64) -> mx.array:
    return mx.random.normal(shape).astype(dtype)


def build(**options: Any) -> ConvLSTM:
    layer = ConvLSTM(2, **{"hidden_channels": 3, "kernel_size": 3, "dtype": F64} | options)
    layer.apply(lambda a: a + 0.3 * normal(*a.shape, dtype=a.dtype))
    return layer.eval()


def swapped(layer: ConvLSTM) -> ConvLSTM:
    """Return a layer whose directions have each other's weights."""
    other = ConvLSTM.from_spec(layer.spec, dtype=F64).eval()
    names = {"forward": "reverse", "reverse": "forward"}
    arrays = {k.replace(f".{d}.", f".{names[d]}."): v for k, v in to_canonical(layer).items() for d in names if d in k}
    load_canonical(other, arrays)
    return other


def flat(result: Any) -> list[mx.array]:
    output, (h, c) = result
    return [*(output if isinstance(output, tuple) else (output,)), *h, *c]


def close(found: list[mx.array], wanted: list[mx.array], atol: float = 1e-13) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("options", STACKS)
@pytest.mark.parametrize(("dtype", "limit"), [(F64, 1e-12), (mx.float32, 1e-6)])
def test_a_sequence_in_two_parts_is_the_whole(options: dict, dtype: mx.Dtype, limit: float) -> None:
    layer = build(**options, num_layers=2, stride=[(2, 2), (1, 1)])
    layer.set_dtype(dtype)
    x = normal(2, 7, 6, 5, 2, dtype=dtype)
    whole, final = layer(x)
    first, state = layer(x[:, :3])
    second, state = layer(x[:, 3:], state)
    joined = mx.concatenate([first, second], axis=1)
    close(flat((joined, state)), flat((whole, final)), limit)


@pytest.mark.parametrize("options", STACKS)
def test_step_by_step_against_step_by_step_is_bit_for_bit(options: dict) -> None:
    layer = build(**options, dtype=mx.float32)
    cell = ConvLSTMCell(2, 3, 3, **options).eval()
    load_canonical(cell, to_canonical(layer))
    x, state, pair = normal(2, 6, 6, 5, 2, dtype=mx.float32), None, None
    for t in range(6):
        output, state = layer(x[:, t : t + 1], state)
        pair = cell(x[:, t], pair)
        assert mx.array_equal(output[:, 0], pair[0])
        assert mx.array_equal(state[1][0], pair[1])


@pytest.mark.parametrize("options", STACKS)
def test_gradients_flow_through_a_state_that_is_passed_on(options: dict) -> None:
    layer, x = build(**options), normal(1, 4, 5, 5, 2)

    def whole(x: mx.array) -> mx.array:
        return layer(x)[0][:, 3].sum()

    def parts(x: mx.array) -> mx.array:
        return layer(x[:, 2:], layer(x[:, :2])[1])[0][:, 1].sum()

    wanted = mx.grad(whole)(x)
    assert mx.abs(wanted[:, 0]).max() > 0
    close([mx.grad(parts)(x)], [wanted])


@pytest.mark.parametrize("options", STACKS)
def test_b10_rows_of_a_batch_do_not_meet(options: dict) -> None:
    layer = build(**options, bidirectional=True, num_layers=2)
    x, lengths = normal(3, 5, 6, 5, 2), [5, 2, 0]
    together = flat(layer(x, lengths=lengths))
    for row in range(3):
        close(flat(layer(x[row : row + 1], lengths=lengths[row : row + 1])), [a[row : row + 1] for a in together])
    order = [2, 0, 1]
    shuffled = flat(layer(x[mx.array(order)], lengths=[lengths[n] for n in order]))
    close(shuffled, [a[mx.array(order)] for a in together])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_what_lies_in_masked_frames_reaches_nothing(bad: float, masked_output: str) -> None:
    layer = build(
        bidirectional=True, num_layers=2, masked_output=masked_output, duration_strategy="mlp", memory_decay=True
    )
    x = normal(3, 5, 6, 5, 2)
    mask = mx.array([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]]).astype(mx.bool_)
    times = [mx.random.uniform(0.5, 2.0, (3, 5)).astype(F64) for _ in range(3)]
    parameters = layer.parameters()

    def run(parameters: Any, x: mx.array, value: float) -> tuple[mx.array, list[mx.array]]:
        layer.update(parameters)
        durations, *gaps = (mx.where(mask, t, mx.array(value, dtype=F64)) for t in times)
        results = flat(layer(x, mask=mask, durations=durations, gaps=tuple(gaps)))
        return sum(a.square().sum() for a in results), results

    found = []
    for value in (0.0, bad):
        dirty = mx.where(mask[:, :, None, None, None], x, mx.array(value, dtype=F64))
        (_, results), (of_weights, of_x) = mx.value_and_grad(run, argnums=(0, 1))(parameters, dirty, value)
        assert not np.array(of_x)[~np.array(mask)].any()
        tree: list[mx.array] = [*results, of_x]
        tree_map(tree.append, of_weights)
        found.append(tree)
    for clean, dirty in zip(*found, strict=True):
        assert mx.isfinite(dirty).all()
        assert mx.array_equal(clean, dirty)


@pytest.mark.parametrize("masked_output", ["zero", "hold"])
def test_b18_a_masked_sequence_is_the_sequence_of_its_valid_frames(masked_output: str) -> None:
    layer, x = build(masked_output=masked_output), normal(1, 6, 6, 5, 2)
    valid = mx.array([1, 2, 4])
    output, state = layer(x, mask=[[False, True, True, False, True, False]])
    short, final = layer(x[:, valid])
    close([output[:, valid], *flat((short, state))], [short, *flat((short, final))])
    held = [None, 0, 1, 1, 2, 2] if masked_output == "hold" else [None, 0, 1, None, 2, None]
    for t, source in enumerate(held):
        close([output[:, t]], [mx.zeros_like(output[:, t]) if source is None else short[:, source]])


def test_a_held_output_before_the_first_valid_step_is_zero_whatever_the_state() -> None:
    layer, x = build(masked_output="hold"), normal(1, 2, 6, 5, 2)
    output, _ = layer(x, (normal(1, 6, 5, 3), normal(1, 6, 5, 3)), mask=[[False, True]])
    assert not output[:, 0].any()


def test_lengths_are_a_mask() -> None:
    layer, x = build(bidirectional=True), normal(3, 4, 6, 5, 2)
    mask = mx.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    for lengths in ([4, 2, 0], mx.array([4, 2, 0]), (4, 2, 0), np.array([4, 2, 0])):
        close(flat(layer(x, lengths=lengths)), flat(layer(x, mask=mask)), 0)


def test_b06_b19_the_reverse_direction_is_the_forward_one_on_reversed_valid_frames() -> None:
    backward, x = build(direction="reverse"), normal(1, 5, 6, 5, 2)
    forward = ConvLSTM(2, 3, 3, dtype=F64).eval()
    load_canonical(forward, {k.replace("reverse", "forward"): v for k, v in to_canonical(backward).items()})
    output, state = backward(x, lengths=[3])
    mirrored, final = forward(x[:, 2::-1])
    close([output[:, :3], *flat((output, state))[1:]], [mirrored[:, ::-1], *flat((output, final))[1:]])
    assert not output[:, 3:].any()


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", "separate"])
@pytest.mark.parametrize("options", STACKS)
def test_reversing_time_swaps_the_directions(merge: str, options: dict) -> None:
    layer, x = build(**options, bidirectional=True, merge=merge), normal(2, 5, 6, 5, 2)
    output, (h, c) = layer(x)
    other, (h_s, c_s) = swapped(layer)(x[:, ::-1])
    split = {"separate": list, "concat": lambda a: mx.split(a, 2, axis=-1)}.get(merge, lambda a: [a])
    close(split(output), [part[:, ::-1] for part in reversed(split(other))])
    close([*h, *c], [*h_s[::-1], *c_s[::-1]])


@pytest.mark.parametrize("bias", [True, False])
def test_on_one_point_it_is_mlx_nn_lstm(bias: bool) -> None:
    dense, layer = LSTM(3, 4, bias=bias), ConvLSTM(3, 4, 3, bias=bias)
    kernels = {"weight_ih": dense.Wx, "weight_hh": dense.Wh}
    for name, matrix in kernels.items():
        kernel = mx.zeros((16, 3, 3, matrix.shape[1]))
        kernel[:, 1, 1] = matrix  # of a 3×3 kernel only the middle falls on the one point
        layer.layers[0]["forward"][name] = kernel
    if bias:
        dense.bias = normal(16, dtype=mx.float32)
        layer.layers[0].forward.bias = dense.bias
    x, h, c = (normal(*shape, dtype=mx.float32) for shape in ((2, 6, 3), (2, 4), (2, 4)))
    expected, cells = dense(x, h, c)
    output, (h_n, c_n) = layer(x[:, :, None, None], (h[:, None, None], c[:, None, None]))
    close([output[:, :, 0, 0], h_n[0][:, 0, 0], c_n[0][:, 0, 0]], [expected, expected[:, -1], cells[:, -1]], 1e-6)


@pytest.mark.parametrize("strategy", ["linear", "log", "log1p", "scalar", "exp", "mlp"])
def test_equal_durations_make_the_plain_layer(strategy: str) -> None:
    plain = ConvLSTM(2, 3, 3, peephole="channel", dtype=F64)
    aware = ConvLSTM(
        2, 3, 3, peephole="channel", duration_strategy=strategy, reference_duration=300.0, memory_decay=True, dtype=F64
    )
    plain.reset_parameters(seed=3)
    aware.reset_parameters(seed=3)
    x = normal(2, 4, 6, 5, 2)
    limit = 1e-5 if strategy == "log" else 1e-14  # log is neutral to ε = 1e-6
    close(flat(aware(x, durations=300.0, gaps=300.0)), flat(plain(x)), limit)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "recurrent_kernel_size": (5, 2)}, {"dilation": 2}])
def test_on_a_globe_a_shift_of_the_input_is_a_shift_of_the_output(options: dict) -> None:
    layer = build(**options, boundary="circular", peephole="channel", norm="layer")
    x = normal(2, 4, 6, 8, 2)
    shifted = flat(layer(mx.roll(x, (2, -3), axis=(2, 3))))
    close(shifted, [mx.roll(a, (2, -3), axis=(-3, -2)) for a in flat(layer(x))])


def test_mirrored_weights_mirror_the_output() -> None:
    layer, mirrored = build(boundary="reflect"), ConvLSTM(2, 3, 3, boundary="reflect", dtype=F64)
    load_canonical(mirrored, {k: v[..., ::-1] if v.ndim == 5 else v for k, v in to_canonical(layer).items()})
    x = normal(1, 3, 6, 5, 2)
    close([mirrored(x[..., ::-1, :])[0]], [layer(x)[0][..., ::-1, :]])


def test_one_and_three_dimensions_agree_with_two_on_flat_fields() -> None:
    line, x = build(spatial_dims=1, peephole="channel"), normal(2, 4, 7, 2)
    for dims in (2, 3):
        other = ConvLSTM(2, 3, 3, spatial_dims=dims, peephole="channel", dtype=F64)
        arrays = to_canonical(other)
        for key, array in to_canonical(line).items():
            arrays[key][...] = 0.0
            inside = (slice(None),) * 3 + (1,) * (dims - 1) if array.ndim == 4 else ...
            arrays[key][inside] = array
        load_canonical(other, arrays)
        field = x.reshape(2, 4, *(1,) * (dims - 1), 7, 2)
        close([other(field)[0].reshape(2, 4, 7, 3)], [line(x)[0]])


def test_a_stream_with_gaps_is_the_whole_sequence() -> None:
    layer = build(duration_strategy="scalar", memory_decay=True)
    times = np.array([[0.0, 1.0, 4.0, 4.5, 9.0]])
    gaps = durations_from_times(times)
    x = normal(1, 5, 6, 5, 2)
    whole, _ = layer(x, durations=gaps, gaps=gaps)
    _, state = layer(x[:, :3], durations=gaps[:, :3], gaps=gaps[:, :3])
    later = durations_from_times(times[:, 3:], previous=times[:, 2])
    second, _ = layer(x[:, 3:], state, durations=later, gaps=later)
    close([second], [whole[:, 3:]])


@pytest.mark.parametrize("options", [*STACKS, {"duration_strategy": "mlp", "memory_decay": True, "stride": 2}])
def test_a_cell_step_by_step_is_the_layer(options: dict) -> None:
    layer = build(**options)
    cell = ConvLSTMCell(2, 3, 3, **options, dtype=F64).eval()
    load_canonical(cell, to_canonical(layer))
    x = normal(2, 5, 6, 5, 2)
    times = {}
    if "duration_strategy" in options:
        times = {name: mx.random.uniform(0.5, 1.5, (2, 5)).astype(F64) for name in ("durations", "gaps")}
    output, (h_n, c_n) = layer(x, **times)
    state, singular = cell.init_hidden(2, (6, 5)), {"durations": "duration", "gaps": "gap"}
    for t in range(5):
        state = cell(x[:, t], state, **{singular[name]: value[:, t] for name, value in times.items()})
        close([state[0]], [output[:, t]])
    close(list(state), [h_n[0], c_n[0]])
