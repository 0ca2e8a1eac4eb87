"""Axes, empty and single sizes, states and types, as a user passes them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convlstm import ForecasterSpec
from convlstm.errors import ShapeError, SpecError, StateError

TWO_WAYS = {"direction": "bidirectional", "num_layers": 2}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def same(found: Any, wanted: Any, atol: float = 0.0) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def with_weights_of(frontend, layer: Any, *given: Any, **options: Any) -> Any:
    other = frontend.build("ConvLSTM", *given, **options)
    frontend.load_canonical(other, frontend.to_canonical(layer))
    return other


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_shapes(dims: int, direction: str, frontend) -> None:
    options = {"stride": [(2,) * dims, (1,) * dims], "spatial_dims": dims, "direction": direction}
    layer = frontend.build("ConvLSTM", 2, [3, 4], 3, **options)
    size, grid, ways = (7, 8, 9)[:dims], (4, 4, 5)[:dims], 1 + (direction == "bidirectional")
    result = frontend.call(layer, zeros(2, 5, 2, *size))
    assert result.output.shape == (2, 5, 4 * ways, *grid)
    shapes = [(2, n, *grid) for n in (3, 4) for _ in range(ways)]
    assert [part.shape for part in result.h] == [part.shape for part in result.c] == shapes


@pytest.mark.parametrize("merge", ["concat", "separate"])
def test_without_a_batch(merge: str, frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 2, 3, 3, merge=merge, **TWO_WAYS), normal(2, 5, 2, 6, 6)
    batch, alone = frontend.call(layer, x), frontend.call(layer, x[1])
    same(alone.arrays, [part[1] for part in batch.arrays], 1e-6)
    assert alone.h[0].shape == (3, 6, 6)
    assert frontend.call(layer, x[1], alone.states).outputs[0].ndim == 4


def test_forms_of_durations_and_gaps(frontend) -> None:
    layer = frontend.build("ConvLSTM", 1, 2, 3, duration_strategy="linear", memory_decay=True)
    x, d, gap = normal(2, 3, 1, 4, 4), abs(normal(2, 3)) + 0.5, abs(normal(2, 3, seed=1)) + 1

    def output(durations: Any, gaps: Any, x: np.ndarray = x) -> np.ndarray:
        return frontend.call(layer, x, durations=durations, gaps=gaps).output

    expected = output(d, gap)
    forms = [(d[..., None], (gap,)), (d.tolist(), gap), (d, gap[..., None])]
    for durations, gaps in forms:
        same([output(durations, gaps)], [expected])
    reversed_view = d[:, ::-1].copy()[:, ::-1]
    as_numpy = frontend.natural_call(layer)(frontend.native(x), durations=reversed_view, gaps=gap)[0]
    same([frontend.channels_first(as_numpy)], [expected])
    same([output(d[0], 1.0)], [output(np.repeat(d[:1], 2, axis=0), np.ones((2, 3), np.float32))])
    same([output(2, 1)], [output(np.array(2.0, np.float32), 1.0)])
    same([output(d[0], gap[0], x[0])], [expected[0]], 1e-6)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [{}, {"norm": "layer", "boundary": "replicate"}])
def test_sizes_of_one_keep_their_axes(options: dict, train: bool, frontend) -> None:
    sizes = product((1, 2), repeat=4)
    if frontend.compiles:
        if options or train:
            pytest.skip("each size compiles for seconds; the first parameters cover all of them")
        sizes = [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)]
    for batch, steps, channels, hidden in sizes:
        layer = frontend.build("ConvLSTM", channels, hidden, 3, **options)
        layer.train() if train else layer.eval()
        result = frontend.call(layer, normal(batch, steps, channels, 1, 1))
        assert result.output.shape == (batch, steps, hidden, 1, 1)
        assert result.h[0].shape == (batch, hidden, 1, 1)


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}, {**TWO_WAYS, "dropout": 0.5}])
def test_empty_sequence_returns_the_state(options: dict, frontend) -> None:
    layer = frontend.build("ConvLSTM", 2, 3, 3, **options)
    count = 4 if "num_layers" in options else 1
    state = tuple(tuple(normal(2, 3, 5, 5, seed=4 * part + n) for n in range(count)) for part in range(2))
    result = frontend.call(layer, zeros(2, 0, 2, 5, 5), state)
    assert result.output.shape == (2, 0, 6 if count == 4 else 3, 5, 5)
    same([*result.h, *result.c], [*state[0], *state[1]])
    assert not frontend.call(layer, zeros(2, 0, 2, 5, 5), lengths=[0, 0]).h[0].any()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "layer", "peephole": "channel"},
        {"direction": "bidirectional", "boundary": "circular"},
        {"dtype": "float64"},
    ],
)
@pytest.mark.usefixtures("float64")
def test_empty_batch_has_empty_results_and_zero_gradients(options: dict, frontend) -> None:
    layer = frontend.build("ConvLSTM", 2, 3, 3, **options)
    x = zeros(0, 4, 2, 5, 5).astype(options.get("dtype", "float32"))
    assert all(part.shape[0] == 0 for part in frontend.call(layer, x).arrays)

    def loss(call: Any, x: Any) -> Any:
        output, (h, c) = call(x)
        return sum(part.sum() for part in (output, *h, *c))

    weights, _ = frontend.gradient(layer, loss)(x)
    assert not any(gradient.any() for gradient in weights.values())


@pytest.mark.parametrize(("kernel", "recurrent"), [(2, 2), (4, 3), ((2, 3), (4, 1)), (1, 6)])
def test_even_kernels_keep_the_size_and_reach_further_back(kernel: Any, recurrent: Any, frontend) -> None:
    layer = frontend.build("ConvLSTM", 1, 2, kernel, recurrent_kernel_size=recurrent)
    assert frontend.call(layer, zeros(1, 3, 1, 8, 8)).output.shape == (1, 3, 2, 8, 8)
    impulse = zeros(1, 1, 1, 8, 8)
    impulse[..., 4, 4] = 1.0
    arrays = {key: np.full_like(a, float("weight_ih" in key)) for key, a in frontend.to_canonical(layer).items()}
    frontend.load_canonical(layer, arrays)
    reached = frontend.call(layer, impulse).output[0, 0, 0] != 0
    sizes = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    # output y sees inputs from y − ⌊(k−1)/2⌋ on, so a point reaches back ⌊k/2⌋ and ahead ⌊(k−1)/2⌋
    for axis, size in ((1, sizes[0]), (0, sizes[1])):
        places = np.flatnonzero(reached.any(axis=axis))
        assert places.tolist() == list(range(4 - size // 2, 4 + (size - 1) // 2 + 1))


def test_state_of_every_layer_is_returned_and_accepted(frontend) -> None:
    options = {"stride": [(1, 1), (2, 2)], "direction": "bidirectional"}
    layer, x = frontend.build("ConvLSTM", 1, [5, 7], 3, **options), normal(2, 3, 1, 8, 8)
    first = frontend.call(layer, x)
    assert [part.shape[1] for part in first.h] == [5, 5, 7, 7]
    second = frontend.call(layer, x, first.states)
    assert (second.output != first.output).any()
    as_lists = [list(part) for part in first.states]
    same(frontend.call(layer, x, as_lists).outputs, second.outputs)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1, 3, 8, 8), "batch"), ((2, 3, 8, 7), "width"), ((2, 4, 8, 8), "hidden_"), ((2, 3, 1, 8), "height")],
)
def test_state_that_does_not_fit_names_its_axis(shape: tuple[int, ...], axis: str, frontend, refused) -> None:
    layer, x = frontend.build("ConvLSTM", 1, 3, 3), zeros(2, 4, 1, 8, 8)
    good, bad = zeros(2, 3, 8, 8), zeros(*shape)
    with refused(StateError, "h_0[0]"):
        frontend.call(layer, x, (bad, good))
    with refused(StateError, "c_0[0]"):
        frontend.call(layer, x, ((good,), (bad,)))
    with pytest.raises(StateError, match=f"which differs in {axis}"):
        frontend.call(layer, x, (bad, good))


def test_no_call_changes_the_next(frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 1, 3, 3, num_layers=2), normal(2, 4, 1, 8, 8)
    before = frontend.call(layer, x)
    frontend.call(layer, normal(5, 2, 1, 6, 7))
    same(frontend.call(layer, x).arrays, before.arrays)


def test_outputs_and_states_carry_gradients(frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 1, 3, 3), normal(2, 4, 1, 6, 6)
    for pick in (lambda y, h, c: y, lambda y, h, c: h[0], lambda y, h, c: c[0]):

        def loss(call: Any, x: Any, pick: Any = pick) -> Any:
            output, states = call(x)
            return pick(output, *states).sum()

        assert np.abs(frontend.gradient(layer, loss)(x)[1]).max() > 0


def test_output_depends_on_no_later_frame(frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 1, 2, 3), normal(1, 4, 1, 6, 6)
    for t in range(4):
        _, of_x = frontend.gradient(layer, lambda call, x, t=t: call(x)[0][:, t].sum())(x)
        reached = np.abs(of_x).sum(axis=(0, 2, 3, 4)) > 0
        assert reached.tolist() == [n <= t for n in range(4)]


def test_final_states_are_those_of_each_direction(frontend) -> None:
    layer = frontend.build("ConvLSTM", 1, 4, 3, direction="bidirectional")
    result = frontend.call(layer, normal(2, 3, 1, 5, 6))
    assert [part.shape for part in (*result.h, *result.c)] == [(2, 4, 5, 6)] * 4
    same(result.h, [result.output[:, -1, :4], result.output[:, 0, 4:]])


@pytest.mark.parametrize("stride", [(2, 2), (1, 3)])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
def test_stride_and_padding_give_the_state_its_size(stride: tuple[int, int], padding: Any, frontend) -> None:
    layer, x = frontend.build("ConvLSTM", 1, 3, 3, stride=stride, padding=padding), normal(2, 5, 1, 9, 10)
    result = frontend.call(layer, x)
    margin = 0 if padding == "valid" else 1
    if padding != "same":
        size = tuple((n + 2 * margin - 3) // s + 1 for n, s in zip((9, 10), stride, strict=True))
        assert result.output.shape[3:] == size
    assert result.output.shape[3:] == result.h[0].shape[2:] == layer.spec.grids((9, 10))[0]
    _, of_x = frontend.gradient(layer, lambda call, x: call(x)[0].sum())(x)
    assert np.abs(of_x).sum() > 0


def test_cell_without_a_batch_and_with_durations(frontend) -> None:
    cell = frontend.build("ConvLSTMCell", 2, 3, 3, stride=2, duration_strategy="linear", memory_decay=True)
    state = frontend.start_cell(cell, 2, (7, 8))
    assert [part.shape for part in state] == [(2, 3, 4, 4)] * 2
    x, d = normal(2, 2, 7, 8), np.array([0.5, 2.0], np.float32)
    batch = frontend.step(cell, x, state, duration=d, gap=d)
    for form in (d[:, None], d.tolist()):
        same(frontend.step(cell, x, state, duration=form, gap=form), batch)
    for row in range(2):
        alone = frontend.step(cell, x[row], [part[row] for part in state], duration=np.array(d[row]), gap=float(d[row]))
        assert alone[0].shape == (3, 4, 4)
        same(alone, [part[row] for part in batch], 1e-6)
    line = frontend.build("ConvLSTMCell", 1, 2, 3, spatial_dims=1)
    assert [part.shape for part in frontend.start_cell(line, 3, (5,))] == [(3, 2, 5)] * 2
    assert frontend.step(line, zeros(3, 1, 5))[0].shape == (3, 2, 5)


def test_function_as_duration_strategy_is_not_saved(frontend, refused, tmp_path: Path) -> None:
    layer = frontend.build("ConvLSTM", 1, 2, 3, duration_strategy=lambda ratio: ratio**0.5, reference_duration=4.0)
    linear = with_weights_of(frontend, layer, 1, 2, 3, duration_strategy="linear")
    x, durations = normal(2, 3, 1, 4, 4), abs(normal(2, 3)) + 0.5
    expected = frontend.call(linear, x, durations=np.sqrt(durations / 4.0))
    same(frontend.call(layer, x, durations=durations).arrays, expected.arrays, 1e-6)
    with refused(SpecError, "duration_strategy"):
        frontend.save(tmp_path / "m", layer)


@pytest.mark.usefixtures("float64")
def test_output_gate_peeks_at_the_new_cell_state(frontend) -> None:
    """One step on one point, by hand."""
    cell = frontend.build("ConvLSTMCell", 1, 1, 1, peephole="channel", dtype="float64")
    arrays = {key: np.zeros_like(array) for key, array in frontend.to_canonical(cell).items()}
    arrays["layers.0.forward.peephole"] = np.array([[0.5], [-0.7], [0.9]])
    arrays["layers.0.forward.bias"] = np.array([[0.1], [0.2], [0.3], [0.4]])
    frontend.load_canonical(cell, arrays)
    c_before, zero = np.full((1, 1, 1, 1), 0.8), np.zeros((1, 1, 1, 1))
    h, c = frontend.step(cell, zero, (zero, c_before))

    def sigmoid(z: Any) -> Any:
        return 1 / (1 + np.exp(-z))

    after = sigmoid(0.2 - 0.7 * c_before) * c_before + sigmoid(0.1 + 0.5 * c_before) * np.tanh(0.3)
    np.testing.assert_allclose(c, after, rtol=1e-14)
    np.testing.assert_allclose(h, sigmoid(0.4 + 0.9 * after) * np.tanh(after), rtol=1e-14)
    assert not np.allclose(h, sigmoid(0.4 + 0.9 * c_before) * np.tanh(after))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_frames_of_integers_are_refused(dtype: str, frontend, refused) -> None:
    layer = frontend.build("ConvLSTM", 1, 2, 3)
    with refused(ShapeError, "x"):
        frontend.call(layer, np.ones((2, 3, 1, 6, 6), dtype))
    model = frontend.build("Forecaster", ForecasterSpec(encoder=layer.spec))
    with refused(ShapeError, "frames"):
        frontend.forecast(model, np.ones((2, 3, 1, 6, 6), dtype), 2)


@pytest.mark.parametrize("kind", ["ConvLSTM", "ConvLSTMCell"])
def test_kernel_size_has_no_default(kind: str, frontend) -> None:
    with pytest.raises(TypeError, match="kernel_size"):
        frontend.build(kind, 1, 2)
