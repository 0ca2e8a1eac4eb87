"""Random draws of training: their rates, how long they last, what decides them, and that everything learns."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.flax import ConvLSTM, ConvLSTMCell, Forecaster
from convlstm.jax.dropout import sample_masks

KINDS = ["input_dropout", "recurrent_dropout", "zoneout_h", "zoneout_c", "dropout"]


def drawn(kind: str, rate: float = 0.3, seed: int = 0, steps: int = 5, **options: Any) -> dict[str, jax.Array]:
    """Return every mask of one kind by layer and direction, for some steps of 3 rows of 16 × 16 frames."""
    spec = ConvLSTMSpec(**{"in_channels": 4, "hidden_channels": [8, 6], "kernel_size": 3, kind: rate} | options)
    found = sample_masks(spec, jax.random.key(seed), 3, (16, 16), steps)
    assert found is not None
    if kind == "dropout":
        return {"between": found.dropout[0]}
    return {name: getattr(masks, kind.removesuffix("_dropout")) for name, masks in found.masks.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_rates_and_scaling(kind: str) -> None:
    held = kind.startswith("zoneout")
    for mask in drawn(kind).values():
        values = {True, False} if held else {0.0, np.float32(1.0 / 0.7).item()}
        assert set(np.unique(mask).tolist()) == values
        share = float(mask.mean() if held else (mask == 0.0).mean())
        # 3072 draws or more: five standard deviations of a share of 0.3 are 0.041
        assert share == pytest.approx(0.3, abs=0.041)


def test_shapes_tell_how_long_a_draw_lasts() -> None:
    one_a_call = {"layers_0_forward": (3, 16, 16, 4), "layers_1_forward": (3, 16, 16, 8)}
    assert {k: m.shape for k, m in drawn("input_dropout").items()} == one_a_call
    inside = {"layers_0_forward": (3, 8, 8, 8), "layers_1_forward": (3, 8, 8, 6)}
    assert {k: m.shape for k, m in drawn("recurrent_dropout", stride=[(2, 2), (1, 1)]).items()} == inside
    one_a_step = {"layers_0_forward": (5, 3, 16, 16, 8), "layers_1_forward": (5, 3, 16, 16, 6)}
    for kind in ("zoneout_h", "zoneout_c"):
        assert {k: m.shape for k, m in drawn(kind).items()} == one_a_step
    assert drawn("dropout")["between"].shape == (5, 3, 16, 16, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_differ_between_layers_directions_rows_and_steps(kind: str) -> None:
    masks = list(drawn(kind, direction="bidirectional", hidden_channels=[4, 4], merge="sum").values())
    for n, a in enumerate(masks):
        assert all(a.shape != b.shape or (a != b).any() for b in masks[n + 1 :])
        assert (a[0] != a[1]).any()


@pytest.mark.parametrize("kind", ["zoneout_h", "zoneout_c", "dropout"])
def test_a_longer_sequence_begins_with_the_same_draws(kind: str) -> None:
    for short, long in zip(drawn(kind, steps=3).values(), drawn(kind, steps=5).values(), strict=True):
        np.testing.assert_array_equal(short, long[:3])


def test_no_rate_no_draw_and_one_option_changes_no_other() -> None:
    spec = ConvLSTMSpec(in_channels=4, hidden_channels=8, kernel_size=3)
    assert sample_masks(spec, jax.random.key(0), 3, (8, 8), 5) is None
    alone = drawn("recurrent_dropout")["layers_0_forward"]
    np.testing.assert_array_equal(drawn("recurrent_dropout", zoneout_h=0.2)["layers_0_forward"], alone)


def test_a_key_decides_and_the_mode() -> None:
    options: dict[str, Any] = dict.fromkeys(KINDS, 0.5)
    layer = ConvLSTM(4, 8, 3, 2, **options, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 6, 6, 4)), jnp.float32)
    one, same, other = (layer(x, rngs=jax.random.key(seed))[1] for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (layer(x)[1] != layer(x)[1]).any()  # its own keys move on
    assert (layer(x, rngs=nnx.Rngs(3))[1] == layer(x, rngs=nnx.Rngs(3))[1]).all()
    layer.eval()
    np.testing.assert_array_equal(layer(x)[1], layer(x, rngs=jax.random.key(1))[1])
    quiet = ConvLSTM(4, 8, 3, 2, zoneout_h=0.5, zoneout_c=0.5, rngs=nnx.Rngs(0))  # zoneout acts by its rates there
    quiet.eval()
    quiet.set_params(layer.params)
    np.testing.assert_array_equal(quiet(x)[1], layer(x)[1])


def test_a_cell_in_nnx_rnn_draws_anew_each_step() -> None:
    cell = ConvLSTMCell(1, 4, 3, zoneout_h=0.4, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 12, 8, 8, 1)), jnp.float32)
    y = nnx.RNN(cell)(x)
    kept = y[:, 1:] == y[:, :-1]
    # 5632 points: five standard deviations of a share of 0.4 are 0.033
    assert float(kept.mean()) == pytest.approx(0.4, abs=0.033)
    assert (kept[:, 0] != kept[:, 1]).any()


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_a_forecaster_and_its_keys(rollout: str) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=[3, 3], kernel_size=3, zoneout_h=0.3, dropout=0.3)
    model = Forecaster(ForecasterSpec(encoder=stack, rollout=rollout), rngs=nnx.Rngs(0))
    frames = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 6, 6, 1)), jnp.float32)
    one, same, other = (model(frames, 3, rngs=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    model.eval()
    np.testing.assert_array_equal(model(frames, 3), model(frames, 3))


EVERYTHING: dict[str, dict[str, Any]] = {
    "peepholes and norm": {"peephole": "channel", "norm": "group", "norm_groups": 2},
    "pixel peepholes": {"peephole": "pixel", "input_size": 6},
    "scalar": {"duration_strategy": "scalar", "memory_decay": True},
    "exp": {"duration_strategy": "exp", "duration_hidden": (5, 4), "duration_features": "channel"},
    "mlp": {"duration_strategy": "mlp", "memory_decay": True},
}


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_parameter_learns_within_two_steps(name: str) -> None:
    options, random = EVERYTHING[name], np.random.default_rng(0)
    layer = ConvLSTM(2, 4, 3, direction="bidirectional", **options, rngs=nnx.Rngs(0))
    optimiser = nnx.Optimizer(layer, optax.sgd(0.1), wrt=nnx.Param)
    given: dict[str, Any] = {}
    if "duration_strategy" in options:
        given["durations"] = random.random((2, 3)) * 3 + 0.1
    if options.get("memory_decay"):
        given["gaps"] = (random.random((2, 3)) + 1.5, random.random((2, 3)) + 1.5)

    @nnx.jit
    def derive(layer: ConvLSTM, x: jax.Array) -> Any:
        return nnx.grad(lambda m: sum(jnp.square(a).sum() for a in jax.tree.leaves(m(x, **given))))(layer)

    for _ in range(2):
        gradient = derive(layer, jnp.asarray(random.standard_normal((2, 3, 6, 6, 2)), jnp.float32))
        optimiser.update(layer, gradient)
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(gradient)):
        assert np.abs(leaf).max() > 0, path
