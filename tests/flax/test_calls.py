"""States and types in Flax's terms, and wrong calls; the rest is in `tests/frontends`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from convlstm.errors import ConvLSTMError, ShapeError, SpecError, StateError
from convlstm.flax import ConvLSTM, ConvLSTMCell, Forecaster, State, functional, linen


def build(*given: Any, cls: Any = ConvLSTM, **options: Any) -> Any:
    return cls(*given, **options, rngs=nnx.Rngs(0))


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


def test_cell_without_a_batch() -> None:
    cell = build(2, 3, 3, cls=ConvLSTMCell)
    state, y = cell(cell.initialize_carry((6, 6, 2)), normal(6, 6, 2))
    assert y.shape == state.c.shape == (6, 6, 3)


def test_a_returned_state_is_accepted() -> None:
    layer, x = build(1, [3, 4], 3, stride=[(1, 1), (2, 2)], direction="bidirectional"), normal(2, 3, 8, 8, 1)
    carry, _ = layer(x)
    again, output = layer(x, carry)
    assert isinstance(again, State)
    np.testing.assert_array_equal(output, layer(x, State(list(carry.h), carry.c))[1])
    cell = build(1, 3, 3, cls=ConvLSTMCell)
    h = jnp.zeros((2, 8, 8, 3))
    assert type(cell(State(h, h), x[:, 0])[0]) is State


def test_a_bare_pair_is_refused_since_flax_reads_it_as_c_and_h(refused) -> None:
    h, c, x = jnp.zeros((2, 8, 8, 3)), jnp.ones((2, 8, 8, 3)), normal(2, 3, 8, 8, 1)
    layer, cell, flat = build(1, 3, 3), build(1, 3, 3, cls=ConvLSTMCell), linen.ConvLSTM(1, 3, 3)
    variables = flat.init(jax.random.key(0), x)
    for bare in ((h, c), [h, c], ((h,), (c,))):
        for call in (
            lambda bare=bare: layer(x, bare),
            lambda bare=bare: cell(bare, x[:, 0]),
            lambda bare=bare: flat.apply(variables, x, bare),
            lambda bare=bare: functional.layer(layer.spec, layer.params, x, bare),
            lambda bare=bare: functional.cell(layer.spec, layer.params, bare, x[:, 0]),
        ):
            with refused(StateError, "carry"):
                call()
    flaxs = linen.ConvLSTMCell(3, (3, 3))
    params = flaxs.init(jax.random.key(0), (c, h), x[:, 0])
    with refused(StateError, "carry"):
        flaxs.apply(params, State(h=h, c=c), x[:, 0])


def test_input_and_parameters_decide_the_type_as_in_flax() -> None:
    layer, x = build(1, 3, 3), normal(1, 2, 4, 4, 1)
    assert layer(x)[1].dtype == jnp.float32
    assert layer(x.astype(jnp.bfloat16))[1].dtype == jnp.float32
    carry, output = build(1, 3, 3, dtype=jnp.bfloat16)(x)
    assert (output.dtype, carry.h[0].dtype, carry.c[0].dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    with jax.enable_x64(True):
        assert layer(np.float64(x))[1].dtype == jnp.float64


WRONG: list[tuple[type[ConvLSTMError], str, dict[str, Any], dict[str, Any]]] = [
    (ShapeError, "x", {}, {"x": np.zeros((2, 3, 5, 5, 4))}),
    (ShapeError, "x", {}, {"x": np.zeros((2, 5, 5))}),
    (ShapeError, "x", {}, {"x": "frames"}),
    (ShapeError, "x", {}, {"x": np.zeros((2, 3, 5, 5, 2), dtype=complex)}),
    (ShapeError, "x", {"peephole": "pixel", "input_size": 4}, {}),
    (ShapeError, "mask", {}, {"mask": np.ones((3, 2), dtype=bool)}),
    (ShapeError, "mask", {}, {"mask": np.ones((2, 3))}),
    (ShapeError, "mask", {}, {"mask": np.ones((2, 3), dtype=bool), "lengths": [1, 2]}),
    (ShapeError, "lengths", {}, {"lengths": [1, 4]}),
    (ShapeError, "lengths", {}, {"lengths": [1.0, 2.0]}),
    (ShapeError, "lengths", {}, {"lengths": [1]}),
    (ShapeError, "durations", {}, {"durations": 1.0}),
    (ShapeError, "durations", {"duration_strategy": "linear"}, {}),
    (ShapeError, "durations", {"duration_strategy": "linear"}, {"durations": np.ones((3, 2))}),
    (ShapeError, "durations", {"duration_strategy": "linear"}, {"durations": -1.0}),
    (ShapeError, "durations", {"duration_strategy": "linear"}, {"durations": [1.0, float("nan"), 1.0]}),
    (ShapeError, "gaps", {}, {"gaps": 1.0}),
    (ShapeError, "gaps", {"memory_decay": True, "direction": "bidirectional"}, {"gaps": 1.0}),
    (ShapeError, "height", {"padding": "valid", "kernel_size": 7}, {}),
    (StateError, "carry", {}, {"carry": np.zeros((2, 5, 5, 3))}),
    (StateError, "h_0", {}, {"carry": State([], [])}),
    (StateError, "h_0[0]", {}, {"carry": State(np.zeros((1, 5, 5, 3)), np.zeros((2, 5, 5, 3)))}),
    (StateError, "c_0[0]", {}, {"carry": State(np.zeros((2, 5, 5, 3)), np.zeros((2, 3, 5, 5)))}),
]


@pytest.mark.parametrize(("kind", "argument", "options", "call"), WRONG)
def test_wrong_calls_are_refused_by_name(kind: Any, argument: str, options: dict, call: dict, refused) -> None:
    layer = build(2, 3, **{"kernel_size": 3} | options)
    given = {"x": np.zeros((2, 3, 5, 5, 2))} | call
    with refused(kind, argument):
        layer(**given)


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("in_features", lambda: build(-1, 3, 3)),
        ("kernel_size", lambda: build(1, 3, 0)),
        ("dtype", lambda: build(1, 3, 3, dtype=jnp.int32)),
        ("param_dtype", lambda: build(1, 3, 3, param_dtype=jnp.int32)),
        ("generic", lambda: build(1, 3, 3, generic="yes")),
        ("direction", lambda: build(1, 3, 3, cls=ConvLSTMCell, direction="reverse")),
        ("masked_output", lambda: build(1, 3, 3, cls=ConvLSTMCell, masked_output="hold")),
        ("spec", lambda: build("model", cls=Forecaster)),
        ("spec", lambda: functional.cell(build(1, 3, 3, 2).spec, {}, None, np.zeros((2, 5, 5, 1)))),
    ],
)
def test_wrong_options_are_refused_by_name(argument: str, make: Any, refused) -> None:
    with refused(SpecError, argument):
        make()


def test_bad_durations_are_ignored_where_masked_or_give_nan() -> None:
    layer, x = build(2, 3, 3, duration_strategy="linear"), normal(1, 3, 5, 5, 2)
    bad = np.array([[1.0, -1.0, 1.0]])
    assert np.isfinite(layer(x, durations=bad, mask=np.array([[True, False, True]]))[1]).all()
    _, y = jax.jit(lambda d: functional.layer(layer.spec, layer.params, x, durations=d))(bad)
    assert np.isfinite(y[:, 0]).all()
    assert np.isnan(y[:, 1:]).all()


def test_a_view_in_evaluation_draws_nothing() -> None:
    layer = ConvLSTM(1, 2, 3, recurrent_dropout=0.5, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 3, 4, 4, 1))
    assert not bool((layer(x)[1] == layer(x)[1]).all())
    view = nnx.view(layer, deterministic=True)
    assert bool((view(x)[1] == view(x)[1]).all())


def test_options_and_keys_that_do_not_exist(refused) -> None:
    with refused(SpecError, "peepholes"):
        ConvLSTM(1, 2, 3, peepholes="channel", rngs=nnx.Rngs(0))
    for rngs in (0, None):
        with refused(SpecError, "rngs"):
            ConvLSTM(1, 2, 3, rngs=rngs)
    with refused(SpecError, "spec"):
        linen.ConvLSTM(spec=1)
    with refused(SpecError, "peepholes"):
        linen.ConvLSTM(1, 2, 3, peepholes="channel")


def test_the_layers_type_rules_over_a_states() -> None:
    x, z = jnp.ones((2, 3, 6, 6, 1)), jnp.zeros((2, 6, 6, 4))
    for dtype in (jnp.bfloat16, jnp.float32):
        layer = ConvLSTM(1, 4, 3, dtype=dtype, rngs=nnx.Rngs(0))
        for given in (z, z.astype(jnp.bfloat16)):
            ((h,), (c,)), output = layer(x, State((given,), (z,)))
            assert (output.dtype, h.dtype, c.dtype) == (dtype, dtype, jnp.float32)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("given", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_carry_keeps_its_type_in_a_scan_over_a_cell(dtype: Any, given: Any) -> None:
    layer, cell = build(1, 4, 3, dtype=dtype), build(1, 4, 3, cls=ConvLSTMCell, dtype=dtype)
    x, z = normal(2, 3, 6, 6, 1), normal(2, 6, 6, 4).astype(given)
    own, expected = layer(x[:, :1], State((z,), (z,)))
    after, y = cell(State(z, z), x[:, 0])
    assert (after.h.dtype, after.c.dtype, y.dtype) == (given, given, expected.dtype)
    np.testing.assert_array_equal(y, expected[:, 0])
    np.testing.assert_array_equal(after.h, own.h[0].astype(given))
    frames = jnp.swapaxes(x, 0, 1)
    (h, _), scanned = jax.lax.scan(
        lambda c, x: functional.cell(cell.spec, cell.params, c, x, dtype=dtype), State(z, z), frames
    )
    assert (h.dtype, scanned.dtype) == (given, expected.dtype)
    if given == jnp.float64:  # nothing is rounded between the steps
        np.testing.assert_allclose(scanned[-1], layer(x, State((z,), (z,)))[1][:, -1], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("param_dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("frames", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_rnn_over_a_cell_is_the_layer_in_every_type(dtype: Any, param_dtype: Any, frames: Any) -> None:
    types, x = {"dtype": dtype, "param_dtype": param_dtype}, normal(2, 3, 6, 6, 1).astype(frames)
    cell = build(1, 4, 3, cls=ConvLSTMCell, **types)
    expected = functional.layer(cell.spec, cell.params, x, dtype=dtype)[1]
    flat = linen.ConvLSTMCell(4, (3, 3), **types)
    for y in (nnx.RNN(cell)(x), nn.RNN(flat).apply({"params": {"cell": cell.params}}, x)):
        assert y.dtype == expected.dtype
        limit = {2: 0.02, 4: 1e-6, 8: 1e-12}[y.dtype.itemsize]  # as much as the steps may be rounded otherwise
        np.testing.assert_allclose(np.float64(y), np.float64(expected), rtol=0, atol=limit)


@pytest.mark.parametrize("checkpoint", [False, 2])
def test_wider_dropout_masks_do_not_change_the_compute_type(checkpoint: Any) -> None:
    layer = build(1, [2, 2], 3, dropout=0.3, dtype=jnp.bfloat16, checkpoint=checkpoint)
    masks = functional.sample_masks(layer.spec, jnp.ones((2, 3, 4, 4, 1)), jax.random.key(0))
    carry, y = layer(jnp.ones((2, 3, 4, 4, 1)), dropout_masks=masks)
    assert y.dtype == jnp.bfloat16
    assert {h.dtype for h in carry.h} == {jnp.dtype(jnp.bfloat16)}


def test_the_type_of_traced_lengths_is_in_the_error() -> None:
    layer, x = build(1, 2, 3), jnp.ones((2, 3, 4, 4, 1))
    with pytest.raises(ShapeError, match=r"lengths: expected 2 integers from 0 to 3, got shape \(2,\) of float32"):
        jax.jit(lambda lengths: layer(x, lengths=lengths)[1])(jnp.array([1.0, 2.0]))
