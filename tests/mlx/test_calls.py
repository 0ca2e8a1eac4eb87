"""Axes, empty and single sizes, and states, as a user passes them."""

from __future__ import annotations

from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers

from convlstm.errors import SpecError, StateError
from convlstm.mlx import ConvLSTM, ConvLSTMCell, load_canonical, save, to_canonical


def flat(result: Any) -> list[mx.array]:
    output, (h, c) = result
    return [output, *h, *c]


def same(found: list[mx.array], wanted: list[mx.array], atol: float = 0.0) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def shared(layer: ConvLSTM, **options: Any) -> ConvLSTM:
    other = ConvLSTM(layer.spec.in_channels, layer.spec.hidden_channels[0], 3, **options)
    load_canonical(other, to_canonical(layer))
    return other


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_shapes(dims: int, bidirectional: bool) -> None:
    layer = ConvLSTM(2, [3, 4], 3, stride=[(2,) * dims, (1,) * dims], spatial_dims=dims, bidirectional=bidirectional)
    size, grid, ways = (7, 8, 9)[:dims], (4, 4, 5)[:dims], 1 + bidirectional
    output, (h, c) = layer(mx.zeros((2, 5, *size, 2)))
    assert output.shape == (2, 5, *grid, 4 * ways)
    assert isinstance(h, tuple)
    assert [a.shape for a in h] == [(2, *grid, n) for n in (3, 4) for _ in range(ways)]
    assert [a.shape for a in c] == [a.shape for a in h]


def test_the_kernel_is_5_unless_told() -> None:
    assert ConvLSTM(1, 2).spec.kernel_size == ((5, 5),)
    assert ConvLSTMCell(1, 2, spatial_dims=1).spec.kernel_size == ((5,),)
    assert repr(ConvLSTM(1, [2, 3], (3, 5))) == "ConvLSTM(1, [2, 3], kernel_size=(3, 5))"


@pytest.mark.parametrize("merge", ["concat", "separate"])
def test_without_a_batch(merge: str) -> None:
    layer = ConvLSTM(2, 3, 3, bidirectional=True, merge=merge, num_layers=2)
    x = mx.random.normal((2, 5, 6, 6, 2))
    output, (h, c) = layer(x)
    alone, (h_1, c_1) = layer(x[1])
    parts, others = ((output,), (alone,)) if merge == "concat" else (output, alone)
    same(list(others), [a[1] for a in parts], 1e-6)
    same([*h_1, *c_1], [a[1] for a in (*h, *c)], 1e-6)
    again, _ = layer(x[1], (h_1, c_1))
    assert (again if merge == "concat" else again[0]).ndim == 4
    assert h_1[0].shape == (6, 6, 3)


@pytest.mark.parametrize("merge", ["concat", "separate"])
def test_the_outputs_of_all_layers(merge: str) -> None:
    layer, x = ConvLSTM(2, 3, 3, 2, bidirectional=True, merge=merge), mx.random.normal((2, 4, 5, 5, 2))
    (first, last), (h, _) = layer(x, all_layers=True)
    output, _ = layer(x)
    if merge == "concat":
        first, last, output = (mx.split(a, 2, axis=-1) for a in (first, last, output))
    same(list(last), list(output))
    same([first[0][:, -1], first[1][:, 0]], list(h[:2]))


def test_forms_of_durations_and_gaps() -> None:
    layer = ConvLSTM(1, 2, 3, duration_strategy="linear", memory_decay=True)
    x, d, gap = mx.random.normal((2, 3, 4, 4, 1)), mx.random.uniform(0.5, 2, (2, 3)), mx.random.uniform(1, 2, (2, 3))
    expected, _ = layer(x, durations=d, gaps=gap)
    for given, gaps in ((d[..., None], (gap,)), (d.tolist(), np.array(gap)), (np.array(d), gap[..., None])):
        same([layer(x, durations=given, gaps=gaps)[0]], [expected])
    whole = mx.broadcast_to(d[:1], (2, 3))
    same([layer(x, durations=d[0], gaps=1.0)[0]], [layer(x, durations=whole, gaps=mx.ones((2, 3)))[0]])
    same([layer(x, durations=2, gaps=1)[0]], [layer(x, durations=mx.array(2.0), gaps=1.0)[0]])
    backwards = np.array(d)[:, ::-1], np.array(gap)[:, ::-1]
    same([layer(x, durations=backwards[0][:, ::-1], gaps=backwards[1][:, ::-1])[0]], [expected])
    same([layer(x[0], durations=d[0], gaps=gap[0])[0]], [expected[0]], 1e-6)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [{}, {"norm": "layer", "boundary": "replicate"}])
def test_b11_sizes_of_one_keep_their_axes(options: dict, train: bool) -> None:
    for batch, steps, channels, hidden in product((1, 2), repeat=4):
        layer = ConvLSTM(channels, hidden, 3, **options).train(train)
        output, (h, _) = layer(mx.random.normal((batch, steps, 1, 1, channels)))
        assert output.shape == (batch, steps, 1, 1, hidden)
        assert h[0].shape == (batch, 1, 1, hidden)


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}, {"bidirectional": True, "num_layers": 2, "dropout": 0.5}])
def test_an_empty_sequence_returns_the_state(options: dict) -> None:
    layer = ConvLSTM(2, 3, 3, **options)
    count = 4 if "num_layers" in options else 1
    state = tuple(tuple(mx.random.normal((2, 5, 5, 3)) for _ in range(count)) for _ in range(2))
    output, after = layer(mx.zeros((2, 0, 5, 5, 2)), state)
    assert output.shape == (2, 0, 5, 5, 6 if count == 4 else 3)
    same([*after[0], *after[1]], [*state[0], *state[1]])
    assert layer(mx.zeros((2, 0, 5, 5, 2)), lengths=[0, 0])[1][0][0].max() == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "layer", "peephole": "channel"},
        {"bidirectional": True, "boundary": "circular"},
        {"dtype": "float64"},
    ],
)
def test_an_empty_batch_has_empty_results_and_zero_gradients(options: dict) -> None:
    options = options | {"dtype": getattr(mx, options.get("dtype", "float32"))}
    layer = ConvLSTM(2, 3, 3, **options)
    x = mx.zeros((0, 4, 5, 5, 2), dtype=options["dtype"])
    assert all(a.shape[0] == 0 for a in flat(layer(x)))
    gradients = nn.value_and_grad(layer, lambda: sum(a.sum() for a in flat(layer(x))))()[1]
    assert not any(a.any() for kind in gradients["layers"][0].values() for a in kind.values())


@pytest.mark.parametrize(("kernel", "recurrent"), [(2, 2), (4, 3), ((2, 3), (4, 1)), (1, 6)])
def test_b13_even_kernels_keep_the_size_and_their_odd_point_at_the_end(kernel: Any, recurrent: Any) -> None:
    layer = ConvLSTM(1, 2, kernel, recurrent_kernel_size=recurrent)
    assert layer(mx.zeros((1, 3, 8, 8, 1)))[0].shape == (1, 3, 8, 8, 2)
    impulse = mx.zeros((1, 1, 8, 8, 1))
    impulse[..., 4, 4, :] = 1.0
    arrays = {key: np.full_like(a, float("weight_ih" in key)) for key, a in to_canonical(layer).items()}
    load_canonical(layer, arrays)
    reached = np.array(layer(impulse)[0][0, 0, ..., 0]) != 0
    k = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    # output y sees inputs from y − ⌊(k−1)/2⌋ on, so a point reaches back ⌊k/2⌋ and ahead ⌊(k−1)/2⌋
    for axis, size in ((1, k[0]), (0, k[1])):
        places = np.flatnonzero(reached.any(axis=axis))
        assert places.tolist() == list(range(4 - size // 2, 4 + (size - 1) // 2 + 1))


def test_b01_a_state_carried_on_trains_for_many_steps() -> None:
    layer, state = ConvLSTM(1, 4, 3, num_layers=2), None
    optimiser = optimizers.SGD(0.1)

    def loss(x: mx.array, state: Any) -> tuple[mx.array, Any]:
        output, after = layer(x, state)
        return output.square().sum(), after

    for _ in range(4):
        (_, state), gradients = nn.value_and_grad(layer, loss)(mx.random.normal((2, 3, 6, 6, 1)), state)
        optimiser.update(layer, gradients)
        mx.eval(layer.parameters(), state)
    assert all(np.isfinite(a).all() for a in to_canonical(layer).values())


def test_b02_a_state_of_every_layer_comes_back_and_goes_in() -> None:
    layer, x = ConvLSTM(1, [5, 7], 3, stride=[(1, 1), (2, 2)], bidirectional=True), mx.random.normal((2, 3, 8, 8, 1))
    _, state = layer(x)
    assert [h.shape[-1] for h in state[0]] == [5, 5, 7, 7]
    output, _ = layer(x, state)
    assert (output != layer(x)[0]).any()
    same([layer(x, [list(part) for part in state])[0]], [output])


@pytest.mark.parametrize(
    ("shape", "word"),
    [((1, 8, 8, 3), "batch"), ((2, 8, 7, 3), "width"), ((2, 8, 8, 4), "hidden_channels"), ((2, 1, 8, 3), "height")],
)
def test_b03_a_state_that_does_not_fit_says_where(shape: tuple[int, ...], word: str, refused) -> None:
    layer, x = ConvLSTM(1, 3, 3), mx.zeros((2, 4, 8, 8, 1))
    good, bad = mx.zeros((2, 8, 8, 3)), mx.zeros(shape)
    with refused(StateError, "h_0[0]"):
        layer(x, (bad, good))
    with refused(StateError, "c_0[0]"):
        layer(x, ((good,), (bad,)))
    with pytest.raises(StateError, match=f"which differs in {word}"):
        layer(x, (bad, good))


def test_b04_no_call_leaves_a_trace_for_the_next() -> None:
    layer = ConvLSTM(1, 3, 3, num_layers=2)
    x = mx.random.normal((2, 4, 8, 8, 1))
    before = flat(layer(x))
    layer(mx.random.normal((5, 2, 6, 7, 1)))
    same(flat(layer(x)), before)


def test_b05_outputs_and_states_carry_gradients() -> None:
    layer, x = ConvLSTM(1, 3, 3), mx.random.normal((2, 4, 6, 6, 1))
    for pick in range(3):
        assert mx.abs(mx.grad(lambda x, n=pick: flat(layer(x))[n].sum())(x)).max() > 0


def test_b07_final_states_are_one_array_per_direction() -> None:
    layer = ConvLSTM(1, 4, 3, bidirectional=True)
    output, (h, c) = layer(mx.random.normal((2, 3, 5, 6, 1)))
    assert [a.shape for a in (*h, *c)] == [(2, 5, 6, 4)] * 4
    same(list(h), [output[:, -1, ..., :4], output[:, 0, ..., 4:]])


@pytest.mark.parametrize("stride", [2, (1, 3)])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_b20_stride_and_padding_shape_the_state_and_no_step_breaks(stride: Any, padding: Any) -> None:
    layer, x = ConvLSTM(1, 3, 3, stride=stride, padding=padding), mx.random.normal((2, 5, 9, 10, 1))
    output, (h, _) = layer(x)
    weight = layer.layers[0].forward.weight_ih
    if padding != "same":
        assert output.shape[2:4] == mx.conv2d(x[:, 0], weight, stride, 0 if padding == "valid" else 1).shape[1:3]
    assert output.shape[2:4] == h[0].shape[1:3] == layer.spec.grids((9, 10))[0]
    assert mx.abs(mx.grad(lambda x: layer(x)[0].sum())(x)).sum() > 0


def test_a_cell_without_a_batch_and_with_durations() -> None:
    cell = ConvLSTMCell(2, 3, 3, stride=2, duration_strategy="linear", memory_decay=True)
    h, c = cell.init_hidden(batch_size=2, image_size=(7, 8))
    assert h.shape == c.shape == (2, 4, 4, 3)
    x, d = mx.random.normal((2, 7, 8, 2)), mx.array([0.5, 2.0])
    both = cell(x, (h, c), duration=d, gap=d)
    for form in (d[:, None], d.tolist()):
        same(list(cell(x, [h, c], duration=form, gap=form)), list(both))
    for row in range(2):
        single = cell(x[row], (h[row], c[row]), duration=d[row], gap=d[row].item())
        assert single[0].shape == (4, 4, 3)
        same(list(single), [both[0][row], both[1][row]], 1e-6)
    one = ConvLSTMCell(1, 2, 3, spatial_dims=1)
    assert [a.shape for a in one.init_hidden(3, 5)] == [(3, 5, 2)] * 2
    assert one(mx.zeros((3, 5, 1)))[0].shape == (3, 5, 2)


def test_a_function_of_the_duration_runs_and_is_not_saved(refused, tmp_path: Any) -> None:
    layer = ConvLSTM(1, 2, 3, duration_strategy=mx.sqrt, reference_duration=4.0)
    linear = shared(layer, duration_strategy="linear")
    x, durations = mx.random.normal((2, 3, 4, 4, 1)), mx.random.uniform(0.5, 1.5, (2, 3))
    expected, _ = linear(x, durations=mx.sqrt(durations / 4.0))
    same([layer(x, durations=durations)[0]], [expected], 1e-6)
    with refused(SpecError, "duration_strategy"):
        save(tmp_path / "m", layer)


def test_low_precision_keeps_c_in_float32() -> None:
    layer = ConvLSTM(1, 2, 3, dtype=mx.bfloat16, num_layers=2)
    output, (h, c) = layer(mx.zeros((1, 2, 4, 4, 1), dtype=mx.bfloat16))
    assert {output.dtype, *(a.dtype for a in h)} == {mx.bfloat16}
    assert {a.dtype for a in c} == {mx.float32}
    assert [a.dtype for a in ConvLSTMCell(1, 2, 3, dtype=mx.float16).init_hidden(1, 4)] == [mx.float16, mx.float32]
