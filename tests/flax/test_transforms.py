"""The layer under JAX's and Flax's transforms; the rule for the gradient against plain derivatives."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convlstm import ConvLSTMSpec
from convlstm.flax import ConvLSTM, ConvLSTMCell, State, fresh, functional

pytestmark = pytest.mark.usefixtures("x64")

SPEC = ConvLSTMSpec(
    in_channels=2, hidden_channels=3, kernel_size=(2, 3), recurrent_kernel_size=(4, 3), peephole="channel"
)


def setting(spec: ConvLSTMSpec = SPEC) -> tuple[Any, jax.Array]:
    random = np.random.default_rng(0)
    return fresh(spec, jax.random.key(0), jnp.float64), jnp.asarray(random.standard_normal((2, 3, 5, 4, 2)))


def loss(params: Any, x: jax.Array, plain: bool = False, spec: ConvLSTMSpec = SPEC) -> jax.Array:
    carry, y = functional.layer(spec, params, x, generic=plain)
    return jnp.square(y).sum() + 2 * carry.h[0].sum() + jnp.square(carry.c[0]).sum()


def close(a: Any, b: Any, limit: float = 1e-11) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=limit, atol=limit), a, b)


@pytest.mark.parametrize("options", [{}, {"boundary": ("reflect", "circular"), "norm": "layer"}, {"spatial_dims": 1}])
def test_the_rules_gradient_is_the_plain_one(options: dict) -> None:
    spec = ConvLSTMSpec(
        **{"in_channels": 2, "hidden_channels": 3, "kernel_size": 2, "recurrent_kernel_size": 3} | options
    )
    params, x = setting(spec)
    x = x[:, :, 0] if spec.spatial_dims == 1 else x
    ours, plain = (jax.jit(jax.grad(lambda p, x, k=k: loss(p, x, k, spec), (0, 1)))(params, x) for k in (False, True))
    close(ours, plain, 1e-12)


def test_a_cell_in_a_scan_is_the_layer_and_so_is_its_gradient() -> None:
    params, x = setting()

    def scanned(params: Any, x: jax.Array) -> jax.Array:
        start = State(jnp.zeros((2, 5, 4, 3)), jnp.zeros((2, 5, 4, 3)))
        (h, c), y = jax.lax.scan(lambda carry, x: functional.cell(SPEC, params, carry, x), start, jnp.swapaxes(x, 0, 1))
        return jnp.square(y).sum() + 2 * h.sum() + jnp.square(c).sum()

    close(*(jax.jit(jax.value_and_grad(f, (0, 1)))(params, x) for f in (scanned, loss)), 1e-12)


def test_vmap_over_frames_and_parameters() -> None:
    params, x = setting()
    many, grad = jnp.stack([x, 2 * x]), jax.grad(loss)
    batched = jax.jit(jax.vmap(grad, (None, 0)))(params, many)
    models = jax.jit(jax.vmap(grad, (0, None)))(jax.tree.map(lambda p: jnp.stack([p, 0.5 * p]), params), x)
    close(jax.tree.map(lambda a: a[1], batched), grad(params, 2 * x))
    close(jax.tree.map(lambda a: a[1], models), grad(jax.tree.map(lambda p: 0.5 * p, params), x))


def test_second_derivatives_and_checkpoints() -> None:
    params, x = setting()

    def penalty(plain: bool) -> Any:
        return jax.jit(jax.grad(lambda p: jnp.square(jax.grad(loss, 1)(p, x, plain)).sum()))(params)

    close(penalty(False), penalty(True))
    close(jax.grad(jax.checkpoint(loss))(params, x), jax.grad(loss)(params, x), 1e-13)


def test_forward_mode_needs_the_plain_form() -> None:
    params, x = setting()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: loss(params, x), (x,), (x,))
    _, tangent = jax.jvp(lambda x: loss(params, x, True), (x,), (x,))
    np.testing.assert_allclose(tangent, (jax.grad(loss, 1)(params, x) * x).sum(), rtol=1e-12)
    layer = ConvLSTM(2, 3, 3, generic=True, rngs=nnx.Rngs(0))
    jax.jvp(lambda x: layer(x)[1], (x,), (x,))


@pytest.mark.parametrize("options", [{}, {"masked_output": "hold"}, {"direction": "bidirectional"}], ids=str)
def test_an_export_leaves_batch_and_time_open(options: dict) -> None:
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=[3, 2], kernel_size=3, **options)
    params, x = setting(spec)
    mask = jnp.asarray([[True, False, True], [False, True, True]])

    def run(x: jax.Array, mask: jax.Array) -> jax.Array:
        return functional.layer(spec, params, x, mask=mask)[1]

    batch, time = jax.export.symbolic_shape("batch, time")
    frames = jax.ShapeDtypeStruct((batch, time, 5, 4, 2), x.dtype)
    exported = jax.export.export(jax.jit(run))(frames, jax.ShapeDtypeStruct((batch, time), bool))
    for rows, steps in ((2, 3), (1, 1)):
        close(exported.call(x[:rows, :steps], mask[:rows, :steps]), run(x[:rows, :steps], mask[:rows, :steps]), 1e-12)


def test_flax_transforms() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 4, 2)), jnp.float32)
    layer = ConvLSTM(2, 3, 3, rngs=nnx.Rngs(0))
    expected = layer(x)[1]
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x)[1])(layer, x), expected, atol=1e-6)
    np.testing.assert_array_equal(nnx.merge(*nnx.split(layer))(x)[1], expected)
    gradient = nnx.to_pure_dict(nnx.grad(lambda m: jnp.square(m(x)[1]).sum())(layer))
    close(gradient, jax.grad(lambda p: jnp.square(functional.layer(layer.spec, p, x)[1]).sum())(layer.params), 1e-6)
    made = nnx.jit(lambda: ConvLSTM(2, 3, 3, rngs=nnx.Rngs(0)))()
    jax.tree.map(np.testing.assert_array_equal, made.params, layer.params)
    assert nnx.eval_shape(lambda: ConvLSTM(2, 3, 3, rngs=nnx.Rngs(0))).spec == layer.spec


@pytest.mark.parametrize(
    "options", [{}, {"time_major": True}, {"reverse": True}, {"reverse": True, "keep_order": True}]
)
def test_nnx_rnn_runs_the_cell(options: dict) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 5, 4, 2)), jnp.float32)
    cell, reverse = ConvLSTMCell(2, 3, 3, rngs=nnx.Rngs(0)), "reverse" in options
    layer = ConvLSTM(2, 3, 3, direction="reverse" if reverse else "forward", rngs=nnx.Rngs(0))
    name = f"layers_0_{layer.spec.direction}"
    layer.set_params({name: cell.params["layers_0_forward"]})
    given = jnp.swapaxes(x, 0, 1) if "time_major" in options else x
    final, y = nnx.RNN(cell, return_carry=True, **options)(given, initial_carry=cell.initialize_carry((2, 5, 4, 2)))
    y = jnp.swapaxes(y, 0, 1) if "time_major" in options else y[:, ::-1] if options == {"reverse": True} else y
    carry, expected = layer(x)
    close(y, expected, 1e-6)
    close(final.h, carry.h[0], 1e-6)


def test_nnx_rnn_with_lengths_and_in_two_directions() -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 5, 4, 2)), jnp.float32)
    cell, layer = ConvLSTMCell(2, 3, 3, rngs=nnx.Rngs(0)), ConvLSTM(2, 3, 3, rngs=nnx.Rngs(0))
    layer.set_params(cell.params)
    lengths = jnp.array([2, 4])
    final, y = nnx.RNN(cell, return_carry=True)(
        x, seq_lengths=lengths, initial_carry=cell.initialize_carry((2, 5, 4, 2))
    )
    carry, expected = layer(x, lengths=lengths)
    close(final.c, carry.c[0], 1e-6)
    close(y[0, :2], expected[0, :2], 1e-6)
    both = nnx.Bidirectional(nnx.RNN(cell), nnx.RNN(ConvLSTMCell(2, 3, 3, rngs=nnx.Rngs(1))))(x)
    assert both.shape == (2, 4, 5, 4, 6)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from convlstm import ConvLSTMSpec
from convlstm.flax import fresh, functional
spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3, peephole="channel", duration_strategy="linear")
params, random = fresh(spec, jax.random.key(0), jnp.float64), np.random.default_rng(0)
x, d, m = random.standard_normal((4, 3, 4, 4, 2)), random.random((4, 3)) + 0.5, random.random((4, 3)) < 0.8
f = jax.value_and_grad(lambda p, x: (functional.layer(spec, p, x, durations=d, mask=m)[1] ** 2).sum(), (0, 1))
wanted = jax.jit(f)(params, jnp.asarray(x))
for kind in (AxisType.Auto, AxisType.Explicit):
    for place in (P("n"), P(None, None, "n")):
        mesh = jax.make_mesh((2,), ("n",), axis_types=(kind,))
        with jax.set_mesh(mesh):
            p, y = jax.device_put(params, NamedSharding(mesh, P())), jax.device_put(x, NamedSharding(mesh, place))
            found = jax.jit(f)(p, y)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a), b, rtol=1e-11, atol=1e-11), found, wanted)
f = jax.grad(lambda p, x, d: jax.lax.psum((functional.layer(spec, p, x, durations=d)[1] ** 2).sum(), "n"))
mesh = jax.make_mesh((2,), ("n",), axis_types=(AxisType.Auto,))
found = jax.jit(jax.shard_map(f, mesh=mesh, in_specs=(P(), P("n"), P("n")), out_specs=P()))(params, x, d)
wanted = jax.jit(jax.grad(lambda p: (functional.layer(spec, p, x, durations=d)[1] ** 2).sum()))(params)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11), found, wanted)
print("right")
"""


def test_batch_or_height_spread_over_devices() -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "right", done.stderr
