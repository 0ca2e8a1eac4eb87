"""Sequences of the definition against numbers worked by hand.

`accumulator` makes a cell whose gates are exactly 1 and whose candidate is the input, so that c adds up the frames
and h = c: what masks, directions, durations and dropout do is then plain arithmetic.
"""

from __future__ import annotations

from math import exp, log
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.errors import ShapeError
from convlstm.reference import recurrence as reference
from convlstm.spec.masks import LayerMasks
from convlstm.weights.canonical import initialise


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


def test_time_directions_and_merges() -> None:
    forward, backward = [1.0, 3.0, 6.0], [6.0, 5.0, 3.0]  # B6: backward outputs stand in input order
    assert run(*accumulator(), [[1, 2, 3]])[0].ravel().tolist() == forward
    assert run(*accumulator(direction="reverse"), [[1, 2, 3]])[0].ravel().tolist() == backward
    merged = {"concat": [1, 6, 3, 5, 6, 3], "sum": [7, 8, 9], "mul": [6, 15, 18], "ave": [3.5, 4, 4.5]}
    for merge, expected in merged.items():
        output, final = run(*accumulator(direction="bidirectional", merge=merge), [[1, 2, 3]])
        assert output.ravel().tolist() == expected
        assert final == [[6.0], [6.0]]
    spec, weights = accumulator(direction="bidirectional", merge="separate")
    output, _ = reference.stack(spec, weights, np.array([1.0, 2, 3]).reshape(1, 3, 1, 1))
    assert [part.ravel().tolist() for part in output] == [forward, backward]


def test_separate_splits_the_last_layer_only() -> None:
    spec, weights = accumulator(direction="bidirectional", merge="separate", num_layers=2)
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


def test_a_batch_without_rows_gives_outputs_without_them() -> None:
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=4, kernel_size=3, groups=2, stride=2)
    outputs, [(h, c)] = reference.stack(spec, initialise(spec, 0), np.zeros((0, 3, 2, 6, 5)))
    assert (outputs.shape, h.shape, c.shape) == ((0, 3, 4, 3, 3), (0, 4, 3, 3), (0, 4, 3, 3))


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
    assert c.item() == pytest.approx(1 / (1 + exp(-2.0 * 0.4)) * 0.4, abs=1e-16)


def test_zoneout_by_rate_in_evaluation_and_by_mask_in_training() -> None:
    spec, weights = accumulator(zoneout_h=0.25, zoneout_c=0.5)
    output, final = run(spec, weights, [[1, 2]])
    # step 1: c̃ = 1, c = 0.5, h = 0.75 · c̃; step 2: c̃ = 0.5 + 2, c = 0.5 · 0.5 + 0.5 · 2.5, h = 0.25 h + 0.75 c̃
    assert output.ravel().tolist() == [0.75, 0.25 * 0.75 + 0.75 * 2.5]
    assert final == [[1.5]]
    keep_h, keep_c = (np.array(m).reshape(2, 1, 1, 1) for m in ([0.0, 1.0], [1.0, 0.0]))
    masks = {(0, "forward"): LayerMasks(zoneout_h=keep_h, zoneout_c=keep_c)}
    output, final = run(spec, weights, [[1, 2]], masks=masks)
    assert output.ravel().tolist() == [1.0, 1.0]
    assert final == [[2.0]]


def test_dropout_masks_by_hand() -> None:
    spec, weights = accumulator(input_dropout=0.5, recurrent_dropout=0.5, num_layers=2, dropout=0.5)
    weights["layers.0.forward.weight_hh"][2] = 1.0  # c adds up x and h, so that h's mask is seen
    double, drop = np.full((1, 1, 1), 2.0), np.zeros((1, 1, 1))
    masks = {(0, "forward"): LayerMasks(input=double, recurrent=double), (1, "forward"): LayerMasks(recurrent=drop)}
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


def test_the_log_strategy_turns_negative_as_its_docs_say() -> None:
    spec, weights = accumulator(duration_strategy="log")
    output, _ = run(spec, weights, [[1.0]], durations=np.array([[0.1]]))
    assert output.item() == pytest.approx(log(0.1 + 1e-6) + 1, abs=1e-15)
    assert output.item() < 0


def _own(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.split(".", 3)[3]: array for key, array in weights.items()}
