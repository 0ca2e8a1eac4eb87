"""Weights between the canonical arrays, each frontend's layout and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.conformance.random_layers import random_case
from convlstm.errors import WeightsError
from convlstm.weights.canonical import canonical_shapes, initialise
from convlstm.weights.checkpoint import load_model, weights_digest


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("seed", range(12))
def test_round_trip(seed: int, frontend) -> None:
    spec, random = random_case(seed).spec, np.random.default_rng(0)
    given = {"rngs": frontend.nnx.Rngs(0), "param_dtype": "float64"} if frontend.name == "flax" else {}
    layer = frontend.ConvLSTM.from_spec(spec, **given or {"dtype": frontend.library.float64})
    arrays = {key: np.asarray(random.standard_normal(shape)) for key, shape in canonical_shapes(spec).items()}
    frontend.load_canonical(layer, arrays)
    assert len(frontend.parameters(layer)) == len(arrays)
    again = frontend.to_canonical(layer)
    assert again.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(again[key], array)
        assert again[key].flags.c_contiguous


@pytest.mark.parametrize("frontend", ["torch", "mlx"], indirect=True)
def test_seed_gives_the_first_weights_of_the_contract(frontend) -> None:
    layer = frontend.build("ConvLSTM", 2, 3, 3, 2, peephole="channel", dtype="float64")
    layer.reset_parameters(seed=11)
    for key, array in initialise(layer.spec, 11).items():
        np.testing.assert_array_equal(frontend.to_canonical(layer)[key], array)


def test_arrays_are_copies_both_ways(frontend) -> None:
    layer, key = frontend.build("ConvLSTM", 1, 2, 1), "layers.0.forward.bias"
    arrays = frontend.to_canonical(layer)
    arrays[key][...] = 9.0
    assert frontend.to_canonical(layer)[key].max() == 1.0
    frontend.load_canonical(layer, arrays)
    arrays[key][...] = 0.0
    assert frontend.to_canonical(layer)[key].min() == 9.0


def test_low_precision_is_widened_and_kept(frontend) -> None:
    layer, other = (frontend.build("ConvLSTM", 1, 2, 3, dtype="bfloat16") for _ in range(2))
    arrays = frontend.to_canonical(layer)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    frontend.load_canonical(other, arrays)
    assert all("bfloat16" in str(array.dtype) for array in frontend.parameters(other).values())
    for key, array in frontend.to_canonical(other).items():
        np.testing.assert_array_equal(array, arrays[key])


def test_layer_through_a_file(frontend, tmp_path: Path) -> None:
    options = {"direction": "bidirectional", "duration_strategy": "mlp", "norm": "layer"}
    layer = frontend.build("ConvLSTM", 2, [3, 4], 3, **options)
    digest = frontend.save(tmp_path / "m", layer, {"units": "mm/h"})
    assert digest == weights_digest(frontend.to_canonical(layer)) == load_model(tmp_path / "m").digest
    again = frontend.load(tmp_path / "m")
    assert again.deterministic if frontend.name == "flax" else not again.training
    assert again.spec == layer.spec
    x, durations = normal(2, 3, 2, 5, 5), abs(normal(2, 3))
    found, wanted = (frontend.call(one, x, durations=durations) for one in (again, layer))
    np.testing.assert_array_equal(found.output, wanted.output)
    frontend.save(tmp_path / "again", again, {"units": "mm/h"})
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


@pytest.mark.usefixtures("float64")
def test_file_is_loaded_with_parameters_of_another_type(frontend, tmp_path: Path) -> None:
    frontend.save(tmp_path / "m", frontend.build("ConvLSTM", 2, 3, 3))
    types = frontend.library.numpy if frontend.name == "flax" else frontend.library
    layer = frontend.load(tmp_path / "m", dtype=types.float64)
    assert {frontend.to_numpy(array).dtype for array in frontend.parameters(layer).values()} == {np.dtype(np.float64)}
    assert frontend.call(layer, normal(2, 3, 2, 5, 5).astype(float)).output.dtype == np.float64


@pytest.mark.parametrize("kind", ["layer", "forecaster"])
def test_extra_values_of_a_file_are_kept_and_saved_again(kind: str, frontend, tmp_path: Path) -> None:
    extra = {"units": "mm/h", "transform": {"name": "log", "scale": 2.5}, "steps": [300, 600]}
    module = frontend.build("ConvLSTM", 4, 3, 3)
    if kind == "forecaster":
        module = frontend.build("Forecaster", ForecasterSpec(encoder=module.spec, patch_size=2))
    assert module.extra == {}
    frontend.save(tmp_path / "m", module, extra)
    again = frontend.load(tmp_path / "m")
    assert again.extra == extra
    again.extra["units"] = "K"  # of a copy
    frontend.save(tmp_path / "again", again)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    frontend.save(tmp_path / "without", again, {})
    assert load_model(tmp_path / "without").extra == {}
    assert frontend.parameters(again).keys() == frontend.parameters(module).keys()


@pytest.mark.parametrize(
    "options",
    [{"residual": True}, {"thresholds": (0.1, 1.0), "detail_channels": 3, "detail_frames": 2, "detail_kernel": 3}],
    ids=["frames", "events"],
)
def test_forecaster_through_a_file(options: dict, frontend, tmp_path: Path) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 2], kernel_size=3)
    model = frontend.build("Forecaster", ForecasterSpec(encoder=stack, patch_size=2, **options))
    model.eval()
    frontend.save(tmp_path / "m", model)
    again = frontend.load(tmp_path / "m")
    assert again.spec == model.spec
    found, wanted = (frontend.forecast(one, normal(2, 3, 1, 6, 6), 3) for one in (again, model))
    np.testing.assert_array_equal(found, wanted)
    frontend.save(tmp_path / "again", again)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_cell_and_layer_share_their_weights(frontend) -> None:
    cell, layer = frontend.build("ConvLSTMCell", 1, 4, 3), frontend.build("ConvLSTM", 1, 4, 3)
    frontend.load_canonical(layer, {key: 2 * array for key, array in frontend.to_canonical(layer).items()})
    frontend.load_canonical(cell, frontend.to_canonical(layer))
    x = normal(2, 1, 5, 5)
    np.testing.assert_array_equal(frontend.step(cell, x)[0], frontend.call(layer, x[:, None]).output[:, 0])


@pytest.mark.parametrize("frontend", ["mlx", "flax"], indirect=True)
@pytest.mark.parametrize("seed", range(6))
def test_file_of_pytorch_comes_back_byte_for_byte(seed: int, frontend, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from convlstm import torch as other

    other.save(tmp_path / "theirs", other.ConvLSTM.from_spec(random_case(seed).spec))
    frontend.save(tmp_path / "ours", frontend.load(tmp_path / "theirs"))
    other.save(tmp_path / "again", other.load(tmp_path / "ours"))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "again").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_save_with_the_arguments_of_torch_save_says_to_swap_them(frontend, refused, tmp_path: Path) -> None:
    layer, path = frontend.build("ConvLSTM", 1, 4, 3), tmp_path / "layer.safetensors"
    with refused(WeightsError, "path"):
        frontend.save(layer, str(path))
    with pytest.raises(WeightsError, match=r"Swap the arguments: `save\(path, module\)`."):
        frontend.save(layer, path)
    with refused(WeightsError, "path"):
        frontend.save(layer, layer)
    assert not path.exists()


@pytest.mark.parametrize("wrong", [None, {}, "layer", ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1)])
def test_save_of_what_is_no_module_names_the_package(wrong: object, frontend, refused, tmp_path: Path) -> None:
    for call in (lambda: frontend.save(tmp_path / "a", wrong), lambda: frontend.to_canonical(wrong)):
        with refused(WeightsError, "module"):
            call()
        with pytest.raises(WeightsError, match=f"Pass a layer, cell or forecaster of `convlstm.{frontend.name}`"):
            call()
    with refused(WeightsError, "module"):
        frontend.load_canonical(wrong, {})
