"""Implementations in JAX: ours, `flax.linen.ConvLSTMCell` in `nn.RNN`, and Haiku's `Conv2DLSTM`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.cases import Case


def build(name: str, case: Case, work: str, threads: int) -> Callable[[], None]:
    """Return a function that does the work of an implementation once; XLA takes its thread count from NPROC."""
    data = np.random.default_rng(0).standard_normal(case.shape(channels_last=True), dtype=np.float32)
    x = jnp.asarray(data)
    params, apply = {"ours": _ours, "linen": _linen, "haiku": _haiku}[name](case, x)

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(apply(params, x) ** 2)

    if work == "forward":
        forward = jax.jit(apply)
        return lambda: forward(params, x).block_until_ready()
    step, wait = jax.jit(jax.value_and_grad(loss)), cast("Callable[[Any], None]", jax.block_until_ready)
    return lambda: wait(step(params, x))


def _ours(case: Case, x: jax.Array) -> tuple[Any, Callable[..., jax.Array]]:
    from flax import nnx

    from convlstm.flax import ConvLSTM

    layer = ConvLSTM(case.channels, list(case.hidden), case.kernel, spatial_dims=len(case.size), rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer, nnx.Param)[0], nnx.split(layer, nnx.Param)[1]
    return params, lambda params, x: nnx.merge(graph, params)(x)[1]


def _linen(case: Case, x: jax.Array) -> tuple[Any, Callable[..., jax.Array]]:
    from flax import linen as nn

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for hidden in case.hidden:
                x = cast("jax.Array", nn.RNN(nn.ConvLSTMCell(hidden, (case.kernel,) * len(case.size)))(x))
            return x

    stack = Stack()
    apply: Callable[..., Any] = stack.apply
    return jax.jit(stack.init)(jax.random.key(0), x), apply


def _haiku(case: Case, x: jax.Array) -> tuple[Any, Callable[..., jax.Array]]:
    hk: Any = import_module("haiku")

    def forward(x: jax.Array) -> jax.Array:
        x = jnp.swapaxes(x, 0, 1)
        for hidden in case.hidden:
            core = hk.Conv2DLSTM(case.size, hidden, case.kernel)
            x, _ = hk.dynamic_unroll(core, x, core.initial_state(case.batch))
        return jnp.swapaxes(x, 0, 1)

    pure = hk.without_apply_rng(hk.transform(forward))
    return jax.jit(pure.init)(jax.random.key(0), x), pure.apply
