"""Model files and Flax's own parameters in linen and Haiku."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from convlstm import ConvLSTMSpec
from convlstm import haiku as our_haiku
from convlstm.conformance.compare import error
from convlstm.errors import WeightsError
from convlstm.flax import linen
from convlstm.reference import recurrence as reference
from convlstm.spec.presets import PRESETS
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import load_model, save_model

OPTIONS = [
    {"hidden_channels": [4, 3], "kernel_size": [(3, 3), (2, 5)]},
    {"hidden_channels": 3, "kernel_size": 3, "bias": False, "direction": "bidirectional", "merge": "sum"},
    {"hidden_channels": 3, "kernel_size": (3,), "peephole": "channel", "stride": 2, "padding": 1, "zoneout_h": 0.2},
    {"hidden_channels": [4, 4], "kernel_size": 3, "peephole": "pixel", "input_size": (6, 5), "direction": "reverse"},
]


def saved(path, options, dtype="f"):
    spec = ConvLSTMSpec(in_channels=2, **options)
    random = np.random.default_rng(0)
    weights = {k: (a + 0.3 * random.standard_normal(a.shape)).astype(dtype) for k, a in initialise(spec, 0).items()}
    save_model(path, spec, weights)
    x = random.standard_normal((2, 3, 2, 6, 5)[: 3 + spec.spatial_dims]).astype(dtype)
    wide = {key: array.astype(np.float64) for key, array in weights.items()}
    expected, states = reference.stack(spec, wide, x.astype(np.float64))
    return np.moveaxis(x, 2, -1), np.moveaxis(expected, 2, -1), np.moveaxis(states[-1][1], 1, -1)


def linen_call(path, x, **options):
    layer, variables = linen.load(path, **options)
    return layer.apply(variables, x)


def haiku_call(path, x, **options):
    build, params = our_haiku.load(path, name="memory", **options)
    transformed = hk.without_apply_rng(hk.transform(lambda x: build()(x, deterministic=True)))
    assert all(key.startswith("memory/") for key in params)
    return transformed.apply(params, x)


def test_extra_of_a_file_is_read_apart_from_modules_without_weights(tmp_path):
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3)
    path = tmp_path / "layer.safetensors"
    save_model(path, spec, initialise(spec, 0), {"units": "mm/h"})
    for loaded, _ in (linen.load(path, dtype="float32"), our_haiku.load(path, dtype="float32")):
        assert not hasattr(loaded, "extra")
    assert load_model(path).extra == {"units": "mm/h"}
    for module in (linen, our_haiku):
        assert "load_model(path).extra" in module.load.__doc__


@pytest.mark.parametrize("call", [linen_call, haiku_call])
@pytest.mark.parametrize("options", OPTIONS, ids=["stack", "two directions", "options", "pixel"])
def test_model_file_gives_the_outputs_of_the_reference(tmp_path, call, options):
    x, expected, c = saved(tmp_path / "layer.safetensors", options)
    carry, y = call(tmp_path / "layer.safetensors", x)
    assert error(np.asarray(y), expected) < 1e-5
    assert error(np.asarray(carry.c[-1]), c) < 1e-5


@pytest.mark.parametrize("call", [linen_call, haiku_call])
def test_float64_is_not_rounded_without_a_word(refused, tmp_path, call):
    path = tmp_path / "layer.safetensors"
    x, expected, _ = saved(path, OPTIONS[0], "d")
    if not jax.config.jax_enable_x64:
        with refused(WeightsError, str(path)):
            call(path, x)
    _, y = call(path, x.astype("f"), dtype=jnp.float32)
    assert error(np.asarray(y), expected) < 1e-5


@pytest.mark.parametrize("call", [linen_call, haiku_call])
def test_forecaster_is_refused_with_the_right_loader(refused, tmp_path, call):
    spec = PRESETS["openstl-kth"]
    small = type(spec).from_dict(spec.to_dict() | {"encoder": spec.encoder.to_dict() | {"hidden_channels": [1] * 4}})
    save_model(tmp_path / "f.safetensors", small, initialise(small, 0))
    with refused(WeightsError, str(tmp_path / "f.safetensors")):
        call(tmp_path / "f.safetensors", jnp.zeros((1, 2, 4, 4, 1)))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_parameters_of_flax_cells_are_loaded(bidirectional):
    def rnn():
        return nn.RNN(nn.ConvLSTMCell(features=3, kernel_size=(3, 3)))

    layers = [nn.Bidirectional(rnn(), rnn()) if bidirectional else rnn() for _ in range(2)]
    model, x = nn.Sequential(layers), jax.random.normal(jax.random.key(1), (2, 4, 6, 5, 2))
    theirs = model.init(jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(theirs)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    theirs = tree.unflatten([0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)])
    layer, variables = linen.from_flax_cell(theirs)
    expected = np.asarray(model.apply(theirs, x))
    assert np.abs(expected).max() > 0.01
    assert error(np.asarray(layer.apply(variables, x)[1]), expected) < 1e-5


def test_parameters_of_a_flax_cell_are_those_of_our_cell():
    x = jax.random.normal(jax.random.key(1), (2, 4, 6, 5, 2))
    theirs = nn.ConvLSTMCell(features=3, kernel_size=(3, 3))
    carry = tuple(jax.random.normal(jax.random.key(n), (2, 6, 5, 3)) for n in (2, 3))
    variables = theirs.init(jax.random.key(0), carry, x[:, 0])
    ours = linen.ConvLSTMCell(features=3, kernel_size=(3, 3))
    _, converted = linen.from_flax_cell(variables)
    (c, h), y = ours.apply(converted, carry, x[:, 0])
    for found, wanted in zip((c, h, y), jax.tree.leaves(theirs.apply(variables, carry, x[:, 0])), strict=True):
        assert error(np.asarray(found), np.asarray(wanted)) < 1e-5
