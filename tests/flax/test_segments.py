"""Checkpointing in time: the numbers of the plain call, and of the steps only about √T kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convlstm import ConvLSTMSpec
from convlstm.errors import SpecError
from convlstm.flax import ConvLSTM, State, fresh, functional, linen

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)
RICH = {"duration_strategy": "scalar", "memory_decay": True, "peephole": "channel"}
RATES = {"dropout": 0.2, "input_dropout": 0.2, "recurrent_dropout": 0.2, "zoneout_h": 0.1, "zoneout_c": 0.1}


def setting(steps: int, **options: Any) -> tuple[ConvLSTMSpec, Any, jax.Array, dict[str, Any]]:
    spec = ConvLSTMSpec(**{"in_channels": 2, "hidden_channels": [3, 2], "kernel_size": 3} | options)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda p: p + 0.1, fresh(spec, KEY, jnp.float64))
    x, call = jnp.asarray(random.standard_normal((2, steps, 4, 4, 2))), {}
    if spec.memory_decay:
        call = {name: jnp.asarray(random.random((2, steps)) + 0.5) for name in ("durations", "gaps")}
        call["mask"] = jnp.asarray(random.random((2, steps)) < 0.6)
    return spec, params, x, call | ({"key": KEY} if spec.dropout else {})


@pytest.mark.parametrize("options", [{}, RICH | {"masked_output": "hold"}, RATES, RICH | RATES])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("checkpoint", [True, 3])
def test_values_and_gradients_are_those_of_the_plain_call(options: dict, direction: str, checkpoint: Any) -> None:
    spec, params, x, call = setting(7, **options, direction=direction)
    z = jnp.ones((2, 4, 4, 3)), jnp.ones((2, 4, 4, 2))

    def loss(params: Any, x: jax.Array, carry: Any, checkpoint: Any) -> Any:
        (h, c), y = functional.layer(spec, params, x, carry, **call, checkpoint=checkpoint)
        return jnp.square(y).sum() + sum(jnp.square(a).sum() for a in (*h, *c)), (h, c, y)

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True), static_argnums=3)
    found, wanted = (run(params, x, State(z, z), cut) for cut in (checkpoint, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), found, wanted)


@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_sequences_of_every_length(steps: int) -> None:
    spec, params, x, _ = setting(steps)
    for cut in (True, 1, 9):
        found, wanted = (functional.layer(spec, params, x, checkpoint=c) for c in (cut, False))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), found, wanted)


def kept(steps: int, checkpoint: Any) -> int:
    """Return how many numbers the forward pass keeps for the backward pass, beside parameters and frames."""
    spec, params, x, _ = setting(steps)
    run = lambda p: functional.layer(spec, p, x, checkpoint=checkpoint)[1].sum()  # noqa: E731
    _, pull_back = jax.vjp(run, params)
    return sum(leaf.size for leaf in jax.tree.leaves(pull_back)) - x.size


def test_what_is_kept_grows_like_the_root_of_the_length() -> None:
    assert kept(144, False) / kept(36, False) > 3.5
    assert kept(144, True) / kept(36, True) < 2.1
    assert kept(144, True) < 0.1 * kept(144, False)


def test_the_modules_hand_it_on() -> None:
    x = jnp.ones((2, 9, 4, 4, 2))

    def loops(call: Any) -> int:
        return str(jax.make_jaxpr(call)(x)).count("scan[")

    for cut, count in ((False, 1), (True, 2), (2, 3)):
        layer = ConvLSTM(2, 3, 3, checkpoint=cut, rngs=nnx.Rngs(0))
        again = ConvLSTM.from_spec(layer.spec, checkpoint=cut, rngs=nnx.Rngs(0))
        flat = linen.ConvLSTM(2, 3, 3, checkpoint=cut)
        calls = (layer, again, lambda x, m=flat, p=layer.params: m.apply({"params": p}, x))
        assert [loops(call) for call in calls] == [count] * 3
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x)[1])(layer, x), layer(x)[1], rtol=0, atol=1e-6)


def test_wrong_values_are_refused_by_name(refused) -> None:
    spec, params, x, _ = setting(2)
    for wrong in (0, -1, 1.5, "yes"):
        with refused(SpecError, "checkpoint"):
            functional.layer(spec, params, x, checkpoint=wrong)
        with refused(SpecError, "checkpoint"):
            ConvLSTM(1, 2, 3, checkpoint=wrong, rngs=nnx.Rngs(0))
        with refused(SpecError, "checkpoint"):
            linen.ConvLSTM(1, 2, 3, checkpoint=wrong)
    two, params, x, _ = setting(2, direction="bidirectional")
    with refused(SpecError, "checkpoint"):
        functional.layer(two, params, x, checkpoint=True)
