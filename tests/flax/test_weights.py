"""Weights between the canonical arrays, Flax's own layout and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import random_case
from convlstm.errors import WeightsError
from convlstm.flax import (
    ConvLSTM,
    Forecaster,
    fresh,
    from_canonical,
    functional,
    linen,
    load,
    load_canonical,
    params_to_canonical,
    save,
    to_canonical,
)
from convlstm.jax.forecasting import forecast
from convlstm.jax.weights import native_path, parameter_shapes
from convlstm.weights.canonical import canonical_shapes, initialise, parameter_count
from convlstm.weights.checkpoint import save_model


def layer(*given: object, seed: int = 0, **options: object) -> ConvLSTM:
    return ConvLSTM(*given, **options, rngs=nnx.Rngs(seed))


def test_paths() -> None:
    assert native_path("layers.0.forward.weight_ih") == ("layers_0_forward", "kernel")
    assert native_path("layers.12.reverse.duration.0.weight") == ("layers_12_reverse", "duration_0_kernel")
    assert native_path("layers.1.forward.duration.weight") == ("layers_1_forward", "duration_kernel")
    assert native_path("forecaster.layers.1.forward.bias") == ("forecaster", "layers_1_forward", "bias")
    assert native_path("head.weight") == ("head", "kernel")
    assert native_path("detail.1.bias") == ("detail_1", "bias")


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("draw", [random_case, random_forecast_case])
def test_round_trip(draw, seed: int) -> None:
    spec, random = draw(seed).spec, np.random.default_rng(0)
    arrays = {key: np.float32(random.standard_normal(shape)) for key, shape in canonical_shapes(spec).items()}
    params = from_canonical(spec, arrays)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameter_count(spec)
    assert jax.tree.map(lambda leaf: leaf.shape, params) == parameter_shapes(spec)
    again = params_to_canonical(spec, params)
    assert again.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(again[key], array)


def test_kernels_are_those_of_flax_in_gate_order_i_f_g_o() -> None:
    own, arrays = layer(2, 3, (1, 2)), initialise(layer(2, 3, (1, 2)).spec, 0)
    arrays["layers.0.forward.bias"] = np.arange(12.0).reshape(4, 3)
    arrays["layers.0.forward.weight_ih"] = np.arange(48.0).reshape(4, 3, 2, 1, 2)
    load_canonical(own, arrays)
    assert own.params["layers_0_forward"]["bias"].tolist() == list(range(12))
    kernel = own.params["layers_0_forward"]["kernel"]
    assert kernel.shape == (1, 2, 2, 12)
    # gate f (1), hidden channel 2, input channel 1, tap (0, 1)
    assert kernel[0, 1, 1, 1 * 3 + 2] == arrays["layers.0.forward.weight_ih"][1, 2, 1, 0, 1]


def test_a_key_gives_the_contracts_start_also_where_it_is_traced() -> None:
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=[3, 2], kernel_size=3, duration_strategy="mlp")
    key = jax.random.key(5)
    seed = int(jax.random.bits(key, (), jnp.uint32))
    expected = from_canonical(spec, initialise(spec, seed), jnp.float32)
    for tree in (fresh(spec, key), jax.jit(lambda key: fresh(spec, key))(key)):
        assert jax.tree.structure(tree) == jax.tree.structure(expected)
        assert all((a == b).all() for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True))
    shapes = jax.eval_shape(lambda key: fresh(spec, key, jnp.bfloat16), key)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.bfloat16)}
    many = jax.vmap(lambda key: fresh(spec, key))(jax.random.split(key, 3))["layers_0_forward"]["kernel"]
    assert many.shape == (3, 3, 3, 2, 12)
    assert (many[0] != many[1]).any()
    other = layer(2, [3, 2], 3, seed=1).params["layers_0_forward"]["kernel"]
    assert (layer(2, [3, 2], 3, seed=2).params["layers_0_forward"]["kernel"] != other).any()


def test_a_float64_file_keeps_its_type_or_is_refused(tmp_path: Path, refused) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    save_model(tmp_path / "m", spec, initialise(spec, 0))
    with refused(WeightsError, str(tmp_path / "m")):
        load(tmp_path / "m")
    with refused(WeightsError, str(tmp_path / "m")):
        load(tmp_path / "m", dtype=jnp.float64)
    assert load(tmp_path / "m", dtype=jnp.float32).params["layers_0_forward"]["bias"].dtype == jnp.float32
    with jax.enable_x64(True):
        kept = load(tmp_path / "m").params["layers_0_forward"]["recurrent_kernel"]
        assert kept.dtype == jnp.float64
        np.testing.assert_array_equal(
            to_canonical(load(tmp_path / "m"))["layers.0.forward.weight_hh"],
            initialise(spec, 0)["layers.0.forward.weight_hh"],
        )


@pytest.mark.parametrize("rngs", [lambda: nnx.Rngs(0), lambda: nnx.Rngs(params=0, dropout=1)])
def test_an_option_changes_no_other_initial_weights(rngs: Any) -> None:
    def weights(**options: Any) -> list[jax.Array]:
        source = rngs()
        first, second = ConvLSTM(1, 3, 3, rngs=source, **options), ConvLSTM(1, 3, 3, rngs=source)
        return jax.tree.leaves([first.params, second.params])

    plain = weights()
    for options in ({"recurrent_dropout": 0.3}, {"input_dropout": 0.3}, {"zoneout_h": 0.3}):
        for array, same in zip(plain, weights(**options), strict=True):
            np.testing.assert_array_equal(array, same)


def test_masks_differ_between_calls_and_layers() -> None:
    source, x = nnx.Rngs(0), jnp.ones((1, 2, 6, 6, 1))
    first, second = (ConvLSTM(1, 3, 3, rngs=source, input_dropout=0.5) for _ in range(2))
    second.set_params(first.params)
    outputs = [layer(x)[1] for layer in (first, first, second)]
    assert not jnp.array_equal(outputs[0], outputs[1])
    assert not jnp.array_equal(outputs[0], outputs[2])


def test_a_file_goes_through_pytorch_and_back_byte_for_byte(tmp_path: Path) -> None:
    face = pytest.importorskip("convlstm.torch")
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3, peephole="channel")
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True), rngs=nnx.Rngs(0))
    save(tmp_path / "flax", model)
    face.save(tmp_path / "torch", face.load(tmp_path / "flax"))
    save(tmp_path / "again", load(tmp_path / "torch"))
    assert (tmp_path / "flax").read_bytes() == (tmp_path / "torch").read_bytes() == (tmp_path / "again").read_bytes()


def test_parameters_that_do_not_fit_are_refused_by_name(refused) -> None:
    own = layer(1, 2, 3)
    arrays = to_canonical(own)
    with refused(WeightsError, "layers.0.forward.bias"):
        load_canonical(own, {key: array for key, array in arrays.items() if not key.endswith("bias")})


def misshapen(params: dict) -> list[tuple[str, dict]]:
    own = params["layers_0_forward"]
    wrong = [
        ("bias", {key: array for key, array in own.items() if key != "bias"}),
        ("gamma", own | {"gamma": own["bias"]}),
        ("kernel", own | {"kernel": own["kernel"][..., :4]}),
        ("kernel", own | {"kernel": own["kernel"].tolist()}),
        ("recurrent_kernel", own | {"recurrent_kernel": own["recurrent_kernel"].astype(int)}),
    ]
    trees = [(f"layers_0_forward/{name}", {"layers_0_forward": group}) for name, group in wrong]
    return [*trees, ("layers_1_forward/bias", params | {"layers_1_forward": own}), ("layers_0_forward/bias", {})]


def test_tree_that_does_not_fit_is_refused_by_its_path(refused) -> None:
    own, x = layer(1, 2, 3), np.ones((1, 2, 4, 4, 1))
    before = own.params
    for path, wrong in misshapen(before):
        for take in (
            own.set_params,
            lambda tree: params_to_canonical(own.spec, tree),
            lambda tree: functional.layer(own.spec, tree, x),
            lambda tree: functional.cell(own.spec, tree, None, x[:, 0]),
        ):
            with refused(WeightsError, path):
                take(wrong)
    for wrong in (3, [before]):
        with refused(WeightsError, "layers_0_forward/bias"):
            own.set_params(wrong)
    with pytest.raises(
        WeightsError, match=r"expected a floating array of shape \(3, 3, 1, 8\), got shape \(3, 3, 1, 4\)"
    ):
        own.set_params(misshapen(before)[2][1])
    jax.tree.map(np.testing.assert_array_equal, own.params, before)


def test_tree_of_a_forecaster_and_of_many_models_is_checked(refused) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack), rngs=nnx.Rngs(0))
    short = {key: branch for key, branch in model.params.items() if key != "head"}
    with refused(WeightsError, "head/bias"):
        model.set_params(short)
    with refused(WeightsError, "head/bias"):
        forecast(model.spec, short, np.ones((1, 2, 4, 4, 1)), 1)
    many = nnx.vmap(lambda key: ConvLSTM(1, 2, 3, rngs=nnx.Rngs(key)))(jax.random.split(jax.random.key(0), 3))
    many.set_params(jax.tree.map(lambda array: 2 * array, many.params))


class Encoder(nnx.Module):
    def __init__(self) -> None:
        self.layers = nnx.Sequential(nnx.relu, ConvLSTM(1, 2, 3, rngs=nnx.Rngs(0)))


def test_save_of_a_model_names_the_layer_inside_it(refused, tmp_path: Path) -> None:
    module, path = Encoder(), tmp_path / "layer.safetensors"
    with refused(WeightsError, "module"):
        save(path, module)
    with pytest.raises(WeightsError, match=r"Pass the part `module\.layers\.layers\[1\]`\. To save all of it, call"):
        save(path, module)
    save(path, module.layers.layers[1])
    assert path.exists()


def test_save_of_a_linen_layer_says_how_to_save_its_parameters(refused, tmp_path: Path) -> None:
    layer, path = linen.ConvLSTM(1, 2, 3), tmp_path / "layer.safetensors"
    with refused(WeightsError, "module"):
        save(path, layer)
    with pytest.raises(WeightsError, match=r"save_model\(path, spec, params_to_canonical\(spec, variables\[.params.\]"):
        to_canonical(layer)
    params = layer.init(jax.random.key(0), jnp.zeros((1, 2, 4, 4, 1)))["params"]
    save_model(path, layer.spec, params_to_canonical(layer.spec, params))  # as the hint says
    assert path.exists()
