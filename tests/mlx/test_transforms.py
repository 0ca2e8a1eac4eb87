"""MLX's transforms of functions through the layer, and what modules are expected to bear."""

from __future__ import annotations

import threading
from copy import deepcopy
from shutil import which
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn, optimizers
from mlx.utils import tree_flatten

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.mlx import ConvLSTM, ConvLSTMCell, Forecaster, to_canonical

needs_compiler = pytest.mark.skipif(which("g++") is None, reason="mx.compile on CPU calls a C++ compiler")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rich": {
        "peephole": "channel",
        "norm": "layer",
        "boundary": ("zeros", "circular"),
        "bidirectional": True,
        "duration_strategy": "mlp",
    },
    "strided": {"stride": 2, "groups": 2, "recurrent_activation": "hard_sigmoid", "activation": "softsign"},
}


def build(name: str, **more: Any) -> tuple[ConvLSTM, dict[str, Any]]:
    layer = ConvLSTM(2, 4, 3, **OPTIONS[name], **more)
    given = {"durations": mx.random.uniform(0.5, 1.5, (3, 3))} if "duration_strategy" in OPTIONS[name] else {}
    return layer, given


def flat(result: Any) -> list[mx.array]:
    output, (h, c) = result
    return [output, *h, *c]


def close(found: Any, wanted: Any, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    pairs = zip(tree_flatten(found), tree_flatten(wanted), strict=True)
    for (name, a), (_, b) in pairs:
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


@needs_compiler
@pytest.mark.parametrize(("name", "masked"), [("plain", False), ("plain", True), ("rich", True), ("strided", False)])
def test_compiled_equals_eager(name: str, masked: bool) -> None:
    layer, given = build(name)
    x = mx.random.normal((3, 3, 6, 8, 2))
    if masked:
        given["lengths"] = mx.array([3, 0, 2])

    def loss(x: mx.array, given: dict[str, mx.array]) -> mx.array:
        return sum(a.square().sum() for a in flat(layer(x, **given)))

    work = nn.value_and_grad(layer, loss)
    wanted = work(x, given)
    compiled = mx.compile(work, inputs=layer.state, outputs=layer.state)
    close(compiled(x, given), wanted)  # float32, other order of the same sums


@needs_compiler
@pytest.mark.parametrize("strategy", ["linear", "log", "log1p", "scalar", "exp", "mlp"])
def test_bad_duration_in_compiled_code_gives_nan(strategy: str) -> None:
    layer, x = ConvLSTM(1, 2, 3, duration_strategy=strategy), mx.random.normal((2, 3, 4, 4, 1))
    compiled = mx.compile(lambda x, d: layer(x, durations=d)[0])
    for bad in (-0.5, float("inf"), float("nan")):
        durations = mx.ones((2, 3))
        durations[1, 1] = bad
        output = compiled(x, durations)
        assert mx.isfinite(output[0]).all()
        assert mx.isfinite(output[1, 0]).all()
        assert mx.isnan(output[1, 1:]).all(), bad


@needs_compiler
def test_bad_gaps_in_compiled_code_give_nan() -> None:
    layer = ConvLSTM(1, 2, 3, memory_decay=True)
    compiled = mx.compile(lambda x, gaps: layer(x, gaps=gaps)[0])
    assert mx.isnan(compiled(mx.random.normal((1, 3, 4, 4, 1)), mx.array([[1.0, -1.0, 1.0]]))[:, 1:]).all()


@needs_compiler
def test_a_compiled_cell_and_forecaster() -> None:
    cell, frame = ConvLSTMCell(1, 4, 3, peephole="channel"), mx.random.normal((2, 6, 6, 1))
    state = cell(frame)
    close(mx.compile(cell)(frame, state), cell(frame, state))
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3)
    model, frames = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True)), mx.zeros((2, 2, 8, 8, 1))
    close(mx.compile(lambda x: model(x, 2))(frames), model(frames, 2))


@needs_compiler
def test_a_compiled_training_step_learns_with_dropout() -> None:
    layer = ConvLSTM(1, 4, 3, recurrent_dropout=0.2, zoneout_h=0.1)
    optimiser = optimizers.Adam(1e-2)
    state = [layer.state, optimiser.state, mx.random.state]
    target, x = mx.ones((2, 3, 5, 5, 4)) * 0.3, mx.random.normal((2, 3, 5, 5, 1))
    work = nn.value_and_grad(layer, lambda x: (layer(x)[0] - target).square().mean())

    def step(x: mx.array) -> mx.array:
        loss, gradients = work(x)
        optimiser.update(layer, gradients)
        return loss

    compiled = mx.compile(step, inputs=state, outputs=state)
    losses = []
    for _ in range(40):
        losses.append(compiled(x).item())
        mx.eval(state)
    assert losses[-1] < 0.6 * losses[0]
    assert len(set(losses)) == 40


@pytest.mark.parametrize("name", OPTIONS)
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    layer, given = build(name, dtype=mx.float64)
    x = mx.random.normal((3, 3, 6, 8, 2)).astype(mx.float64)

    def plain(parameters: Any, x: mx.array) -> mx.array:
        layer.update(parameters)
        return layer(x, **given)[0].square().sum()

    parameters = layer.parameters()
    wanted = mx.grad(plain)(parameters, x)
    close(mx.grad(mx.checkpoint(plain))(parameters, x), wanted, rtol=0, atol=1e-12)


def test_second_derivatives() -> None:
    layer = ConvLSTM(1, 2, 3, peephole="channel", dtype=mx.float64)
    x, direction = (mx.random.normal((1, 3, 4, 4, 1)).astype(mx.float64) for _ in range(2))
    gradient = mx.grad(lambda x: layer(x)[0].square().sum())
    found = mx.grad(lambda x: (gradient(x) * direction).sum())(x)
    step = 1e-5
    wanted = (gradient(x + step * direction) - gradient(x - step * direction)) / (2 * step)
    assert mx.abs(found).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-8)  # the difference quotient is right to step²


def test_a_mapped_layer_is_the_batched_one() -> None:
    layer, x = ConvLSTM(2, 4, 3, peephole="channel"), mx.random.normal((3, 4, 5, 6, 2))
    np.testing.assert_allclose(mx.vmap(lambda row: layer(row)[0])(x), layer(x)[0], rtol=0, atol=1e-5)
    assert mx.vmap(lambda row: layer(row)[0])(x[:0]).shape == (0, *layer(x)[0].shape[1:])


@pytest.mark.parametrize("options", [{}, {"duration_strategy": "mlp"}, {"duration_strategy": "scalar"}])
def test_frozen_parameters_have_no_gradient(options: dict) -> None:
    layer, x = ConvLSTM(2, 4, 3, num_layers=2, **options), mx.random.normal((3, 4, 5, 6, 2))
    given = {"durations": 2.0} if options else {}
    work = nn.value_and_grad(layer, lambda x: layer(x, **given)[0].sum())
    everything = to_canonical(layer).keys()
    assert dict(tree_flatten(work(x)[1])).keys() == everything
    layer.layers[0].forward.freeze(keys=["weight_hh"])
    assert dict(tree_flatten(work(x)[1])).keys() == everything - {"layers.0.forward.weight_hh"}
    layer.layers[0].forward.freeze()
    left = {key for key in everything if not key.startswith("layers.0.")}
    assert dict(tree_flatten(work(x)[1])).keys() == left
    layer.unfreeze()
    assert dict(tree_flatten(work(x)[1])).keys() == everything


def test_a_copy_and_a_change_of_type() -> None:
    layer, x = ConvLSTM(2, 4, 3), mx.random.normal((3, 4, 5, 6, 2))
    copy = deepcopy(layer)
    assert mx.array_equal(copy(x)[0], layer(x)[0])
    copy.set_dtype(mx.float16)
    assert copy(x.astype(mx.float16))[0].dtype == mx.float16
    assert layer.dtype == mx.float32


def test_threads_share_a_layer() -> None:
    layer = ConvLSTM(1, 3, 3)
    mx.eval(layer.parameters())
    frames = [mx.random.normal((1, 3, 5, 5, 1)) for _ in range(4)]
    mx.eval(frames)
    wanted = [np.array(layer(x)[0]) for x in frames]
    found: dict[int, np.ndarray] = {}

    def work(n: int) -> None:
        for _ in range(5):
            with mx.stream(mx.new_stream(mx.cpu)):
                found[n] = np.array(layer(frames[n])[0])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, array in enumerate(wanted):
        np.testing.assert_array_equal(found[n], array)
