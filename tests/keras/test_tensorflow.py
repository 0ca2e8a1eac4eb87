"""The TensorFlow engine alone: graphs, XLA, unknown sizes and second derivatives."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from convlstm import ConvLSTMSpec
from convlstm.conformance import compare as comparison
from convlstm.conformance.adapters.keras import run as run_case
from convlstm.conformance.random_layers import COMMON, random_case
from convlstm.engine.tensorflow import fused as tensorflow_fused
from convlstm.engine.tensorflow import recurrence as engine
from convlstm.engine.tensorflow.convolution import convolve, convolve_state
from convlstm.errors import ShapeError
from convlstm.keras import ConvLSTM2D

RANDOM: dict[str, np.random.Generator] = {}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rich": {"norm": "layer", "peephole": "channel", "zoneout_h": 0.2, "boundary": ("reflect", "circular")},
    "grouped": {"groups": 2, "dilation": 2, "stride": (1, 2)},
    "dilated recurrence": {"recurrent_dilation": (1, 2)},
    "even": {"kernel_size": 2, "recurrent_kernel_size": 4, "stride": 2},
}


QUICK: dict[str, dict[str, Any]] = {
    "plain": {},
    "line": {"spatial_dims": 1},
    "volume": {"spatial_dims": 3, "recurrent_kernel_size": (1, 2, 3)},
    "stride": {"stride": (2, 1), "padding": "valid", "recurrent_kernel_size": 5},
    "one channel": {"in_channels": 1, "kernel_size": 4},
    "points": {"padding": (2, 0), "bias": False},
}


@pytest.fixture(autouse=True)
def start_anew() -> None:
    """Give each test the same numbers, whatever ran before it."""
    RANDOM["numbers"] = np.random.default_rng(0)


def tensor(*shape: int) -> Any:
    return tf.constant(RANDOM["numbers"].standard_normal(shape))


def build(**options: Any) -> tuple[Any, dict[str, Any]]:
    layer = ConvLSTMSpec(**{"in_channels": 2, "hidden_channels": 4, "kernel_size": 3} | options).layers[0]
    weights = {
        "weight_ih": tensor(*layer.kernel_size, layer.in_channels // layer.groups, 16),
        "weight_hh": 0.3 * tensor(*layer.recurrent_kernel_size, 4, 16),
        "bias": tensor(16),
        "norm_scale": tensor(16),
        "peephole": tensor(3, 4),
    }
    return layer, weights


def run(layer: Any, weights: Any, x: Any, h: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch((weights, x, h))
        steps = x.shape[0] or tf.shape(x)[0]
        output, (h_n, c_n) = engine.sequence(layer, weights, x, (h, h), steps=steps, training=True)
        loss = tf.reduce_sum(output**2) + tf.reduce_sum(h_n * c_n)
    return output, tape.gradient(loss, (weights, x, h), unconnected_gradients="zero")


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("how", ["graph", "unknown", "xla"])
def test_a_graph_gives_what_eager_mode_gives(name: str, how: str) -> None:
    layer, weights = build(**OPTIONS[name])
    x = tensor(3, 2, 6, 5, 2)
    h = tensor(2, *layer.grid((6, 5)), 4)
    wanted = run(layer, weights, x, h)
    signature = [tf.TensorSpec((None, None, None, None, 2), x.dtype), tf.TensorSpec((None, None, None, 4), x.dtype)]
    graph = tf.function(
        lambda x, h: run(layer, weights, x, h),
        input_signature=signature if how == "unknown" else None,
        jit_compile=how == "xla",
        autograph=False,
    )
    for a, b in zip(tf.nest.flatten(graph(x, h)), tf.nest.flatten(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("how", ["eager", "graph", "tape outside", "unknown steps", "evaluation"])
def test_the_fused_path_is_the_ordinary_loop(name: str, reverse: bool, how: str, monkeypatch: Any) -> None:
    layer, weights = build(**QUICK[name])
    size = (6, 5, 4)[: layer.stack.spatial_dims]
    x, h = tensor(3, 2, *size, layer.in_channels), tensor(2, *layer.grid(size), 4)
    weights = {key: weights[key] for key in ("weight_ih", "weight_hh", "bias")}

    def call(x: Any, h: Any, starts_at_zero: bool) -> Any:
        steps = tf.shape(x)[0] if how == "unknown steps" else 3
        state = None if starts_at_zero else (h, 2 * h)
        options = {"steps": steps, "reverse": reverse, "training": how != "evaluation"}
        output, (h_n, c_n) = engine.sequence(layer, weights, x, state, **options)
        return output, h_n, c_n

    def derived(call: Any, starts_at_zero: bool) -> Any:
        with tf.GradientTape() as tape:
            tape.watch((weights, x, h))
            found = call(x, h, starts_at_zero)
            loss = sum(tf.reduce_sum(part * tf.sin(part)) for part in found)
        return found, tape.gradient(loss, (weights, x, h), unconnected_gradients="zero")

    for starts_at_zero in (False, True):
        one = tf.function(call) if how == "tape outside" else call
        own = tf.function(derived) if how in ("graph", "unknown steps") else derived
        assert tensorflow_fused.serves(layer)
        found = own(one, starts_at_zero)
        with monkeypatch.context() as patch:
            patch.setattr(tensorflow_fused, "serves", lambda layer: False)
            wanted = derived(call, starts_at_zero)
        for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


def test_a_layer_learns_outside_a_graph_as_within() -> None:
    layer, x = ConvLSTM2D(3, 3, return_sequences=True), tf.cast(tensor(2, 3, 6, 5, 2), tf.float32)

    def gradient() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(loss, [variable.value for variable in layer.trainable_variables])

    layer(x)
    for eager, graph in zip(gradient(), tf.function(gradient)(), strict=True):
        assert float(tf.reduce_max(tf.abs(eager))) > 0
        np.testing.assert_allclose(eager, graph, rtol=0, atol=1e-5)


@pytest.mark.parametrize("go_backwards", [False, True])
def test_a_jacobian_outside_a_graph_is_that_within(go_backwards: bool) -> None:
    layer = ConvLSTM2D(3, 3, return_sequences=True, go_backwards=go_backwards)
    x = tf.cast(tensor(2, 3, 6, 5, 2), tf.float32)

    def jacobian() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            sums = tf.reduce_sum(layer(x, training=True), axis=(2, 3))
        return tape.jacobian(sums, x)

    layer(x)
    assert float(tf.reduce_max(tf.abs(jacobian()))) > 0
    np.testing.assert_allclose(jacobian(), tf.function(jacobian)(), rtol=0, atol=1e-5)


def test_the_fused_path_is_left_to_what_it_serves() -> None:
    assert not any(
        tensorflow_fused.serves(build(**OPTIONS[name])[0]) for name in ("rich", "grouped", "dilated recurrence")
    )
    assert not tensorflow_fused.serves(build(in_channels=1, stride=(1, 2))[0])
    served = []
    function = tf.function(lambda x: (served.append(tensorflow_fused.serves(build()[0])), x)[1], jit_compile=True)
    function(tf.constant(1.0))
    assert served == [False]


@pytest.mark.parametrize("name", ["plain", "rich"])
@pytest.mark.parametrize("training", [False, True])
def test_second_derivatives(name: str, training: bool) -> None:
    layer, weights = build(**OPTIONS[name])
    x, h, direction = tensor(2, 1, 5, 4, 2), tensor(1, 5, 4, 4), tensor(3, 3, 4, 16)

    def gradient(weight: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(weight)
            output, _ = engine.sequence(layer, weights | {"weight_hh": weight}, x, (h, h), steps=2, training=training)
            loss = tf.reduce_sum(output**2)
        return tape.gradient(loss, weight)

    weight = weights["weight_hh"]
    with tf.GradientTape() as tape:
        tape.watch(weight)
        along = tf.reduce_sum(gradient(weight) * direction)
    step = 1e-5
    wanted = (gradient(weight + step * direction) - gradient(weight - step * direction)) / (2 * step)
    np.testing.assert_allclose(tape.gradient(along, weight), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_convolution_of_the_loop_is_the_convolution(rank: int) -> None:
    h, kernel = tensor(2, *(6, 5, 4)[:rank], 3), tensor(*(2, 3, 1)[:rank], 3, 8)
    found = []
    for function in (convolve_state, lambda h, kernel: convolve(h, kernel, (1,) * rank)):
        with tf.GradientTape() as tape:
            tape.watch((h, kernel))
            z = function(h, kernel)
            loss = tf.reduce_sum(z**3)
        found.append((z, *tape.gradient(loss, (h, kernel))))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_sequence_of_no_steps_and_a_boundary_too_wide() -> None:
    layer, weights = build(boundary="reflect")
    h = tensor(2, 5, 4, 4)
    output, (h_n, c_n) = engine.sequence(layer, weights, tf.zeros((0, 2, 5, 4, 2), h.dtype), (h, 2 * h), steps=0)
    assert output.shape == (0, 2, 5, 4, 4)
    np.testing.assert_array_equal((h_n, c_n), (h, 2 * h))
    with pytest.raises(ShapeError, match="width"):
        engine.sequence(layer, weights, tensor(1, 2, 5, 1, 2), (h[:, :, :1], h[:, :, :1]), steps=1)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("known", [True, False])
def test_a_batch_of_no_rows_has_its_shape_and_gradient(rank: int, known: bool) -> None:
    layer, weights = build(spatial_dims=rank, stride=2, padding="valid")
    x, h = tensor(3, 0, *(7, 8, 6)[:rank], 2), tensor(0, *(3, 3, 2)[:rank], 4)
    specs = [tf.TensorSpec((3, None, *x.shape[2:]), x.dtype), tf.TensorSpec((None, *h.shape[1:]), h.dtype)]
    call = lambda x, h: run(layer, weights, x, h)  # noqa: E731
    output, gradients = (call if known else tf.function(call, input_signature=specs))(x, h)
    assert output.shape == (3, 0, *h.shape[1:])
    for name in ("weight_ih", "weight_hh", "bias"):
        np.testing.assert_array_equal(gradients[0][name], tf.zeros_like(weights[name]))


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_low_precision_keeps_the_cell_state_in_float32(dtype: Any, rank: int) -> None:
    layer, weights = build(spatial_dims=rank, peephole="channel")
    x, h = tensor(3, 2, *(6, 5, 4)[:rank], 2), tensor(2, *(6, 5, 4)[:rank], 4)
    exact, (_, c_exact) = engine.sequence(layer, weights, x, (h, h), steps=3)
    low = {name: tf.cast(a, dtype) for name, a in weights.items()}
    with tf.GradientTape() as tape:
        tape.watch(low)
        output, (h_n, c_n) = engine.sequence(layer, low, x, (h, h), steps=3)
        loss = tf.reduce_sum(tf.cast(output, tf.float32))
    assert (output.dtype, h_n.dtype, c_n.dtype) == (dtype, dtype, tf.float32)
    np.testing.assert_allclose(tf.cast(output, tf.float64), exact, rtol=0, atol=5e-2)  # docs/contract.md, Precision
    np.testing.assert_allclose(tf.cast(c_n, tf.float64), c_exact, rtol=0, atol=1e-1)
    assert all(g is None or bool(tf.reduce_all(tf.math.is_finite(g))) for g in tape.gradient(loss, low).values())


@pytest.mark.parametrize("stride", [(1, 2, 3), (3, 1, 1), (2, 2, 2)])
def test_stride_above_the_kernel_in_three_dimensions(stride: tuple[int, ...]) -> None:
    """`tf.nn.conv3d` itself is wrong there with SAME padding (TensorFlow 2.21)."""
    for seed in range(4):
        case = random_case(
            seed,
            (4, 5, 7),
            kernel_size=1,
            stride=stride,
            padding="same",
            num_layers=1,
            spatial_dims=3,
            in_channels=3,
            hidden_channels=4,
            dilation=1,
            dropout=0.0,
            **COMMON,
            peephole="none",
        )
        found = comparison.compare(case, run_case)
        assert not found.misses("float64"), found


@pytest.mark.parametrize("size", [(9, 3), (None, None)])
def test_strided_bfloat16_convolution_has_two_output_columns(size: Any, monkeypatch: Any) -> None:
    """Whatever processor this runs on: with one, oneDNN on processors with AMX is wrong."""
    from convlstm.engine.tensorflow import convolution as tensorflow_convolution

    grids, own = [], tf.nn.conv2d

    def seen(x: Any, kernel: Any, stride: Any, padding: str) -> Any:
        z = own(x, kernel, stride, padding)
        if x.dtype == tf.bfloat16 and stride[-1] > 1:
            grids.append(1)
            with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(z)[2], 1)]):
                z = tf.identity(z)
        return z

    monkeypatch.setitem(tensorflow_convolution._CONVOLUTIONS, 2, seen)
    layer = ConvLSTM2D(4, 3, strides=(1, 3), padding="same", dtype="mixed_bfloat16", return_sequences=True)
    layer.build((None, None, *size, 5))
    x = tf.cast(tensor(2, 2, 9, 3, 5), tf.bfloat16)
    signature = [tf.TensorSpec((None, None, *size, 5), tf.bfloat16)]
    found = tf.function(lambda x: layer(x, training=True), input_signature=signature)(x)
    assert grids
    wide = ConvLSTM2D(4, 3, strides=(1, 3), padding="same", return_sequences=True)
    wide.build((None, None, 9, 3, 5))
    wide.set_weights([np.float32(w) for w in layer.get_weights()])
    expected = wide(tf.cast(x, tf.float32))
    assert found.shape == expected.shape
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, rtol=0, atol=5e-2)


def test_sums_in_three_dimensions_are_those_of_float32_without_onednn() -> None:
    """TensorFlow then adds bfloat16 and float16 in themselves, with ten times the error."""
    code = """
import numpy as np, tensorflow as tf
from convlstm.engine.tensorflow.convolution import Convolution, convolve
random = np.random.default_rng(0)
for dtype, limit in ((tf.bfloat16, 2**-7), (tf.float16, 2**-10)):
    x, kernel = (tf.cast(random.standard_normal(n), dtype) for n in ((2, 6, 6, 6, 32), (3, 3, 3, 32, 8)))
    own = Convolution((1, 1, 1), "VALID", x.shape, kernel.shape)
    def results(dtype):
        a, k = tf.cast(x, dtype), tf.cast(kernel, dtype)
        z = convolve(a, k, (1, 1, 1))
        return z, own(a, k), own.data_gradient(z, k), own.kernel_gradient(a, z)
    for z, expected in zip(results(dtype), results(tf.float32)):
        assert z.dtype == dtype
        error = np.abs(tf.cast(z, tf.float32) - expected).max() / np.abs(expected).max()
        assert error < limit, (dtype, float(error))
"""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr[-500:]
