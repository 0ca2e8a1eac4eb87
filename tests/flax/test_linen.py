"""Linen: the layer is the pure function, the cell stands in for Flax's own, and the seed's form runs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from convlstm import ConvLSTMSpec
from convlstm.conformance.random_layers import Case, reference_arrays
from convlstm.errors import ShapeError, SpecError
from convlstm.flax import State, functional, linen, params_to_canonical
from convlstm.flax.compat import DurationAwareConvLSTMCell

KEY = jax.random.key(0)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


def close(a: Any, b: Any, atol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def test_the_layer_is_the_pure_function() -> None:
    layer, x = linen.ConvLSTM(2, [3, 4], 3, peephole="channel", direction="bidirectional"), normal(2, 3, 6, 5, 2)
    variables = layer.init(KEY, x)
    close(layer.apply(variables, x), functional.layer(layer.spec, variables["params"], x))
    assert params_to_canonical(layer.spec, variables["params"]).keys() == {
        f"layers.{n}.{d}.{name}"
        for n in (0, 1)
        for d in ("forward", "reverse")
        for name in ("weight_ih", "weight_hh", "bias", "peephole")
    }
    again = linen.ConvLSTM(spec=layer.spec)
    assert again == layer
    assert hash(again) == hash(layer)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(again.init)(KEY, x), variables)
    assert layer.clone(dtype=jnp.bfloat16).apply(variables, x)[1].dtype == jnp.bfloat16


def test_lists_and_tuples_keep_their_meaning_in_a_module() -> None:
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return linen.ConvLSTM(2, [3, 4], [(1, 3), 3], name="rain")(x)[1]

    params = Model().init(KEY, normal(2, 3, 6, 5, 2))["params"]["rain"]
    assert params["layers_0_forward"]["kernel"].shape == (1, 3, 2, 12)
    assert params["layers_1_forward"]["kernel"].shape == (3, 3, 3, 16)


def test_dropout_asks_for_its_rng_in_training_alone() -> None:
    layer, x = linen.ConvLSTM(2, 3, 3, recurrent_dropout=0.5), normal(2, 3, 6, 5, 2)
    variables = layer.init({"params": KEY, "dropout": KEY}, x)
    one, other = (layer.apply(variables, x, rngs={"dropout": jax.random.key(n)})[1] for n in (1, 2))
    assert (one != other).any()
    quiet = layer.apply(variables, x, deterministic=True)
    close(quiet, layer.clone(deterministic=True).apply(variables, x))
    close(quiet, functional.layer(layer.spec, variables["params"], x))


def test_wrong_options_are_refused_by_name(refused) -> None:
    with refused(SpecError, "spec"):
        linen.ConvLSTM(2, 3, 3, spec=ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3))
    with refused(SpecError, "in_features"):
        linen.ConvLSTM(-1, 3, 3)
    with refused(SpecError, "padding"):
        linen.ConvLSTMCell(3, (3, 3), padding=[(0, 1), (1, 1)]).init(KEY, None, normal(2, 6, 5, 2))
    for argument, options in (("padding", {"padding": None}), ("options", {"options": {"stride": 2}})):
        with refused(SpecError, argument):
            linen.ConvLSTMCell(3, (3, 3), **options).initialize_carry(KEY, (2, 6, 5, 2))
    with refused(SpecError, "peepholes"):
        nn.remat(linen.ConvLSTM)(2, 3, 3, peepholes="channel")


@pytest.mark.parametrize("lift", [nn.remat, nn.jit])
def test_lifted_transforms_take_the_layers_own_arguments(lift: Any) -> None:
    layer, x = linen.ConvLSTM(2, [3, 4], [3, (1, 3)], peephole="channel"), normal(2, 3, 6, 5, 2)
    lifted = lift(linen.ConvLSTM)(2, [3, 4], [3, (1, 3)], peephole="channel")
    variables = layer.init(KEY, x)
    assert jax.tree.map(jnp.shape, lifted.init(KEY, x)) == jax.tree.map(jnp.shape, variables)
    grads = [jax.grad(lambda v, m=m: jnp.square(m.apply(v, x)[1]).sum())(variables) for m in (lifted, layer)]
    close(*grads, 1e-5)
    assert lifted.clone(dtype=jnp.bfloat16).apply(variables, x)[1].dtype == jnp.bfloat16

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return lift(linen.ConvLSTM)(2, hidden_features=[3, 4], kernel_size=[3, (1, 3)], name="rain")(x)[1]

    params = Model().init(KEY, x)["params"]["rain"]
    assert params["layers_1_forward"]["kernel"].shape == (1, 3, 3, 16)


def test_the_layer_under_vmap_and_scan() -> None:
    x = normal(4, 2, 3, 6, 5, 2)
    many = nn.vmap(linen.ConvLSTM, variable_axes={"params": 0}, split_rngs={"params": True})(2, 3, kernel_size=3)
    variables = many.init(KEY, x)
    one = jax.tree.map(lambda a: a[1], variables["params"])
    close(many.apply(variables, x)[1][1], functional.layer(many.spec, one, x[1])[1])

    class Part(linen.ConvLSTM):
        @nn.compact
        def __call__(self, carry: Any, x: jax.Array) -> Any:
            return super().__call__(x, carry)

    parts = nn.scan(Part, variable_broadcast="params", split_rngs={"params": False})(2, 3, 3)
    start = State((jnp.zeros((2, 6, 5, 3)),), (jnp.zeros((2, 6, 5, 3)),))
    _, y = parts.apply({"params": one}, start, x)
    whole = jnp.concatenate(list(x), axis=1)
    close(jnp.concatenate(list(y), axis=1), functional.layer(parts.spec, one, whole)[1])


def test_a_subclass_with_a_field_of_its_own_takes_the_spec() -> None:
    class Scaled(linen.ConvLSTM):
        factor: float = 1.0

    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3)
    assert Scaled(spec=spec, factor=2.0).factor == 2.0


@pytest.mark.parametrize(
    ("loose", "strict"),
    [
        ({"kernel_size": 3}, {"kernel_size": (3, 3)}),
        ({"kernel_size": [3, 2]}, {"kernel_size": (3, 2)}),
        ({"kernel_size": np.int64(3), "strides": 2}, {"kernel_size": (3, 3), "strides": (2, 2)}),
        ({"kernel_size": 3, "strides": [1, 2]}, {"kernel_size": (3, 3), "strides": (1, 2)}),
        ({"kernel_size": 3, "padding": [0, 1]}, {"kernel_size": (3, 3), "padding": ((0, 0), (1, 1))}),
        ({"kernel_size": 3, "options": {"spatial_dims": 1}}, {"kernel_size": (3,)}),
        *(
            ({"kernel_size": 3, "options": {name: value}}, {"kernel_size": (3, 3), "options": {name: same}})
            for name, value, same in (
                ("recurrent_kernel_size", [5], (5, 5)),
                ("recurrent_kernel_size", [5, 1], (5, 1)),
                ("dilation", [(1, 2)], (1, 2)),
                ("recurrent_dilation", [(1, 2)], (1, 2)),
                ("boundary", ["zeros", "circular"], ("zeros", "circular")),
            )
        ),
    ],
)
def test_the_cell_takes_numbers_and_lists_where_it_takes_tuples(loose: dict, strict: dict) -> None:
    one, other = linen.ConvLSTMCell(4, **loose), linen.ConvLSTMCell(4, **strict)
    frame = (5, 6, 3)[-one.num_feature_axes :]
    carries = [jax.tree.map(jnp.shape, cell.initialize_carry(KEY, (2, *frame))) for cell in (one, other)]
    assert carries[0] == carries[1]
    x = normal(2, 3, *frame)
    (y, variables), (expected, same) = (nn.RNN(cell).init_with_output(KEY, x) for cell in (one, other))
    jax.tree.map(np.testing.assert_array_equal, variables, same)
    np.testing.assert_array_equal(y, expected)


# What Flax's own tests of ConvLSTMCell and RNN hold, with our cell in its place.


def test_the_cell_has_flaxs_shapes() -> None:
    x, cell = normal(2, 4, 4, 3), linen.ConvLSTMCell(features=6, kernel_size=(3, 3))
    c, h = cell.initialize_carry(KEY, x.shape)
    assert c.shape == h.shape == (2, 4, 4, 6)
    (carry, y), variables = cell.init_with_output(KEY, (c, h), x)
    assert carry[0].shape == carry[1].shape == (2, 4, 4, 6)
    np.testing.assert_array_equal(y, carry[1])
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "layers_0_forward": {"bias": (24,), "kernel": (3, 3, 3, 24), "recurrent_kernel": (3, 3, 6, 24)}
    }
    assert cell.num_feature_axes == 3


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_cell_computes_what_flaxs_computes(use_bias: bool) -> None:
    theirs = nn.ConvLSTMCell(features=3, kernel_size=(3, 2), use_bias=use_bias)
    ours = linen.ConvLSTMCell(features=3, kernel_size=(3, 2))
    x, carry = normal(2, 5, 4, 2), (normal(2, 5, 4, 3), 0.5 * normal(2, 5, 4, 3))
    variables = jax.tree.map(lambda a: a + 0.1, theirs.init(KEY, carry, x))
    ih, hh = variables["params"]["ih"], variables["params"]["hh"]

    def reordered(array: jax.Array) -> jax.Array:  # Flax's gates are i, g, f, o
        i, g, f, o = jnp.split(array, 4, axis=-1)
        return jnp.concatenate([i, f, g, o], axis=-1)

    forget = jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), 3)  # added at every call there, and stored here
    params = {
        "kernel": reordered(ih["kernel"]),
        "recurrent_kernel": reordered(hh["kernel"]),
        "bias": (reordered(ih["bias"] + hh["bias"]) if use_bias else 0.0) + forget,
    }
    close(ours.apply({"params": {"layers_0_forward": params}}, carry, x), theirs.apply(variables, carry, x))


def unrolled(cell: nn.Module, variables: Any, carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    outputs = []
    for t in range(x.shape[1]):
        carry, y = cell.apply(variables, carry, x[:, t])
        outputs.append(y)
    return carry, jnp.stack(outputs, axis=1)


def test_rnn_is_a_python_loop() -> None:
    x, cell = normal(2, 4, 5, 4, 3), linen.ConvLSTMCell(features=3, kernel_size=(3, 3))
    rnn = nn.RNN(cell, return_carry=True)
    (carry, y), variables = rnn.init_with_output(KEY, x)
    inner = {"params": variables["params"]["cell"]}
    close((carry, y), unrolled(cell, inner, cell.initialize_carry(KEY, (2, 5, 4, 3)), x), 1e-5)
    time_major = nn.RNN(cell, return_carry=True, time_major=True).apply(variables, jnp.swapaxes(x, 0, 1))
    close(time_major, (carry, jnp.swapaxes(y, 0, 1)))
    close(nn.RNN(cell, unroll=2).apply(variables, x), y)
    close(nn.RNN(cell, reverse=True, keep_order=True).apply(variables, x), rnn.apply(variables, x[:, ::-1])[1][:, ::-1])
    close(nn.RNN(cell, reverse=True).apply(variables, x), rnn.apply(variables, x[:, ::-1])[1])


def test_rnn_takes_lengths_and_several_batch_axes() -> None:
    x, cell = normal(2, 4, 5, 4, 3), linen.ConvLSTMCell(features=3, kernel_size=(3, 3))
    rnn = nn.RNN(cell, return_carry=True)
    variables = rnn.init(KEY, x)
    carry, y = rnn.apply(variables, x, seq_lengths=jnp.array([2, 4]))
    short, _ = rnn.apply(variables, x[:1, :2])
    close(jax.tree.map(lambda a: a[:1], carry), short)
    many = rnn.apply(variables, jnp.stack([x, x]))
    close(many[1][1], rnn.apply(variables, x)[1])
    assert many[0][0].shape == (2, 2, 5, 4, 3)
    both = nn.Bidirectional(nn.RNN(cell), nn.RNN(linen.ConvLSTMCell(features=3, kernel_size=(3, 3))))
    assert both.init_with_output(KEY, x)[0].shape == (2, 4, 5, 4, 6)
    assert y.shape == (2, 4, 5, 4, 3)


@pytest.mark.parametrize(
    ("options", "grid"),
    [
        ({"strides": (2, 2)}, (3, 2)),
        ({"padding": "VALID"}, (3, 2)),
        ({"padding": [(2, 2), (0, 0)]}, (7, 2)),
        ({"padding": 1}, (5, 4)),
    ],
)
def test_strides_and_padding_that_break_flaxs_cell(options: dict, grid: tuple[int, int]) -> None:
    cell, x = linen.ConvLSTMCell(features=3, kernel_size=(3, 3), **options), normal(2, 4, 5, 4, 3)
    y, _ = nn.RNN(cell).init_with_output(KEY, x)
    assert y.shape == (2, 4, *grid, 3)


def test_a_sequence_in_parts_has_the_dropout_of_the_whole(refused: Any) -> None:
    layer, x = linen.ConvLSTM(3, 4, 3, recurrent_dropout=0.3, zoneout_h=0.3), normal(2, 5, 6, 5, 3)
    params = layer.init({"params": KEY, "dropout": KEY}, x)
    masks = layer.sample_masks(x[:, :1], KEY, 5)
    _, whole = layer.apply(params, x, dropout_masks=masks)
    carry, first = layer.apply(params, x[:, :2], dropout_masks=masks[:2])
    _, second = layer.apply(params, x[:, 2:], carry, dropout_masks=masks[2:])
    close(jnp.concatenate([first, second], axis=1), whole)
    with refused(SpecError, "dropout_masks"):
        layer.apply(params, x, dropout_masks=masks, deterministic=True)


def test_further_options_and_draws() -> None:
    cell = linen.ConvLSTMCell(3, (3, 3), options={"peephole": "channel", "zoneout_h": 0.4})
    x = normal(2, 4, 5, 4, 3)
    rnn = nn.RNN(cell, split_rngs={"params": False, "dropout": True})
    y, variables = rnn.init_with_output({"params": KEY, "dropout": KEY}, x)
    assert variables["params"]["cell"]["layers_0_forward"]["peephole"].shape == (3, 3)
    assert 0.2 < float((y[:, 1:] == y[:, :-1]).mean()) < 0.6


# The duration-aware cell as its users write it.


def test_the_seeds_form_runs_in_a_scan_and_is_the_reference() -> None:
    frames_seq, durations_seq = normal(5, 2, 6, 5, 3), abs(normal(5, 2)) + 0.2
    cell = DurationAwareConvLSTMCell(hidden_features=4, kernel_size=(3, 3))
    h0, c0 = jnp.zeros((2, 6, 5, 4)), jnp.zeros((2, 6, 5, 4))
    initial_state = (h0, c0)
    params = cell.init(KEY, initial_state, (frames_seq[0], durations_seq[0]))["params"]
    params = jax.tree.map(lambda a: a + 0.1, params)

    def scan_fn(carry: Any, inputs: Any) -> Any:
        frame, duration = inputs
        return cell.apply({"params": params}, carry, (frame, duration))

    (h, c), outputs = jax.lax.scan(scan_fn, initial_state, (frames_seq, durations_seq))
    spec = ConvLSTMSpec(in_channels=3, hidden_channels=4, kernel_size=3, duration_strategy="mlp")
    arrays = {key: np.float64(a) for key, a in params_to_canonical(spec, params).items()}
    arrays |= {"x": np.float64(frames_seq).transpose(1, 0, 4, 2, 3), "durations": np.float64(durations_seq).T}
    arrays |= {"h.0": np.zeros((2, 4, 6, 5)), "c.0": np.zeros((2, 4, 6, 5))}
    expected = reference_arrays(Case(0, spec, arrays))
    close(jnp.moveaxis(outputs, (0, -1), (1, 2)), expected["output"], 1e-5)
    close(jnp.moveaxis(h, -1, 1), expected["h.0"], 1e-5)
    close(jnp.moveaxis(c, -1, 1), expected["c.0"], 1e-5)


@pytest.mark.parametrize("strategy", ["linear", "log", "exp", "scalar", "mlp", lambda r: r**0.5])
def test_the_seeds_strategies(strategy: Any) -> None:
    cell, x = DurationAwareConvLSTMCell(4, 3, duration_strategy=strategy), normal(2, 6, 5, 3)
    (_, y), variables = cell.init_with_output(KEY, None, (x, 1.0))
    other = cell.apply(variables, None, (x, 3.0))[1]
    assert (other != y).any() == (strategy not in ("exp", "scalar", "mlp"))  # these start neutral, and learn


def test_steps_without_input() -> None:
    layer, state = linen.ConvLSTM(0, [3, 4], 3), _state(3, 4)
    variables = layer.init(KEY, None, state, steps=2)
    assert "kernel" not in variables["params"]["layers_0_forward"]
    found = layer.apply(variables, None, state, steps=5)
    close(found, functional.layer(layer.spec, variables["params"], None, state, steps=5))
    run = jax.jit(layer.apply, static_argnames="steps")
    close(run(variables, None, state, steps=5), found)
    cut = linen.ConvLSTM(0, [3, 4], 3, checkpoint=2)
    close(cut.apply(variables, None, state, steps=5), found)


def test_flax_form_of_the_cell_needs_a_frame(refused) -> None:
    with refused(ShapeError, "inputs"):
        linen.ConvLSTMCell(3, 3).init(KEY, (normal(2, 6, 5, 3),) * 2, None)


def _state(*channels: int) -> State:
    return State(*(tuple(normal(2, 6, 5, n) for n in channels) for _ in "hc"))
