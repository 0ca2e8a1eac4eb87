"""The convolution inside the loop: leaving out the first step's, and its gradients in low precision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convlstm.engine.jax.convolution import convolve_in_loop
from convlstm.flax import ConvLSTM, load_canonical, to_canonical

pytestmark = pytest.mark.usefixtures("x64")

RICH: dict[str, Any] = {"peephole": "channel", "norm": "layer", "boundary": ("replicate", "circular"), "zoneout_c": 0.2}
PLAIN_AND_RICH = [{"peephole": "channel"}, RICH]


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape))


def build(**options: Any) -> ConvLSTM:
    layer = ConvLSTM(2, 3, 3, param_dtype=jnp.float64, **options, rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    moved = {key: a + 0.3 * random.standard_normal(a.shape) for key, a in to_canonical(layer).items()}
    load_canonical(layer, moved)
    layer.eval()
    return layer


def close(a: Any, b: Any, atol: float = 1e-13) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("options", [*PLAIN_AND_RICH, {"stride": 2}, {"boundary": "circular"}])
@pytest.mark.parametrize("masked", [False, True])
def test_no_initial_state_is_one_of_zeros(direction: str, options: dict, masked: bool) -> None:
    """Without a state the first step's convolution of h is left out, forward and backward: nothing else may change."""
    layer = build(**options, num_layers=2, direction=direction)
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    x, ways = normal(2, 3, 8, 4, 2), 2 if direction == "bidirectional" else 1
    given = {"mask": jnp.asarray([[False, True, True], [True, True, False]])} if masked else {}
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda x: layer(x)[0], x))
    assert len(zeros.h) == 2 * ways

    def loss(params: Any, x: Any, carry: Any) -> Any:
        final, y = nnx.merge(graph, params, rest)(x, carry, **given)
        return jnp.sum(y**2) + sum(jnp.sum(c) for c in final[1])

    derive = jax.value_and_grad(loss, argnums=(0, 1))
    absent, present = (jax.jit(lambda p, x, carry=carry: derive(p, x, carry)) for carry in (None, zeros))
    found = absent(params, x)
    close(found, present(params, x), 1e-12)
    # a condition forward and one backward more in each layer and direction; the gates are computed again
    programs = [str(jax.make_jaxpr(run)(params, x)) for run in (absent, present)]
    conditions = [program.count(" cond[") for program in programs]
    assert conditions[0] - conditions[1] == 2 * 2 * ways
    assert "remat" in programs[0]
    if not masked:
        mapped = jax.jit(jax.vmap(jax.grad(loss, argnums=1), (None, 0, None)), static_argnums=2)(
            params, x[:, None], None
        )
        close(mapped[:, 0], found[1][1], 1e-12)


def test_gradients_in_low_precision_are_summed_wide() -> None:
    """Each tap's part of a gradient is not rounded before the sum over the taps is."""
    random = np.random.default_rng(0)
    x, of_z = (jnp.asarray(random.standard_normal((1, 9, 9, n)), jnp.bfloat16) for n in (4, 16))
    kernel = jnp.asarray(random.standard_normal((7, 7, 4, 16)), jnp.bfloat16)

    def pulled(x: Any, kernel: Any, of_z: Any) -> Any:
        convolved = lambda x, kernel: convolve_in_loop(x, kernel, ((3, 3), (3, 3)), (1, 1), generic=False)  # noqa: E731
        return jax.vjp(convolved, x, kernel)[1](of_z)

    wide = pulled(*(array.astype(jnp.float64) for array in (x, kernel, of_z)))
    for found, expected in zip(pulled(x, kernel, of_z), wide, strict=True):
        assert found.dtype == jnp.bfloat16
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(expected))
        assert difference.max() <= 2**-8 * np.abs(expected).max()
