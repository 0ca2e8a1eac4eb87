"""Wrong types, keys and masks: one line that names the argument, what was expected, what was received, and a hint."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import sparse

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import DtypeError, ShapeError, SpecError, StateError
from convlstm.flax import ConvLSTM, ConvLSTMCell, Forecaster, State, fresh, functional, linen
from convlstm.flax.compat import DurationAwareConvLSTMCell
from convlstm.jax.forecasting import forecast


def build(*given: Any, cls: Any = ConvLSTM, **options: Any) -> Any:
    return cls(*given, **options, rngs=nnx.Rngs(0))


def haiku(call: Any) -> Any:
    hk, face = pytest.importorskip("haiku"), pytest.importorskip("convlstm.haiku")
    return hk.transform(lambda: call(face)).init(jax.random.key(0))


FRAMES, FRAME, KEY = jnp.ones((1, 2, 4, 4, 1)), jnp.ones((1, 4, 4, 1)), jax.random.key(0)
CARRY = (jnp.ones((1, 4, 4, 2)), jnp.ones((1, 4, 4, 2)))
TYPED: dict[str, Any] = {
    "nnx": lambda **types: build(1, 2, 3, **types),
    "nnx cell": lambda **types: build(1, 2, 3, cls=ConvLSTMCell, **types),
    "linen": lambda **types: linen.ConvLSTM(1, 2, 3, **types),
    "linen cell": lambda **types: linen.ConvLSTMCell(2, (3, 3), **types).init(KEY, (FRAME[..., [0, 0]],) * 2, FRAME),
    "linen carry": lambda **types: linen.ConvLSTMCell(2, (3, 3), **types).initialize_carry(KEY, FRAME.shape),
    "linen compat": lambda **types: DurationAwareConvLSTMCell(2, 3, **types).init(KEY, None, (FRAME, 1.0)),
    "haiku": lambda **types: haiku(lambda face: face.ConvLSTM(1, 2, 3, **types)(FRAMES)),
    "haiku cell": lambda **types: haiku(lambda face: face.ConvLSTMCell(2, 3, **types)(FRAME, None)),
    "haiku carry": lambda **types: haiku(lambda face: face.ConvLSTMCell(2, 3, **types).initial_state(FRAME.shape)),
}


@pytest.mark.parametrize("face", TYPED)
@pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
@pytest.mark.parametrize("wrong", ["nonsense", 3, jnp.int32, complex, np.zeros((2, 2))])
def test_a_type_that_is_not_floating_is_refused_by_every_face(face: str, argument: str, wrong: Any, refused) -> None:
    with refused(SpecError, argument):
        TYPED[face](**{argument: wrong})


KEYS: list[Any] = [3, "a", np.ones((2, 2)), jax.random.split(KEY, 3), lambda: 3, {"dropout": KEY}]


@pytest.mark.parametrize("wrong", KEYS)
def test_wrong_random_key_is_refused_by_name(wrong: Any, refused) -> None:
    layer, cell = (build(1, 2, 3, cls=cls, recurrent_dropout=0.5) for cls in (ConvLSTM, ConvLSTMCell))
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, recurrent_dropout=0.5)
    model = Forecaster(ForecasterSpec(encoder=stack), rngs=nnx.Rngs(0))
    with refused(SpecError, "rngs"):
        layer(FRAMES, rngs=wrong)
    with refused(SpecError, "rngs"):
        cell(None, FRAME, rngs=wrong)
    with refused(SpecError, "rngs"):
        cell.initialize_carry(FRAME.shape, wrong)
    with refused(SpecError, "rngs"):
        model(FRAMES, 1, rngs=wrong)
    for call in (
        lambda: functional.layer(stack, layer.params, FRAMES, key=wrong),
        lambda: functional.cell(stack, cell.params, None, FRAME, key=wrong),
        lambda: forecast(model.spec, model.params, FRAMES, 1, key=wrong),
        lambda: fresh(stack, wrong),
    ):
        with refused(SpecError, "key"):
            call()
    with refused(ShapeError, "dropout_masks"):
        layer(FRAMES, dropout_masks=wrong)


def test_streams_that_are_not_there_and_draws_of_another_call(refused) -> None:
    for rngs, options in (
        (nnx.Rngs(params=0), {"recurrent_dropout": 0.5}),
        (nnx.Rngs(dropout=0), {}),
        (nnx.Rngs(), {}),
    ):
        with refused(SpecError, "rngs"):
            ConvLSTM(1, 2, 3, **options, rngs=rngs)
    layer = build(1, 2, 3, recurrent_dropout=0.5)
    with refused(SpecError, "rngs"):
        layer(FRAMES, rngs=nnx.Rngs(params=0))
    with refused(ShapeError, "dropout_masks"):
        layer(FRAMES, dropout_masks=functional.sample_masks(layer.spec, jnp.ones((2, 2, 4, 4, 1)), KEY))
    with refused(ShapeError, "dropout_masks"):
        layer(FRAMES, dropout_masks=functional.sample_masks(layer.spec, jnp.ones((1, 2, 4, 3, 1)), KEY))
    for key in (KEY, jax.random.PRNGKey(0), nnx.Rngs(0), nnx.Rngs(0).dropout):
        assert layer(FRAMES, rngs=key)[1].shape == (1, 2, 4, 4, 2)


@pytest.mark.parametrize("make", [sparse.BCOO.fromdense, sparse.BCSR.fromdense], ids=["BCOO", "BCSR"])
def test_sparse_frames_are_refused_with_the_call_that_converts_them(make: Any, refused) -> None:
    frames = make(jnp.ones((4, 4)))
    with refused(DtypeError, "x"):
        build(1, 2, 3)(frames)
    with pytest.raises(DtypeError, match=r"Convert `x` with `x\.todense\(\)`\."):
        build(1, 2, 3)(frames)
    with refused(DtypeError, "x"):
        build(1, 2, 3)(FRAMES.astype(jnp.complex64))


def test_a_state_of_none_says_to_pass_none_as_the_carry() -> None:
    with pytest.raises(StateError, match=r"got None\. Pass None for the whole state, .* State\(h_0, c_0\)"):
        build(1, 2, 3)(FRAMES, State(None, None))
    with pytest.raises(StateError, match=r"got None\. Pass None for the whole state, .* State\(h, c\)"):
        build(1, 2, 3, cls=ConvLSTMCell)(State(None, None), FRAME)
