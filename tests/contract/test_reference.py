"""The definition against numbers worked by hand.

`accumulator` makes a cell whose gates are exactly 1 and whose candidate is the input, so that c adds up the frames
and h = c: what masks, directions, durations and dropout do is then plain arithmetic.
"""

from __future__ import annotations

from math import exp, log, sqrt, tanh
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.contract import reference
from convlstm.contract.cases import random_case, reference_arrays
from convlstm.contract.reference import Masks
from convlstm.contract.weights import initialise
from convlstm.errors import ShapeError


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def accumulator(**options: Any) -> tuple[ConvLSTMSpec, dict[str, np.ndarray]]:
    spec = ConvLSTMSpec(
        **{"in_channels": 1, "hidden_channels": 1, "kernel_size": 1, "spatial_dims": 1} | options,
        activation="identity",
        recurrent_activation="hard_sigmoid",
    )
    weights = {key: np.zeros_like(array) for key, array in initialise(spec, 0).items()}
    for key, array in weights.items():
        if key.endswith("weight_ih"):
            array[2, 0, 0] = 1.0
        if key.endswith("bias"):
            array[[0, 1, 3]] = 10.0  # hard_sigmoid(10) is exactly 1
    return spec, weights


def run(spec: ConvLSTMSpec, weights: Any, frames: Any, **given: Any) -> tuple[np.ndarray, list[float]]:
    """Return outputs (batch, time, ...) and the final c of one-point frames."""
    x = np.asarray(frames, dtype=float)[:, :, None, None]
    output, final = reference.stack(spec, weights, x, **given)
    return np.asarray(output)[..., 0], [c.ravel().tolist() for _, c in final]


def test_a_cell_of_zero_weights() -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=3, bias=False)
    weights = {key: np.zeros_like(array) for key, array in initialise(spec, 0).items()}
    state = (np.full((1, 1, 1, 1), 7.0), np.full((1, 1, 1, 1), 0.8))
    h, c = reference.step(spec.layers[0], _own(weights), np.ones((1, 1, 1, 1)), state)
    assert c.item() == 0.4  # i = f = o = 0.5, g = 0
    assert h.item() == pytest.approx(0.18997448112761243, abs=1e-16)  # 0.5 · tanh(0.4)


def test_one_point_two_steps_with_peepholes_by_hand() -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=1, kernel_size=1, peephole="channel")
    w_ih, w_hh, b, p = (0.1, -0.2, 0.3, 0.4), (0.5, 0.6, -0.7, 0.8), (0.01, 1.0, -0.02, 0.03), (0.9, -1.1, 1.2)
    weights = {
        "layers.0.forward.weight_ih": np.reshape(w_ih, (4, 1, 1, 1, 1)),
        "layers.0.forward.weight_hh": np.reshape(w_hh, (4, 1, 1, 1, 1)),
        "layers.0.forward.bias": np.reshape(b, (4, 1)),
        "layers.0.forward.peephole": np.reshape(p, (3, 1)),
    }
    h, c, expected = 0.5, -0.25, []
    for x in (2.0, -3.0):
        z = [w_ih[n] * x + w_hh[n] * h + b[n] for n in range(4)]
        i, f, g = sigmoid(z[0] + p[0] * c), sigmoid(z[1] + p[1] * c), tanh(z[2])
        c = f * c + i * g
        h = sigmoid(z[3] + p[2] * c) * tanh(c)  # B16: the output gate peeks at the new cell
        expected.append(h)
    state = [(np.full((1, 1, 1, 1), 0.5), np.full((1, 1, 1, 1), -0.25))]
    output, final = reference.stack(spec, weights, np.reshape([2.0, -3.0], (1, 2, 1, 1, 1)), state)
    np.testing.assert_allclose(np.ravel(output), expected, atol=1e-15)
    assert final[0][1].item() == pytest.approx(c, abs=1e-15)


@pytest.mark.parametrize("peephole", ["channel", "pixel"])
def test_a_three_by_three_field_in_plain_python(peephole: str) -> None:
    size = (3, 3)
    options = {"peephole": peephole} | ({"input_size": size} if peephole == "pixel" else {})
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=2, kernel_size=3, recurrent_kernel_size=(1, 3), **options)
    random = np.random.default_rng(1)
    weights = {k: random.standard_normal(a.shape) for k, a in initialise(spec, 0).items()}
    own = _own(weights)
    x, h, c = (random.standard_normal((1, 2, *size)) for _ in range(3))
    peep = own["peephole"] if peephole == "pixel" else np.broadcast_to(own["peephole"][:, :, None, None], (3, 2, 3, 3))

    def convolved(field: np.ndarray, kernel: np.ndarray, y: int, x_: int) -> float:
        total = 0.0
        rows, columns = kernel.shape[1:]
        for channel in range(2):
            for dy in range(rows):
                for dx in range(columns):
                    row, column = y + dy - rows // 2, x_ + dx - columns // 2
                    if 0 <= row < 3 and 0 <= column < 3:
                        total += kernel[channel, dy, dx] * field[0, channel, row, column]
        return total

    h_new, c_new = reference.step(spec.layers[0], own, x, (h, c))
    for channel in range(2):
        for row in range(3):
            for column in range(3):
                z = [
                    convolved(x, own["weight_ih"][n, channel], row, column)
                    + convolved(h, own["weight_hh"][n, channel], row, column)
                    + own["bias"][n, channel]
                    for n in range(4)
                ]
                p, before = peep[:, channel, row, column], c[0, channel, row, column]
                after = sigmoid(z[1] + p[1] * before) * before + sigmoid(z[0] + p[0] * before) * tanh(z[2])
                assert c_new[0, channel, row, column] == pytest.approx(after, abs=1e-14)
                out = sigmoid(z[3] + p[2] * after) * tanh(after)
                assert h_new[0, channel, row, column] == pytest.approx(out, abs=1e-14)


@pytest.mark.parametrize("groups", [1, 2])
def test_normalisation_by_hand(groups: int) -> None:
    norm = {"norm": "layer"} if groups == 1 else {"norm": "group", "norm_groups": 2}
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1, spatial_dims=1, **norm)
    z = np.array([[1.0, 3.0], [2.0, 8.0]])  # channels × width of gate g; the other gates see 0 and stay at 0.5
    weights = _own({key: np.zeros_like(a) for key, a in initialise(spec, 0).items()})
    weights["weight_ih"][2] = [[[1.0]], [[0.0]]]
    weights["norm_scale"][...] = 1.0
    weights["norm_scale"][2] = [2.0, 0.5]
    weights["bias"][2] = [0.1, -0.1]
    x = z[:1][None]
    # channel 0 of gate g is x, channel 1 is 0
    seen = np.array([[1.0, 3.0], [0.0, 0.0]])
    parts = [seen] if groups == 1 else [seen[:1], seen[1:]]
    normed = np.concatenate([(p - p.mean()) / sqrt(((p - p.mean()) ** 2).mean() + 1e-5) for p in parts])
    g = np.tanh(normed * [[2.0], [0.5]] + [[0.1], [-0.1]])
    state = (np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))
    _, c = reference.step(spec.layers[0], weights, x, state)
    np.testing.assert_allclose(c[0], 0.5 * g, atol=1e-15)


def test_groups_act_inside_each_gate() -> None:
    spec = ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=1, groups=2, bias=False, activation="identity")
    weights = _own({key: np.zeros_like(a) for key, a in initialise(spec, 0).items()})
    weights["weight_ih"][2, 0, :, 0, 0] = [1.0, 10.0]  # hidden channel 0 sees inputs 0 and 1
    weights["weight_ih"][2, 1, :, 0, 0] = [100.0, 1000.0]  # hidden channel 1 sees inputs 2 and 3
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    state = (np.zeros((1, 2, 1, 1)), np.zeros((1, 2, 1, 1)))
    _, c = reference.step(spec.layers[0], weights, x, state)
    assert c.ravel().tolist() == [0.5 * 21.0, 0.5 * 4300.0]


def test_time_directions_and_merges() -> None:
    forward, backward = [1.0, 3.0, 6.0], [6.0, 5.0, 3.0]  # B6: backward outputs stand in input order
    assert run(*accumulator(), [[1, 2, 3]])[0].ravel().tolist() == forward
    assert run(*accumulator(direction="reverse"), [[1, 2, 3]])[0].ravel().tolist() == backward
    merged = {"concat": [1, 6, 3, 5, 6, 3], "sum": [7, 8, 9], "mul": [6, 15, 18], "ave": [3.5, 4, 4.5]}
    for merge, expected in merged.items():
        output, final = run(*accumulator(direction="bidirectional", merge=merge), [[1, 2, 3]])
        assert output.ravel().tolist() == expected
        assert final == [[6.0], [6.0]]
    spec, weights = accumulator(direction="bidirectional", merge="apart")
    output, _ = reference.stack(spec, weights, np.array([1.0, 2, 3]).reshape(1, 3, 1, 1))
    assert [part.ravel().tolist() for part in output] == [forward, backward]


def test_apart_splits_the_last_layer_only() -> None:
    spec, weights = accumulator(direction="bidirectional", merge="apart", num_layers=2)
    for direction in spec.directions:
        weights[f"layers.1.{direction}.weight_ih"][2, 0, :, 0] = [1.0, 100.0]
    output, final = reference.stack(spec, weights, np.array([1.0, 2, 3]).reshape(1, 3, 1, 1))
    # layer 0: forward 1 3 6, backward 6 5 3; layer 1 adds up forward + 100 · backward
    assert output[0].ravel().tolist() == [601.0, 1104.0, 1410.0]
    assert output[1].ravel().tolist() == [1410.0, 809.0, 306.0]
    assert [c.item() for _, c in final] == [6.0, 6.0, 1410.0, 1410.0]


def test_a_second_layer_adds_up_again() -> None:
    output, final = run(*accumulator(num_layers=2), [[1, 2, 3]])
    assert output.ravel().tolist() == [1.0, 4.0, 10.0]
    assert final == [[6.0], [10.0]]


@pytest.mark.parametrize(
    ("masked_output", "direction", "mask", "expected", "final"),
    [
        ("zero", "forward", [1, 0, 1, 0], [1, 0, 4, 0], 4),
        ("hold", "forward", [1, 0, 1, 0], [1, 1, 4, 4], 4),
        ("hold", "forward", [0, 1, 0, 1], [0, 2, 2, 6], 6),  # zeros before the first valid step
        ("zero", "reverse", [1, 0, 1, 0], [4, 0, 3, 0], 4),
        ("hold", "reverse", [1, 0, 1, 0], [4, 3, 3, 0], 4),  # previous in processing order; B19: not from the padding
        ("hold", "forward", [0, 0, 0, 0], [0, 0, 0, 0], 0),
        ("zero", "reverse", [0, 0, 0, 0], [0, 0, 0, 0], 0),
    ],
)
def test_masks_by_hand(masked_output: str, direction: str, mask: list, expected: list, final: float) -> None:
    spec, weights = accumulator(masked_output=masked_output, direction=direction)
    valid = np.array([mask], dtype=bool)
    frames = np.where(valid, [[1.0, 2.0, 3.0, 4.0]], np.nan)  # what is masked reaches nothing
    output, states = run(spec, weights, frames, mask=valid)
    assert output.ravel().tolist() == expected
    assert states == [[final]]


@pytest.mark.parametrize(("direction", "expected"), [("forward", [0, 9, 9]), ("reverse", [9, 9, 0])])
def test_before_the_first_valid_step_the_output_is_zero_and_not_the_state(direction: str, expected: list) -> None:
    spec, weights = accumulator(masked_output="hold", direction=direction)
    start = [(np.full((1, 1, 1), 7.0), np.full((1, 1, 1), 7.0))]
    mask = np.array([[False, True, False]])
    output, [(h, _)] = reference.stack(spec, weights, np.full((1, 3, 1, 1), 2.0), start, mask=mask)
    assert output.ravel().tolist() == expected
    assert h.item() == 9.0


def test_a_row_of_length_zero_returns_its_initial_state() -> None:
    spec, weights = accumulator()
    start = [(np.array([5.0, 7.0]).reshape(2, 1, 1), np.array([6.0, 8.0]).reshape(2, 1, 1))]
    mask = np.array([[True, True], [False, False]])
    x = np.ones((2, 2, 1, 1))
    output, [(h, c)] = reference.stack(spec, weights, x, start, mask=mask)
    assert output[:, :, 0, 0].tolist() == [[7.0, 8.0], [0.0, 0.0]]
    assert h.ravel().tolist() == [8.0, 7.0]
    assert c.ravel().tolist() == [8.0, 8.0]


def test_an_empty_sequence_returns_the_state() -> None:
    spec, weights = accumulator(num_layers=2)
    start = [(np.full((2, 1, 1), n), np.full((2, 1, 1), 10.0 + n)) for n in range(2)]
    output, final = reference.stack(spec, weights, np.zeros((2, 0, 1, 1)), start)
    assert output.shape == (2, 0, 1, 1)
    for after, before in zip(final, start, strict=True):
        np.testing.assert_array_equal(after, before)


def test_durations_scale_the_candidate_of_their_own_step_in_both_directions() -> None:
    durations = np.array([[1.0, 4.0, 0.5]])
    forward, _ = run(*accumulator(duration_strategy="linear"), [[1, 2, 3]], durations=durations)
    assert forward.ravel().tolist() == [1.0, 9.0, 10.5]
    spec, weights = accumulator(duration_strategy="linear", direction="reverse", reference_duration=2.0)
    backward, _ = run(spec, weights, [[1, 2, 3]], durations=durations)
    assert backward.ravel().tolist() == [5.25, 4.75, 0.75]


def test_memory_decay_stands_where_the_old_cell_stands() -> None:
    spec, weights = accumulator(memory_decay=True, reference_duration=5.0)  # softplus(0) = ln 2: half is left at q = 2
    gaps = {"forward": np.array([[5.0, 10.0, 0.0]])}
    output, _ = run(spec, weights, [[1, 2, 3]], gaps=gaps)
    np.testing.assert_allclose(output.ravel(), [1.0, 2.5, 5.5], atol=1e-15)
    mask = np.array([[True, False, True]])
    output, _ = run(spec, weights, [[1, 2, 3]], gaps={"forward": np.array([[5.0, np.nan, 15.0]])}, mask=mask)
    np.testing.assert_allclose(output.ravel(), [1.0, 0.0, 3.25], atol=1e-15)  # a masked step carries c undecayed


def test_memory_decay_reaches_the_peepholes() -> None:
    spec = ConvLSTMSpec(
        in_channels=1, hidden_channels=1, kernel_size=1, spatial_dims=1, peephole="channel", memory_decay=True
    )
    weights = _own({key: np.zeros_like(a) for key, a in initialise(spec, 0).items()})
    weights["peephole"][1] = 2.0
    state = (np.zeros((1, 1, 1)), np.full((1, 1, 1), 0.8))
    _, c = reference.step(spec.layers[0], weights, None, state, retention=np.full((1, 1, 1), 0.5))
    assert c.item() == pytest.approx(sigmoid(2.0 * 0.4) * 0.4, abs=1e-16)


def test_zoneout_by_rate_in_evaluation_and_by_mask_in_training() -> None:
    spec, weights = accumulator(zoneout_h=0.25, zoneout_c=0.5)
    output, final = run(spec, weights, [[1, 2]])
    # step 1: c̃ = 1, c = 0.5, h = 0.75 · c̃; step 2: c̃ = 0.5 + 2, c = 0.5 · 0.5 + 0.5 · 2.5, h = 0.25 h + 0.75 c̃
    assert output.ravel().tolist() == [0.75, 0.25 * 0.75 + 0.75 * 2.5]
    assert final == [[1.5]]
    keep_h, keep_c = (np.array(m).reshape(2, 1, 1, 1) for m in ([0.0, 1.0], [1.0, 0.0]))
    masks = {(0, "forward"): Masks(zoneout_h=keep_h, zoneout_c=keep_c)}
    output, final = run(spec, weights, [[1, 2]], masks=masks)
    assert output.ravel().tolist() == [1.0, 1.0]
    assert final == [[2.0]]


def test_dropout_masks_by_hand() -> None:
    spec, weights = accumulator(input_dropout=0.5, recurrent_dropout=0.5, num_layers=2, dropout=0.5)
    weights["layers.0.forward.weight_hh"][2] = 1.0  # c adds up x and h, so that h's mask is seen
    double, drop = np.full((1, 1, 1), 2.0), np.zeros((1, 1, 1))
    masks = {(0, "forward"): Masks(input=double, recurrent=double), (1, "forward"): Masks(recurrent=drop)}
    between = (np.array([0.0, 2.0]).reshape(1, 2, 1, 1),)
    output, final = run(spec, weights, [[1, 2]], masks=masks, dropout=between)
    # layer 0: c = 2, then 2 + 2·2 + 2·2 = 10; between layers × 0 and × 2; layer 1 adds up 0 and 20
    assert final == [[10.0], [20.0]]
    assert output.ravel().tolist() == [0.0, 20.0]


@pytest.mark.parametrize(("name", "bad"), [("durations", -1.0), ("durations", np.nan), ("gaps", np.inf)])
def test_bad_durations_are_refused_where_they_are_valid(name: str, bad: float, refused) -> None:
    options = {"memory_decay": True} if name == "gaps" else {"duration_strategy": "log"}
    spec, weights = accumulator(**options)
    values = np.array([[1.0, bad]])
    given = {name: {"forward": values} if name == "gaps" else values}
    with refused(ShapeError, name):
        run(spec, weights, [[1, 2]], **given)
    output, _ = run(spec, weights, [[1, 2]], mask=np.array([[True, False]]), **given)
    assert np.isfinite(output).all()


@pytest.mark.parametrize("seed", [3, 11, 17, 23])
def test_b10_rows_of_a_batch_do_not_meet(seed: int) -> None:
    case = random_case(seed, input_dropout=0.0, recurrent_dropout=0.0, zoneout_h=0.0, zoneout_c=0.0)
    rows = case.arrays["x"].shape[0]
    inputs = [name for name in case.arrays if name.startswith(("x", "h.", "c.", "durations", "gaps"))]
    whole = reference_arrays(case)
    for row in range(rows if case.masks is None else 0):
        alone = {k: a[row : row + 1] if k in inputs else a for k, a in case.arrays.items()}
        mask = None if case.mask is None else case.mask[row : row + 1]
        single = reference_arrays(_with(case, alone, mask))
        for name, value in single.items():
            np.testing.assert_allclose(value, whole[name][row : row + 1], atol=1e-14)


def _with(case: Any, arrays: Any, mask: Any) -> Any:
    return type(case)(case.seed, case.spec, arrays, mask)


def _own(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.split(".", 3)[3]: array for key, array in weights.items()}


def test_the_log_strategy_turns_negative_as_its_docs_say() -> None:
    spec, weights = accumulator(duration_strategy="log")
    output, _ = run(spec, weights, [[1.0]], durations=np.array([[0.1]]))
    assert output.item() == pytest.approx(log(0.1 + 1e-6) + 1, abs=1e-15)
    assert output.item() < 0
