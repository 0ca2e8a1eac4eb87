"""The call forms of seeds 001 and 004 as their documents write them, and the defects their code had."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from convlstm.conformance.drop_in import UsageExample, check
from convlstm.conformance.drop_in_lines.mlx import EXAMPLES
from convlstm.errors import ShapeError, SpecError
from convlstm.mlx import ConvLSTM as Native
from convlstm.mlx import load_canonical, to_canonical
from convlstm.mlx.compat import ConvLSTM, _conv_lstm_cell


def native(layer: ConvLSTM) -> Native:
    twin = Native.from_spec(layer.spec)
    load_canonical(twin, to_canonical(layer))
    return twin


def test_the_documents_lines() -> None:
    layer = ConvLSTM(in_channels=3, out_channels=8, kernel_size=5, bias=True)
    assert layer(mx.zeros((2, 4, 9, 7, 3))).shape == (2, 4, 9, 7, 8)
    assert layer(mx.zeros((4, 9, 7, 3))).shape == (4, 9, 7, 8)
    assert ConvLSTM(3, 8).spec.kernel_size == ((5, 5),)
    cell = _conv_lstm_cell(3, 8, kernel_size=3, stride=1, padding=1, dilation=1, bias=True)
    h = c = mx.zeros((2, 9, 7, 8))
    h, c = cell(mx.zeros((2, 9, 7, 3)), (h, c))
    assert h.shape == c.shape == (2, 9, 7, 8)
    assert cell(mx.zeros((9, 7, 3)))[0].shape == (9, 7, 8)


def test_a_call_returns_what_the_native_layer_does() -> None:
    layer, x = ConvLSTM(2, 3, 3), mx.random.normal((2, 4, 6, 5, 2))
    output, (h, c) = native(layer)(x)
    found, (h_n, c_n) = layer(x, return_state=True)
    for a, b in ((layer(x), output), (found, output), (h_n[0], h[0]), (c_n[0], c[0])):
        assert mx.array_equal(a, b)
    again, _ = native(layer)(x, (h, c))
    assert mx.array_equal(layer(x, (h_n, c_n)), again)


def test_the_three_wishes() -> None:
    x = mx.random.normal((2, 4, 9, 7, 2))
    assert ConvLSTM(2, 3, 3, bidirectional=True)(x).shape == (2, 4, 9, 7, 6)
    assert ConvLSTM(2, 3, 3, stride=2)(x).shape == (2, 4, 5, 4, 3)
    for padding, grid in (("same", (9, 7)), ("valid", (7, 5)), ((2, 0), (11, 5))):
        assert ConvLSTM(2, 3, 3, padding=padding)(x).shape == (2, 4, *grid, 3)
        assert _conv_lstm_cell(2, 3, 3, padding=padding)(x[:, 0])[0].shape == (2, *grid, 3)


def test_rows_and_steps_of_a_batch_are_independent() -> None:
    layer, x = ConvLSTM(2, 3, 3), mx.random.normal((2, 3, 6, 5, 2))
    together = layer(x)
    for row in range(2):
        np.testing.assert_allclose(layer(x[row]), together[row], rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer(x[:, :2]), together[:, :2], rtol=0, atol=1e-6)


def test_sizes_of_one_keep_their_axes() -> None:
    assert ConvLSTM(1, 1, 3)(mx.zeros((1, 1, 4, 4, 1))).shape == (1, 1, 4, 4, 1)
    assert ConvLSTM(1, 1, 3)(mx.zeros((1, 1, 4, 1))).shape == (1, 1, 4, 1)
    assert ConvLSTM(1, 1, 1)(mx.zeros((1, 1, 1, 1, 1))).shape == (1, 1, 1, 1, 1)


def test_even_kernels_work_and_wrong_calls_are_refused(refused) -> None:
    assert ConvLSTM(1, 2, 4)(mx.zeros((1, 2, 8, 8, 1))).shape == (1, 2, 8, 8, 2)
    for wrong in (mx.zeros((4, 4)), mx.zeros((1, 2, 8, 8, 3)), mx.zeros((1, 1, 2, 8, 8, 1))):
        with refused(ShapeError, "x"):
            ConvLSTM(1, 2)(wrong)
    with refused(ShapeError, "x"):
        _conv_lstm_cell(1, 2)(mx.zeros((4, 4)))
    with refused(SpecError, "kernel_size"):
        ConvLSTM(1, 2, 0)


@pytest.mark.parametrize("kind", [ConvLSTM, _conv_lstm_cell])
def test_peepholes_act(kind: type) -> None:
    module = kind(1, 2, 3)
    assert module.spec.peephole == "channel"
    x = mx.random.normal((2, 3, 5, 5, 1))

    def result() -> mx.array:
        return module(x) if kind is ConvLSTM else module(x[:, 0], (mx.ones((2, 5, 5, 2)), mx.ones((2, 5, 5, 2))))[0]

    arrays = to_canonical(module)
    before = result()
    for gate in range(3):
        changed = arrays["layers.0.forward.peephole"].copy()
        changed[gate] = 0.7
        load_canonical(module, arrays | {"layers.0.forward.peephole": changed})
        assert mx.abs(result() - before).max() > 1e-3
    assert kind(1, 2, peephole="none") is not None


@pytest.mark.parametrize("form", EXAMPLES, ids=lambda form: f"{form.project} {form.line}")
def test_every_form_runs_and_agrees_with_the_reference(form: UsageExample) -> None:
    checked = check(form)
    assert not checked.failure
    assert checked.outcome is not None
    assert checked.outcome.difference <= 1e-5  # float32: docs/contract.md, Precision
