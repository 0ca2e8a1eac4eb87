"""Weights between the canonical arrays, MLX's own layout and files."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_layers import random_case
from convlstm.mlx import ConvLSTM, ConvLSTMCell, Forecaster, load, load_canonical, save, to_canonical
from convlstm.mlx.weights import to_native
from convlstm.weights.canonical import canonical_shapes, initialise, parameter_count
from convlstm.weights.checkpoint import load_model, weights_digest


def parameters(module: object) -> dict[str, mx.array]:
    return dict(tree_flatten(module.parameters()))  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("seed", range(12))
def test_round_trip_under_the_canonical_names(seed: int) -> None:
    spec = random_case(seed).spec
    layer = ConvLSTM.from_spec(spec, dtype=mx.float64)
    random = np.random.default_rng(0)
    arrays = {key: np.asarray(random.standard_normal(shape)) for key, shape in canonical_shapes(spec).items()}
    load_canonical(layer, arrays)
    assert parameters(layer).keys() == arrays.keys()
    assert sum(p.size for p in parameters(layer).values()) == parameter_count(spec)
    for key, array in to_canonical(layer).items():
        np.testing.assert_array_equal(array, arrays[key])
        assert array.flags.c_contiguous


def test_gates_are_stacked_in_the_order_i_f_g_o() -> None:
    layer = ConvLSTM(1, 2, 1)
    arrays = to_canonical(layer)
    arrays["layers.0.forward.bias"] = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
    load_canonical(layer, arrays)
    assert layer.layers[0].forward.bias.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_seed_gives_the_contracts_start() -> None:
    layer = ConvLSTM(2, 3, 3, 2, peephole="channel", dtype=mx.float64)
    layer.reset_parameters(seed=11)
    for key, array in initialise(layer.spec, 11).items():
        np.testing.assert_array_equal(to_canonical(layer)[key], array)


def test_mlx_s_own_seed_gives_the_start() -> None:
    def start() -> dict[str, np.ndarray]:
        mx.random.seed(5)
        return to_canonical(ConvLSTM(1, 2, 3))

    for key, array in start().items():
        np.testing.assert_array_equal(array, start()[key])


def test_arrays_are_copies_both_ways() -> None:
    layer = ConvLSTM(1, 2, 1)
    arrays = to_canonical(layer)
    arrays["layers.0.forward.bias"][...] = 9.0
    assert layer.layers[0].forward.bias.max() == 1.0
    load_canonical(layer, arrays)
    arrays["layers.0.forward.bias"][...] = 0.0
    assert layer.layers[0].forward.bias.min() == 9.0


def test_low_precision_is_widened_and_kept() -> None:
    layer, other = ConvLSTM(1, 2, 3, dtype=mx.bfloat16), ConvLSTM(1, 2, 3, dtype=mx.bfloat16)
    arrays = to_canonical(layer)
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    load_canonical(other, arrays)
    for key, parameter in parameters(other).items():
        assert parameter.dtype == mx.bfloat16
        assert mx.array_equal(parameter, parameters(layer)[key])


def test_a_layer_through_a_file(tmp_path: Path) -> None:
    layer = ConvLSTM(2, [3, 4], 3, bidirectional=True, duration_strategy="mlp", norm="layer")
    digest = save(tmp_path / "m", layer, {"units": "mm/h"})
    assert digest == weights_digest(to_canonical(layer)) == load_model(tmp_path / "m").digest
    again = load(tmp_path / "m")
    assert not again.training
    assert again.spec == layer.spec
    x, durations = mx.random.normal((2, 3, 5, 5, 2)), mx.random.uniform(shape=(2, 3))
    assert mx.array_equal(again(x, durations=durations)[0], layer(x, durations=durations)[0])
    double = load(tmp_path / "m", dtype=mx.float64)
    assert double(x.astype(mx.float64), durations=durations)[0].dtype == mx.float64
    save(tmp_path / "again", again, {"units": "mm/h"})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_a_forecaster_through_a_file(tmp_path: Path) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True)).eval()
    save(tmp_path / "m", model)
    frames = mx.random.normal((2, 3, 6, 6, 1))
    assert mx.array_equal(load(tmp_path / "m")(frames, 3), model(frames, 3))


def test_mlx_s_own_files_hold_the_parameters(tmp_path: Path) -> None:
    layer, other = ConvLSTM(1, 2, 3, duration_strategy="exp"), ConvLSTM(1, 2, 3, duration_strategy="exp")
    path = str(tmp_path / "own.safetensors")
    layer.save_weights(path)
    other.load_weights(path)
    for key, array in to_canonical(layer).items():
        np.testing.assert_array_equal(to_canonical(other)[key], array)


def test_a_cell_and_a_layer_share_weights() -> None:
    cell, layer = ConvLSTMCell(1, 4, 3), ConvLSTM(1, 4, 3)
    load_canonical(cell, to_canonical(layer))
    x = mx.random.normal((2, 5, 5, 1))
    assert mx.array_equal(cell(x)[0], layer(x[:, None])[0][:, 0])


@pytest.mark.parametrize("seed", range(6))
def test_a_file_of_pytorch_comes_back_byte_for_byte(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from convlstm import torch as other

    spec = random_case(seed).spec
    other.save(tmp_path / "theirs", other.ConvLSTM.from_spec(spec))
    save(tmp_path / "ours", load(tmp_path / "theirs"))
    other.save(tmp_path / "again", other.load(tmp_path / "ours"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "again").read_bytes() == (tmp_path / "theirs").read_bytes()
