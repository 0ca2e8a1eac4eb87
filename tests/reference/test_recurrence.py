"""One step of the definition against numbers worked by hand."""

from __future__ import annotations

from math import exp, sqrt, tanh
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.conformance.random_layers import random_case, reference_arrays
from convlstm.reference import recurrence as reference
from convlstm.weights.canonical import initialise


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


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
        h = sigmoid(z[3] + p[2] * c) * tanh(c)  # the output gate peeks at the new cell
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


@pytest.mark.parametrize("seed", [3, 11, 17, 23])
def test_rows_of_a_batch_are_independent(seed: int) -> None:
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
