"""Haiku: the layer and the cell are the pure functions, and what Haiku's own ConvLSTM computes is computed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convlstm import ConvLSTMSpec
from convlstm.errors import ShapeError, SpecError, StateError, WeightsError
from convlstm.flax import State, from_canonical, functional, linen, params_to_canonical, save
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model, save_model

hk = pytest.importorskip("haiku")
module = pytest.importorskip("convlstm.haiku")

KEY = jax.random.key(0)

# Haiku wants its modules built inside the function that it transforms
# ruff: noqa: PLW0108


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(shape).standard_normal(shape), jnp.float32)


def close(a: Any, b: Any, atol: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b)


def test_layer_is_the_pure_function_with_its_weights() -> None:
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=[3, 4], kernel_size=3, peephole="channel")
    layer = hk.without_apply_rng(hk.transform(lambda x: module.ConvLSTM(2, [3, 4], 3, peephole="channel")(x)))
    x = normal(2, 3, 6, 5, 2)
    params = layer.init(KEY, x)
    close(layer.apply(params, x), functional.layer(spec, module.from_params(params), x))
    arrays = {key: np.float32(a) for key, a in initialise(spec, 3).items()}
    given = module.to_params(from_canonical(spec, arrays))
    assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, dict(params))
    for key, array in params_to_canonical(spec, module.from_params(given)).items():
        np.testing.assert_array_equal(array, arrays[key])


def test_training_draws_from_haikus_key_and_evaluation_from_none() -> None:
    def call(x: jax.Array, deterministic: bool) -> jax.Array:
        return module.ConvLSTM(2, 3, 3, recurrent_dropout=0.5)(x, deterministic=deterministic)[1]

    layer, x = hk.transform(call), normal(2, 3, 6, 5, 2)
    params = layer.init(KEY, x, False)
    one, same, other = (layer.apply(params, jax.random.key(n), x, False) for n in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    close(layer.apply(params, None, x, True), hk.without_apply_rng(layer).apply(params, x, True))


def test_the_cell_computes_what_haikus_computes() -> None:
    theirs = hk.without_apply_rng(hk.transform(lambda x, s: hk.Conv2DLSTM((5, 4), 3, 3)(x, s)))
    ours = hk.without_apply_rng(hk.transform(lambda x, state: module.ConvLSTMCell(3, 3)(x, state)))
    x, h, c = normal(2, 5, 4, 2), 0.5 * normal(2, 5, 4, 3), normal(2, 5, 4, 3)
    state = hk.LSTMState(h, c)
    weights = jax.tree.map(lambda a: a + 0.1, theirs.init(KEY, x, state))
    ih, hh = (
        next(w for name, w in weights.items() if name.endswith(end)) for end in ("input_to_hidden", "hidden_to_hidden")
    )

    def reordered(array: jax.Array) -> jax.Array:  # Haiku's gates are i, g, f, o
        i, g, f, o = jnp.split(array, 4, axis=-1)
        return jnp.concatenate([i, f, g, o], axis=-1)

    forget = jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), 3)  # added at every call there, and stored here
    tree = {
        "kernel": reordered(ih["w"]),
        "recurrent_kernel": reordered(hh["w"]),
        "bias": reordered(ih["b"] + hh["b"]) + forget,
    }
    y, after = theirs.apply(weights, x, state)
    params = module.to_params({"layers_0_forward": tree}, "conv_lstm_cell")
    for before in (State(h, c), state):  # ours, and Haiku's
        output, own = ours.apply(params, x, before)
        assert type(own) is type(before)
        close(output, y, 1e-5)
        close(tuple(own), tuple(after), 1e-5)


def test_a_bare_pair_is_refused(refused: Any) -> None:
    cell = hk.without_apply_rng(hk.transform(lambda x, state: module.ConvLSTMCell(3, 3)(x, state)))
    h, x = jnp.zeros((2, 5, 4, 3)), normal(2, 5, 4, 2)
    with refused(StateError, "state"):
        cell.init(KEY, x, (h, h))
    with pytest.raises(StateError, match=r"Pass `State\(h=..., c=...\)`, or `hk.LSTMState\(hidden=..., cell=...\)`\.$"):
        cell.init(KEY, x, (h, h))


def test_save_of_a_layer_says_how_to_save_its_parameters(refused: Any, tmp_path: Path) -> None:
    layers, path, x = [], tmp_path / "layer.safetensors", normal(2, 3, 5, 4, 2)

    def call(x: jax.Array) -> Any:
        layers.append(module.ConvLSTM(2, 3, 3, name="memory"))
        return layers[-1](x)

    params = hk.transform(call).init(KEY, x)
    with refused(WeightsError, "module"):
        save(path, layers[0])
    advice = r"params_to_canonical\(spec, convlstm.haiku.from_params\(params, module.name\)\)"
    with pytest.raises(WeightsError, match=advice):
        save(path, layers[0])
    spec = layers[0].spec
    save_model(path, spec, params_to_canonical(spec, module.from_params(params, layers[0].name)))  # as the hint says
    assert load_model(path).spec == spec


def test_sampled_masks_without_an_input_need_steps_and_a_carry(refused: Any) -> None:
    carry = State((normal(2, 6, 5, 3),), (normal(2, 6, 5, 3),))

    def call(carry: State) -> Any:
        layer = module.ConvLSTM(0, 3, 3, zoneout_h=0.3)
        masks = layer.sample_masks(None, jax.random.key(3), 5, carry=carry)
        _, whole = layer(None, carry, steps=5, dropout_masks=masks)
        after, first = layer(None, carry, steps=2, dropout_masks=masks[:2])
        _, second = layer(None, after, steps=3, dropout_masks=masks[2:])
        return whole, jnp.concatenate([first, second], axis=1)

    model = hk.without_apply_rng(hk.transform(call))
    close(*model.apply(model.init(KEY, carry), carry))
    layer = linen.ConvLSTM(0, 3, 3, zoneout_h=0.3)
    masks = layer.sample_masks(None, KEY, 5, carry=carry)
    assert masks.masks[0, "forward"].zoneout_h.shape == (2, 5, 6, 5, 3)
    with refused(StateError, "carry"):
        layer.sample_masks(None, KEY, 5)
    with refused(ShapeError, "steps"):
        layer.sample_masks(None, KEY, carry=carry)


def test_the_cell_is_a_core_that_haiku_unrolls() -> None:
    frames, size = normal(4, 2, 6, 5, 3), (6, 5)

    def unrolled(unroll: Any, wrap: Any = lambda core: core) -> Any:
        def call(frames: jax.Array) -> Any:
            core = wrap(module.ConvLSTMCell(4, 3, stride=2, input_shape=size))
            return unroll(core, frames, core.initial_state(2))

        return hk.without_apply_rng(hk.transform(call))

    model = unrolled(hk.dynamic_unroll)
    params = model.init(KEY, frames)
    y, state = model.apply(params, frames)
    spec = ConvLSTMSpec(in_channels=3, hidden_channels=4, kernel_size=3, stride=2)
    (h, c), expected = functional.layer(spec, module.from_params(params, "conv_lstm_cell"), jnp.swapaxes(frames, 0, 1))
    close(jnp.swapaxes(y, 0, 1), expected)
    close(tuple(state), (h[0], c[0]))
    close(unrolled(hk.static_unroll).apply(params, frames)[0], y)
    close(unrolled(hk.dynamic_unroll, lambda core: hk.DeepRNN([core])).apply(params, frames)[0], y)


def test_the_core_takes_frames_with_their_durations() -> None:
    frames, durations = normal(4, 2, 6, 5, 3), abs(normal(4, 2)) + 0.2

    def call(frames: jax.Array, durations: jax.Array) -> Any:
        core = module.ConvLSTMCell(4, 3, duration_strategy="linear", input_shape=(6, 5))
        return hk.dynamic_unroll(core, (frames, durations), core.initial_state(2))

    model = hk.without_apply_rng(hk.transform(call))
    params = model.init(KEY, frames, durations)
    y, _ = model.apply(params, frames, durations)
    spec = ConvLSTMSpec(in_channels=3, hidden_channels=4, kernel_size=3, duration_strategy="linear")
    tree = module.from_params(params, "conv_lstm_cell")
    _, expected = functional.layer(spec, tree, jnp.swapaxes(frames, 0, 1), durations=durations.T)
    close(jnp.swapaxes(y, 0, 1), expected)


def test_the_old_order_and_a_missing_size_are_refused(refused: Any) -> None:
    x, state = normal(2, 5, 4, 2), State(jnp.zeros((2, 5, 4, 3)), jnp.zeros((2, 5, 4, 3)))
    cell = hk.transform(lambda carry, x: module.ConvLSTMCell(3, 3)(carry, x))
    for carry in (state, None):
        with refused(ShapeError, "x"):
            cell.init(KEY, carry, x)
    start = hk.transform(lambda batch: module.ConvLSTMCell(3, 3).initial_state(batch))
    with refused(SpecError, "input_shape"):
        start.init(KEY, 2)
    with refused(ShapeError, "x"):
        cell.init(KEY, (x, 1.0, 1.0), state)


def test_a_sequence_in_parts_has_the_dropout_of_the_whole() -> None:
    rates = {"recurrent_dropout": 0.3, "zoneout_h": 0.3}

    def call(x: jax.Array) -> Any:
        layer = module.ConvLSTM(2, 3, 3, **rates)
        masks = layer.sample_masks(x[:, :1], jax.random.key(3), 5)
        _, whole = layer(x, dropout_masks=masks)
        carry, first = layer(x[:, :2], dropout_masks=masks[:2])
        _, second = layer(x[:, 2:], carry, dropout_masks=masks[2:])
        return whole, jnp.concatenate([first, second], axis=1)

    x = normal(2, 5, 6, 5, 2)
    model = hk.without_apply_rng(hk.transform(call))
    whole, parts = model.apply(model.init(KEY, x), x)
    close(parts, whole)


def test_an_option_changes_no_other_initial_weights() -> None:
    def weights(**options: Any) -> Any:
        def call(x: jax.Array) -> Any:
            return module.ConvLSTM(2, 3, 3, **options)(x)[1], module.ConvLSTM(2, 3, 3)(x)[1]

        return hk.transform(call).init(KEY, normal(1, 2, 5, 4, 2))

    for a, b in zip(jax.tree.leaves(weights()), jax.tree.leaves(weights(recurrent_dropout=0.3)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_duration_aware_form_in_a_scan() -> None:
    def call(carry: Any, inputs: Any) -> Any:
        return module.DurationAwareConvLSTMCell(4, (3, 3), duration_strategy="linear")(carry, inputs)

    cell = hk.without_apply_rng(hk.transform(call))
    frames, durations = normal(5, 2, 6, 5, 3), abs(normal(5, 2)) + 0.2
    start = (jnp.zeros((2, 6, 5, 4)), jnp.zeros((2, 6, 5, 4)))
    params = cell.init(KEY, start, (frames[0], durations[0]))
    _, outputs = jax.lax.scan(lambda carry, x: cell.apply(params, carry, x), start, (frames, durations))
    spec = ConvLSTMSpec(in_channels=3, hidden_channels=4, kernel_size=3, duration_strategy="linear")
    tree = module.from_params(params, "duration_aware_conv_lstm_cell")
    _, expected = functional.layer(spec, tree, jnp.swapaxes(frames, 0, 1), durations=durations.T)
    close(jnp.swapaxes(outputs, 0, 1), expected)


def test_steps_without_input() -> None:
    state = State(*(tuple(normal(2, 6, 5, n) for n in (3, 4)) for _ in "hc"))
    layer = hk.without_apply_rng(hk.transform(lambda state: module.ConvLSTM(0, [3, 4], 3)(None, state, steps=5)))
    params = layer.init(KEY, state)
    spec = ConvLSTMSpec(in_channels=0, hidden_channels=[3, 4], kernel_size=3)
    found = layer.apply(params, state)
    close(found, functional.layer(spec, module.from_params(params), None, state, steps=5))
    cell = hk.without_apply_rng(hk.transform(lambda carry: module.ConvLSTMCell(3, 3)(None, carry)))
    carry = State(state.h[0], state.c[0])
    params = cell.init(KEY, carry)
    y, step = cell.apply(params, carry)
    spec = ConvLSTMSpec(in_channels=0, hidden_channels=3, kernel_size=3)
    expected = functional.cell(spec, module.from_params(params, "conv_lstm_cell"), carry, None)
    close((step, y), expected)
    assert y.shape == step.c.shape == (2, 6, 5, 3)
