"""Weights between the canonical arrays, PyTorch's own layout and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_layers import random_case
from convlstm.torch import ConvLSTM, ConvLSTMCell, Forecaster, load, load_canonical, save, to_canonical
from convlstm.torch.weights import native_name, native_shape
from convlstm.weights.canonical import canonical_shapes, initialise, parameter_count
from convlstm.weights.checkpoint import load_model, weights_digest


def test_names_and_shapes() -> None:
    assert native_name("layers.0.forward.weight_ih") == "weight_ih_l0"
    assert native_name("layers.12.reverse.duration.0.weight") == "duration_0_weight_l12_reverse"
    assert native_name("layers.1.forward.duration.weight") == "duration_weight_l1"
    assert native_name("forecaster.layers.1.forward.bias") == "forecaster.bias_l1"
    assert native_name("head.weight") == "head.weight"
    assert native_shape("layers.0.forward.weight_ih", (4, 8, 1, 3, 3)) == (32, 1, 3, 3)
    assert native_shape("layers.0.forward.peephole", (3, 8)) == (3, 8)
    assert native_shape("layers.0.forward.duration.1.bias", (4,)) == (4,)
    assert native_shape("head.bias", (4,)) == (4,)


@pytest.mark.parametrize("seed", range(12))
def test_round_trip(seed: int) -> None:
    spec = random_case(seed).spec
    layer = ConvLSTM.from_spec(spec, dtype=torch.float64)
    random = np.random.default_rng(0)
    arrays = {key: np.asarray(random.standard_normal(shape)) for key, shape in canonical_shapes(spec).items()}
    load_canonical(layer, arrays)
    assert sum(p.numel() for p in layer.parameters()) == parameter_count(spec)
    again = to_canonical(layer)
    assert again.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(again[key], array)


def test_gates_are_stacked_in_the_order_i_f_g_o() -> None:
    layer = ConvLSTM(1, 2, 1)
    arrays = to_canonical(layer)
    arrays["layers.0.forward.bias"] = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
    load_canonical(layer, arrays)
    assert layer.bias_l0.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_seed_gives_the_contracts_start() -> None:
    layer = ConvLSTM(2, 3, 3, 2, peephole="channel", dtype=torch.float64)
    layer.reset_parameters(seed=11)
    for key, array in initialise(layer.spec, 11).items():
        np.testing.assert_array_equal(to_canonical(layer)[key], array)
    assert layer.bias_l0.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_arrays_are_copies_both_ways() -> None:
    layer = ConvLSTM(1, 2, 1)
    arrays = to_canonical(layer)
    arrays["layers.0.forward.bias"][...] = 9.0
    assert layer.bias_l0.max() == 1.0
    load_canonical(layer, arrays)
    arrays["layers.0.forward.bias"][...] = 0.0
    assert layer.bias_l0.min() == 9.0


def test_low_precision_is_widened() -> None:
    layer = ConvLSTM(1, 2, 3, dtype=torch.bfloat16)
    arrays = to_canonical(layer)
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}
    other = ConvLSTM(1, 2, 3, dtype=torch.bfloat16)
    load_canonical(other, arrays)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


def test_a_layer_through_a_file(tmp_path: Path) -> None:
    layer = ConvLSTM(2, [3, 4], 3, bidirectional=True, duration_strategy="mlp", norm="layer")
    digest = save(tmp_path / "m", layer, {"units": "mm/h"})
    assert digest == weights_digest(to_canonical(layer)) == load_model(tmp_path / "m").digest
    again = load(tmp_path / "m")
    assert not again.training
    assert again.spec == layer.spec
    x, durations = torch.randn(2, 3, 2, 5, 5), torch.rand(2, 3)
    torch.testing.assert_close(again(x, durations=durations)[0], layer(x, durations=durations)[0], rtol=0, atol=0)
    assert load(tmp_path / "m", dtype=torch.float64)(x.double(), durations=durations)[0].dtype == torch.float64
    save(tmp_path / "again", again, {"units": "mm/h"})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_a_forecaster_through_a_file(tmp_path: Path) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, residual=True)).eval()
    save(tmp_path / "m", model)
    frames = torch.randn(2, 3, 1, 6, 6)
    assert torch.equal(load(tmp_path / "m")(frames, 3), model(frames, 3))


def test_a_cells_weights_are_its_layers() -> None:
    cell, layer = ConvLSTMCell(1, 4, 3), ConvLSTM(1, 4, 3)
    load_canonical(cell, to_canonical(layer))
    x = torch.randn(2, 1, 5, 5)
    assert torch.equal(cell(x)[0], layer(x[:, None])[0][:, 0])
