"""Weights between the canonical arrays, MLX's own layout and files."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from convlstm.conformance.random_layers import random_case
from convlstm.errors import WeightsError
from convlstm.mlx import ConvLSTM, StatefulConvLSTM, load_canonical, save, to_canonical
from convlstm.mlx.weights import to_native
from convlstm.weights.canonical import parameter_count


@pytest.mark.parametrize(
    ("key", "canonical", "native"),
    [
        ("layers.0.forward.weight_ih", (4, 8, 1, 5, 3), (32, 5, 3, 1)),
        ("encoder.layers.1.reverse.weight_hh", (4, 8, 8, 3), (32, 3, 8)),
        ("layers.0.forward.bias", (4, 8), (32,)),
        ("layers.0.forward.peephole", (3, 8), (3, 8)),
        ("layers.0.forward.peephole", (3, 8, 5, 6), (3, 5, 6, 8)),
        ("layers.0.forward.duration.1.bias", (4,), (4,)),
        ("layers.0.forward.duration.weight", (), ()),
        ("head.weight", (4, 16, 1, 1), (4, 16)),
        ("head.bias", (4,), (4,)),
    ],
)
def test_shapes(key: str, canonical: tuple[int, ...], native: tuple[int, ...]) -> None:
    assert to_native(key, np.zeros(canonical)).shape == native


def test_gates_are_stacked_in_order_i_f_g_o() -> None:
    layer = ConvLSTM(1, 2, 1)
    arrays = to_canonical(layer)
    arrays["layers.0.forward.bias"] = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
    load_canonical(layer, arrays)
    assert layer.layers[0].forward.bias.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_seed_of_mlx_gives_the_first_weights() -> None:
    def start() -> dict[str, np.ndarray]:
        mx.random.seed(5)
        return to_canonical(ConvLSTM(1, 2, 3))

    for key, array in start().items():
        np.testing.assert_array_equal(array, start()[key])


def test_files_of_mlx_hold_the_parameters(tmp_path: Path) -> None:
    layer, other = ConvLSTM(1, 2, 3, duration_strategy="exp"), ConvLSTM(1, 2, 3, duration_strategy="exp")
    path = str(tmp_path / "own.safetensors")
    layer.save_weights(path)
    other.load_weights(path)
    for key, array in to_canonical(layer).items():
        np.testing.assert_array_equal(to_canonical(other)[key], array)


@pytest.mark.parametrize("seed", range(12))
def test_parameters_have_the_canonical_names(seed: int) -> None:
    layer = ConvLSTM.from_spec(random_case(seed).spec)
    parameters = dict(tree_flatten(layer.parameters()))
    assert parameters.keys() == to_canonical(layer).keys()
    assert sum(array.size for array in parameters.values()) == parameter_count(layer.spec)


def test_save_of_a_model_names_the_layer_inside_it(refused, tmp_path: Path) -> None:
    layer, path = ConvLSTM(1, 2, 3), tmp_path / "layer.safetensors"
    for module, part in (
        (nn.Sequential(nn.ReLU(), nn.Sequential(layer)), "module.layers[1].layers[0]"),
        (StatefulConvLSTM(layer), "module.layer"),
    ):
        with refused(WeightsError, "module"):
            save(path, module)
        with pytest.raises(WeightsError) as caught:
            save(path, module)
        assert f"`{part}`" in caught.value.hint
        assert "`module.save_weights(path)`" in caught.value.hint
        assert eval(part, {"module": module}) is layer  # noqa: S307 (the expression of the hint)


def test_quantize_leaves_the_layer_as_it_is_and_set_dtype_halves_it() -> None:
    layer = ConvLSTM(32, 32, 3)
    before = sum(array.nbytes for _, array in tree_flatten(layer.parameters()))
    nn.quantize(layer)
    assert {array.dtype for _, array in tree_flatten(layer.parameters())} == {mx.float32}
    layer.set_dtype(mx.bfloat16)
    assert sum(array.nbytes for _, array in tree_flatten(layer.parameters())) == before // 2
    assert layer(mx.zeros((1, 2, 4, 4, 32), dtype=mx.bfloat16))[0].dtype == mx.bfloat16
