"""Canonical weights: into every layer, out again, and through files of other frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import SpecError, WeightsError
from convlstm.keras import (
    ConvLSTM1D,
    ConvLSTM2D,
    ConvLSTM3D,
    ConvLSTMStack,
    Forecaster,
    load,
    load_canonical,
    save,
    to_canonical,
)
from convlstm.keras.engines import BACKEND
from convlstm.keras.weights import add_variables
from convlstm.reference import recurrence as reference
from convlstm.weights.canonical import canonical_shapes, initialise
from convlstm.weights.checkpoint import save_model

RICH: dict[str, Any] = {
    "peephole": "pixel",
    "norm": "layer",
    "groups": 2,
    "duration_strategy": "exp",
    "duration_hidden": (4, 3),
    "duration_features": "channel",
    "memory_decay": True,
}


def close(found: Any, wanted: np.ndarray, limit: float = 1e-5) -> None:
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), wanted, rtol=0, atol=limit)


@pytest.mark.parametrize("kind", [ConvLSTM1D, ConvLSTM2D, ConvLSTM3D])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_layer_is_the_reference(kind: Any, backwards: bool) -> None:
    layer = kind(4, 2, 2, "same", return_sequences=True, return_state=True, go_backwards=backwards, **RICH)
    random = np.random.default_rng(0)
    size = (5, 6, 4)[: layer.rank]
    layer.build((2, 3, *size, 2))
    assert {k: v.shape for k, v in to_canonical(layer).items()} == canonical_shapes(layer.spec)
    weights = {k: v + 0.3 * random.standard_normal(v.shape) for k, v in initialise(layer.spec, 1).items()}
    load_canonical(layer, weights)
    for key, value in to_canonical(layer).items():
        np.testing.assert_allclose(value, weights[key], rtol=1e-6)
    x = random.standard_normal((2, 3, 2, *size))
    d, gaps = random.uniform(0.5, 2, (2, 3)), random.uniform(1, 2, (2, 3))
    mask = np.array([[1, 0, 1], [0, 1, 1]], dtype=bool)
    wanted, [(h, c)] = reference.stack(
        layer.spec, weights, x, durations=d, gaps={layer.spec.direction: gaps}, mask=mask
    )
    output, h_n, c_n = layer(np.moveaxis(x, 2, -1), durations=d, gaps=gaps, mask=mask)
    close(output, np.moveaxis(wanted, 2, -1)[:, :: -1 if backwards else 1])
    close(h_n, np.moveaxis(h, 1, -1))
    close(c_n, np.moveaxis(c, 1, -1))


def test_a_float64_file_keeps_its_type_or_is_refused(tmp_path: Path, refused: Any) -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    save_model(tmp_path / "m", spec, initialise(spec, 0))
    if BACKEND == "jax":
        with refused(WeightsError, str(tmp_path / "m")):
            load(tmp_path / "m")
    else:
        found = to_canonical(load(tmp_path / "m"))
        for key, array in initialise(spec, 0).items():
            np.testing.assert_array_equal(found[key], array)
    assert load(tmp_path / "m", dtype="float32").compute_dtype == "float32"


def test_a_layer_in_bfloat16_is_saved_and_loaded(tmp_path: Path) -> None:
    own = ConvLSTMStack(ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3), dtype="bfloat16")
    save(tmp_path / "m", own)
    again = load(tmp_path / "m", dtype="bfloat16")
    for key, array in to_canonical(own).items():
        np.testing.assert_array_equal(np.float32(to_canonical(again)[key]), np.float32(array))


def test_dtype_of_load_is_that_of_the_variables(tmp_path: Path, refused: Any) -> None:
    save(tmp_path / "m", ConvLSTMStack(ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)))
    kinds = {variable.dtype for variable in load(tmp_path / "m", dtype="bfloat16").canonical_variables().values()}
    assert kinds == {"bfloat16"}
    with refused(SpecError, "dtype"):
        load(tmp_path / "m", dtype="mixed_bfloat16")


def test_extra_values_of_a_file_are_kept_and_saved_again(tmp_path: Path) -> None:
    stack = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
    extra = {"units": "mm/h", "transform": {"scale": 2.5}}
    for module in (ConvLSTMStack(stack), Forecaster(ForecasterSpec(encoder=stack))):
        assert module.extra == {}
        save(tmp_path / "m", module, extra)
        again = load(tmp_path / "m")
        assert again.extra == extra
        save(tmp_path / "again", again)
        assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_files_of_pytorch_are_read_and_written(tmp_path: Path) -> None:
    torch_face = pytest.importorskip("convlstm.torch")
    torch = pytest.importorskip("torch")
    theirs = torch_face.ConvLSTM(2, [3, 4], 3, bidirectional=True, peephole="channel", stride=[(2, 2), (1, 1)])
    digest = torch_face.save(tmp_path / "t.safetensors", theirs)
    ours = load(tmp_path / "t.safetensors")
    assert save(tmp_path / "k.safetensors", ours) == digest
    assert (tmp_path / "t.safetensors").read_bytes() == (tmp_path / "k.safetensors").read_bytes()
    x = torch.randn(2, 4, 2, 6, 5)
    with torch.no_grad():
        output, (h, c) = theirs(x)
    found, (h_n, c_n) = ours(np.moveaxis(x.numpy(), 2, -1))
    close(found, np.moveaxis(output.numpy(), 2, -1))
    for a, b in zip((*h_n, *c_n), (*h, *c), strict=True):
        close(a, np.moveaxis(b.numpy(), 1, -1))


@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_a_forecaster_of_pytorch_forecasts_the_same(rollout: str, tmp_path: Path) -> None:
    torch_face = pytest.importorskip("convlstm.torch")
    torch = pytest.importorskip("torch")
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[3, 5], kernel_size=3)
    theirs = torch_face.Forecaster(ForecasterSpec(encoder=stack, patch_size=2, rollout=rollout, residual=True)).eval()
    torch_face.save(tmp_path / "t.safetensors", theirs)
    ours, frames = load(tmp_path / "t.safetensors"), torch.randn(2, 3, 1, 8, 6)
    with torch.no_grad():
        wanted = theirs(frames, 4).numpy()
    close(ours(np.moveaxis(frames.numpy(), 2, -1), horizon=4), np.moveaxis(wanted, 2, -1))


def test_a_stack_starts_from_the_contracts_seed() -> None:
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3, direction="bidirectional")
    for key, value in to_canonical(ConvLSTMStack(spec, seed=5)).items():
        np.testing.assert_allclose(value, initialise(spec, 5)[key], rtol=1e-6)
    again = ConvLSTMStack.from_config(ConvLSTMStack(spec, seed=5).get_config())
    assert again.spec == spec
    keras.utils.set_random_seed(1)
    one = ConvLSTMStack(spec)
    assert (
        to_canonical(one)["layers.0.forward.weight_ih"]
        != to_canonical(ConvLSTMStack(spec))["layers.0.forward.weight_ih"]
    ).any()


def test_wrong_arrays_change_nothing(refused) -> None:
    layer = ConvLSTM2D(3, 3)
    layer.build((None, None, None, None, 2))
    before = to_canonical(layer)
    wrong = {k: v + 1 for k, v in before.items()}
    wrong["layers.0.forward.bias"] = np.zeros((4, 2))
    with refused(WeightsError, "layers.0.forward.bias"):
        load_canonical(layer, wrong)
    for key, value in to_canonical(layer).items():
        np.testing.assert_array_equal(value, before[key])


def test_a_forecaster_in_fit_and_in_a_file(tmp_path: Path) -> None:
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3, recurrent_dropout=0.2)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2), horizon=2, seed=1)
    frames, targets = np.random.default_rng(0).standard_normal((2, 2, 3, 8, 6, 1)).astype("float32")
    model.compile(optimizer="adam", loss="mse")
    start = to_canonical(model)
    model.fit(frames, targets[:, :2], epochs=3, verbose=0)
    for key, value in to_canonical(model).items():
        assert (value != start[key]).any(), key
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    close(again(frames), keras.ops.convert_to_numpy(model(frames)), 0.0)
    assert again(frames, horizon=5).shape == (2, 5, 8, 6, 1)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras writes a SavedModel on the other two")
@pytest.mark.parametrize("rollout", ["states", "feedback"])
def test_an_exported_forecaster_gives_the_same_numbers(rollout: str, tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=3, kernel_size=3)
    model = Forecaster(ForecasterSpec(encoder=stack, patch_size=2, rollout=rollout), horizon=2, seed=1)
    with pytest.raises(ValueError, match="called"):
        model.export(tmp_path / "never_called", verbose=False)
    model(np.zeros((1, 3, 8, 6, 1), "float32"))
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    for batch, steps in ((2, 3), (1, 5)):
        frames = np.random.default_rng(0).standard_normal((batch, steps, 8, 6, 1)).astype("float32")
        close(loaded.serve(frames), keras.ops.convert_to_numpy(model(frames)))


def test_every_array_gets_a_variable_in_keras_order() -> None:
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=1, norm="layer", peephole="channel")
    owner = keras.layers.Layer()
    shapes = {key.removeprefix("layers.0.forward."): shape for key, shape in canonical_shapes(spec).items()}
    assert list(add_variables(owner, shapes)) == ["weight_ih", "weight_hh", "bias", "norm_scale", "peephole"]
    assert BACKEND in ("tensorflow", "jax", "torch")


def test_save_with_the_arguments_of_torch_save_says_to_swap_them(refused, tmp_path: Path) -> None:
    layer = ConvLSTM2D(2, 3)
    layer.build((None, None, 8, 8, 1))
    with refused(WeightsError, "path"):
        save(layer, str(tmp_path / "layer.safetensors"))
    with pytest.raises(WeightsError, match=r"Swap the arguments: `save\(path, module\)`."):
        save(layer, tmp_path / "layer.safetensors")


def test_save_of_a_model_names_the_layer_inside_it(refused, tmp_path: Path) -> None:
    both = keras.layers.Bidirectional(ConvLSTM2D(2, 3), name="both")
    for module, part in (
        (keras.Sequential([keras.Input((3, 8, 8, 1)), ConvLSTM2D(2, 3, name="rain")]), "module.get_layer('rain')"),
        (keras.Sequential([keras.Input((3, 8, 8, 1)), both]), "module.get_layer('both').forward_layer"),
        (both, "module.forward_layer"),
    ):
        with refused(WeightsError, "module"):
            save(tmp_path / "layer.safetensors", module)
        with pytest.raises(WeightsError) as caught:
            save(tmp_path / "layer.safetensors", module)
        assert f"`{part}`" in caught.value.hint
        assert "`module.save('model.keras')`" in caught.value.hint
        save(tmp_path / "layer.safetensors", eval(part, {"module": module}))  # noqa: S307 (the expression of the hint)
    with refused(WeightsError, "module"):
        save(tmp_path / "layer.safetensors", keras.layers.Dense(1))
