"""Weights between the canonical arrays, PyTorch's own layout and files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from convlstm.errors import WeightsError
from convlstm.torch import ConvLSTM, StatefulConvLSTM, load, load_canonical, save, to_canonical
from convlstm.torch.weights import native_name, native_shape
from convlstm.weights.canonical import initialise

KEYS = {"weight_ih_l0": "layers.0.forward.weight_ih", "weight_hh_l0": "layers.0.forward.weight_hh"}
PARAMETRISED: dict[str, Callable[[nn.Module, str], object]] = {
    "weight norm": lambda layer, name: parametrizations.weight_norm(layer, name=name),
    "spectral norm": lambda layer, name: parametrizations.spectral_norm(layer, name=name),
    "orthogonal": lambda layer, name: parametrizations.orthogonal(layer, name=name),
    "older weight norm": lambda layer, name: nn.utils.weight_norm(layer, name=name),
    "older spectral norm": lambda layer, name: nn.utils.spectral_norm(layer, name=name),
    "pruned": lambda layer, name: prune.l1_unstructured(layer, name=name, amount=0.3),
}


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


def test_gates_are_stacked_in_order_i_f_g_o() -> None:
    layer = ConvLSTM(1, 2, 1)
    arrays = to_canonical(layer)
    arrays["layers.0.forward.bias"] = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
    load_canonical(layer, arrays)
    assert layer.bias_l0.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


def test_seed_gives_the_first_weights_of_the_contract() -> None:
    layer = ConvLSTM(2, 3, 3, 2, peephole="channel", dtype=torch.float64)
    layer.reset_parameters(seed=11)
    for key, array in initialise(layer.spec, 11).items():
        np.testing.assert_array_equal(to_canonical(layer)[key], array)
    assert layer.bias_l0.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
@pytest.mark.parametrize("kind", PARAMETRISED)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_parametrised_layer_is_saved_as_it_computes(kind: str, name: str, tmp_path: Path) -> None:
    layer, x = ConvLSTM(2, 4, 3), torch.randn(2, 3, 2, 6, 6)
    PARAMETRISED[kind](layer, name)
    layer(x)[0].sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()  # the older forms now hold the array of the last forward pass
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    save(tmp_path / "layer.safetensors", layer)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in layer.named_buffers())
    assert layer.training
    layer.eval()
    torch.testing.assert_close(load(tmp_path / "layer.safetensors")(x)[0], layer(x)[0])
    arrays = to_canonical(layer)
    with pytest.raises(WeightsError) as caught:
        load_canonical(layer, arrays)
    exec(re.findall("`(.+)`", caught.value.hint)[0], {"torch": torch, "module": layer})  # noqa: S102 (our own hint)
    load_canonical(layer, arrays)
    np.testing.assert_array_equal(getattr(layer, name).detach().numpy().ravel(), arrays[KEYS[name]].ravel())


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.ModuleList([torch.nn.Conv2d(1, 1, 1), torch.nn.Sequential(ConvLSTM(1, 2, 3))])


MODELS = {
    "Sequential": (lambda: torch.nn.Sequential(torch.nn.ReLU(), ConvLSTM(1, 2, 3)), "module[1]"),
    "stateful": (lambda: StatefulConvLSTM(ConvLSTM(1, 2, 3)), "module.layer"),
    "own": (Net, "module.encoder[1][0]"),
}


@pytest.mark.parametrize("name", MODELS)
def test_save_of_a_model_names_the_layer_inside_it(name: str, refused, tmp_path: Path) -> None:
    build, part = MODELS[name]
    module, path = build(), tmp_path / "layer.safetensors"
    with refused(WeightsError, "module"):
        save(path, module)
    with pytest.raises(WeightsError) as caught:
        save(path, module)
    assert f"`{part}`" in caught.value.hint
    assert "`torch.save(module.state_dict(), path)`" in caught.value.hint
    save(path, eval(part, {"module": module}))  # noqa: S307 (the expression of the hint)
    assert path.exists()


def test_a_parametrised_weight_is_saved_with_its_value_and_not_loaded(refused, tmp_path: Path) -> None:
    layer = ConvLSTM(1, 2, 3)
    before = to_canonical(layer)
    torch.nn.utils.parametrizations.weight_norm(layer, "weight_ih_l0")
    with torch.no_grad():
        layer.parametrizations.weight_ih_l0.original0 *= 2.0
    save(tmp_path / "layer.safetensors", layer)
    saved = to_canonical(load(tmp_path / "layer.safetensors"))
    np.testing.assert_allclose(
        saved["layers.0.forward.weight_ih"], 2.0 * before["layers.0.forward.weight_ih"], rtol=1e-6
    )
    with refused(WeightsError, "module"):
        load_canonical(layer, before)
    torch.nn.utils.parametrize.remove_parametrizations(layer, "weight_ih_l0")  # as the hint says
    load_canonical(layer, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantize_dynamic_changes_nothing_and_bfloat16_halves_the_weights() -> None:
    layer, x = ConvLSTM(1, 4, 3).eval(), torch.randn(1, 2, 1, 6, 6)
    before, size = layer(x)[0], sum(p.nbytes for p in layer.parameters())
    same = torch.ao.quantization.quantize_dynamic(layer, dtype=torch.qint8)
    assert torch.equal(same(x)[0], before)
    assert {p.dtype for p in same.parameters()} == {torch.float32}
    half = layer.to(torch.bfloat16)
    assert sum(p.nbytes for p in half.parameters()) == size // 2
    torch.testing.assert_close(half(x.to(torch.bfloat16))[0].float(), before, rtol=0, atol=2e-2)
