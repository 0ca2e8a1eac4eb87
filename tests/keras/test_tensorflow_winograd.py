"""Winograd's convolution in the TensorFlow engine: the reference at forced sizes, derivatives, and where it is used."""

from __future__ import annotations

from itertools import count, islice
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from convlstm import ConvLSTMSpec
from convlstm.conformance.adapters.keras import run as run_case
from convlstm.conformance.compare import compare
from convlstm.conformance.random_layers import COMMON, Case, random_case
from convlstm.engine.tensorflow import fused, winograd
from convlstm.engine.tensorflow import recurrence as engine
from convlstm.engine.tensorflow.convolution import Convolution
from convlstm.engine.winograd import ROWS


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Use Winograd's convolution at any size; return for each convolution since whether it was used."""
    for name in ("_MIN_SAVED_PER_VALUE", "_MIN_SAVED_PER_STEP", "_MIN_POSITIONS"):
        monkeypatch.setattr(winograd, name, 0)
    choices: list[bool] = []

    def seen(convolution: Convolution, dtype: tf.DType) -> bool:
        choices.append(winograd.is_faster(convolution, dtype))
        return choices[-1]

    monkeypatch.setattr(fused, "is_faster", seen)
    return choices


def _cases(**fixed: Any) -> list[Case]:
    """Return random layers of the standard cell with a grid whose rows are a multiple of 4."""
    fixed |= {"spatial_dims": 2, "dropout": 0.0, "recurrent_dilation": 1, "num_layers": 1, "peephole": "none"}
    cases = (random_case(seed, **COMMON, **fixed) for seed in count(70_000))
    served = (
        case
        for case in cases
        if case.mask is None and any(grid[0] % ROWS == 0 for grid in case.spec.grids(case.arrays["x"].shape[3:]))
    )
    return list(islice(served, 3))


@pytest.mark.parametrize("fixed", [{"kernel_size": 5, "padding": "same", "stride": 1, "dilation": 1}, {"dilation": 1}])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3), (3, 5), (5, 1)])
def test_layers_hold_the_contract(used: list[bool], kernel: tuple[int, int], fixed: dict[str, Any]) -> None:
    for case in _cases(recurrent_kernel_size=kernel, **fixed):
        found = compare(case, run_case, "float32")
        assert not found.misses("float32"), f"value {found.value:.1e}, derivative {found.derivative:.1e}: {found.label}"
    assert any(used)


OPTIONS: dict[str, dict[str, Any]] = {
    "5 rows": {"kernel_size": 5},
    "3 rows": {"kernel_size": 3},
    "recurrent convolution alone": {"kernel_size": 4, "recurrent_kernel_size": (5, 3), "bias": False},
    "stride": {"kernel_size": 3, "stride": (2, 1), "recurrent_kernel_size": 5},
}
STATE = (2, 8, 5, 4)


def _layer(**options: Any) -> tuple[Any, dict[str, Any], Any, Any]:
    """Return a layer, its weights, x and h in float64."""
    random = np.random.default_rng(0)
    layer = ConvLSTMSpec(in_channels=2, hidden_channels=4, **options).layers[0]
    rows = 16 if layer.stride[0] == 2 else 8
    shapes = {
        "weight_ih": (*layer.kernel_size, 2, 16),
        "weight_hh": (*layer.recurrent_kernel_size, 4, 16),
        "bias": (16,),
    }
    weights = {name: tf.constant(0.3 * random.standard_normal(shape)) for name, shape in shapes.items()}
    return layer, weights, *(tf.constant(random.standard_normal(n)) for n in ((3, 2, rows, 5, 2), STATE))


def _derivatives(layer: Any, weights: Any, x: Any, h: Any) -> list[Any]:
    """Return output, state, gradients, and the gradient of a sum of the gradients."""
    with tf.GradientTape() as outer:
        outer.watch((weights, x, h))
        with tf.GradientTape() as tape:
            tape.watch((weights, x, h))
            output, (h_n, c_n) = engine.sequence(layer, weights, x, (h, h), steps=3, training=True)
            loss = tf.reduce_sum(output**2) + tf.reduce_sum(h_n * c_n)
        first = tape.gradient(loss, (weights, x, h), unconnected_gradients="zero")
        total = tf.add_n([tf.reduce_sum(tf.sin(gradient)) for gradient in tf.nest.flatten(first)])
    second = outer.gradient(total, (weights, x, h), unconnected_gradients="zero")
    return tf.nest.flatten((output, h_n, c_n, first, second))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("how", ["eager", "unknown batch"])
def test_derivatives_are_those_of_the_direct_convolution(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, where both agree to the last digits."""
    layer, weights, x, h = _layer(**OPTIONS[name])
    expected = _derivatives(layer, weights, x, h)
    made: list[int] = []

    def choose(convolution: Convolution, dtype: tf.DType) -> bool:
        is_served = set(convolution.stride) == {1} and convolution.kernel[0] in (3, 5)
        made.append(is_served)
        return is_served

    monkeypatch.setattr(fused, "is_faster", choose)
    call: Any = lambda x, h: _derivatives(layer, weights, x, h)  # noqa: E731
    if how == "unknown batch":
        signature = [tf.TensorSpec((3, None, *x.shape[2:]), x.dtype), tf.TensorSpec((None, *h.shape[1:]), h.dtype)]
        call = tf.function(call, input_signature=signature, autograph=False)
    for a, b in zip(call(x, h), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)
    assert any(made)
    if how == "unknown batch":
        assert call(x[:, :0], h[:0])[0].shape == (3, 0, 8, 5, 4)


def test_a_jacobian_is_that_of_the_direct_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, weights, x, h = _layer(**OPTIONS["5 rows"])

    def jacobian() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            output, _ = engine.sequence(layer, weights, x, (h, h), steps=3, training=True)
            sums = tf.reduce_sum(output, axis=(2, 3))
        return tape.jacobian(sums, x)

    expected = jacobian()
    monkeypatch.setattr(fused, "is_faster", lambda *_: True)
    np.testing.assert_allclose(jacobian(), expected, rtol=0, atol=1e-11)
    np.testing.assert_allclose(tf.function(jacobian)(), expected, rtol=0, atol=1e-11)


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_used(
        batch: Any, grid: tuple[int, int], kernel: tuple[int, ...], dtype: Any = tf.float32, step: int = 1
    ) -> bool:
        *_, inner, out = kernel
        convolution = Convolution((step, step), "SAME", (batch, *grid, inner), (*kernel[:-1], 4 * out))
        return winograd.is_faster(convolution, dtype)

    unknown = tf.constant(16)
    assert is_used(16, (16, 16), (5, 5, 128, 128))
    assert is_used(8, (32, 32), (3, 3, 128, 128))
    assert is_used(unknown, (16, 16), (5, 5, 128, 128))
    assert not is_used(16, (18, 16), (5, 5, 128, 128)), "rows of no whole window"
    assert not is_used(16, (16, 16), (5, 4, 128, 128)), "an even number of columns"
    assert not is_used(16, (16, 16), (7, 7, 128, 128)), "no points for 7 rows"
    assert not is_used(16, (16, 16), (5, 5, 128, 128), step=2)
    assert not is_used(8, (64, 64), (3, 3, 64, 64)), "transforms take what products save"
    assert not is_used(1, (16, 16), (5, 5, 128, 128)), "few points for the filter transform"
    assert not is_used(16, (256, 256), (5, 5, 128, 128)), "much memory"
    assert is_used(8, (64, 64), (5, 5, 128, 128))
    assert not is_used(unknown, (64, 64), (5, 5, 128, 128)), "much memory if the batch has 32 samples"
    for dtype in (tf.float64, tf.bfloat16, tf.float16):
        assert not is_used(16, (16, 16), (5, 5, 128, 128), dtype)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert not is_used(16, (16, 16), (5, 5, 128, 128)), "a GPU"
