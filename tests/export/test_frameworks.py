"""Files of the exporters of PyTorch and JAX: open sizes, the numbers of the reference, and refusals by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec
from convlstm.errors import DependencyError, OutputError, SpecError
from convlstm.export import frameworks, to_framework
from convlstm.export.exported import SUFFIXES
from convlstm.reference import forecaster as reference_forecaster
from convlstm.reference import recurrence as reference
from convlstm.weights.canonical import initialise

LAYER = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
FORECASTER = ForecasterSpec(
    encoder=ConvLSTMSpec(in_channels=4, hidden_channels=2, kernel_size=3), patch_size=2, thresholds=(0.1, 1.0)
)


def frames(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own steps
def test_a_program_of_pytorch_takes_any_batch_time_and_size(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weights, path = initialise(LAYER, 0), tmp_path / "layer.pt2"
    exported = to_framework(path, LAYER, weights, "pt2")
    assert exported.difference <= 1e-5
    assert exported.inputs == {"x": "float32 (batch, time, 1, height, width)"}
    assert exported.outputs["output"] == "float32 (batch, time, 2, height, width)"
    x = frames(3, 2, 1, 11, 4)
    output, _ = torch.export.load(path).module()(torch.from_numpy(x))
    expected = reference.stack(LAYER, weights, x.astype(np.float64))[0]
    np.testing.assert_allclose(output.detach().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own steps
@pytest.mark.parametrize("has_mask", [False, True])
def test_a_program_of_pytorch_takes_fewer_frames_than_its_output_reads(has_mask: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    spec, path = replace(FORECASTER, detail_channels=2, detail_frames=3), tmp_path / "model.pt2"
    weights = initialise(spec, 0)
    to_framework(path, spec, weights, "pt2", horizon=2, mask=has_mask)
    program = torch.export.load(path).module()
    for steps in (1, 2, 5):
        x, mask = frames(1, steps, 1, 8, 10), np.arange(steps)[None] % 3 == 0
        given = {"mask": mask} if has_mask else {}
        received = program(torch.from_numpy(x), **{name: torch.from_numpy(array) for name, array in given.items()})
        expected = reference_forecaster.forecast(spec, weights, x.astype(np.float64), 2, **given)
        np.testing.assert_allclose(received.detach().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own steps
def test_a_compiled_program_takes_any_batch_time_and_size(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from convlstm.torch.aoti import check_compiler

    try:
        check_compiler()
    except DependencyError as error:
        pytest.skip(str(error))
    # two directions are two loops, and PyTorch 2.13 declared the product of their results twice
    spec = replace(LAYER, padding="valid", duration_strategy="log1p", direction="bidirectional", merge="mul")
    weights, path = initialise(spec, 0), tmp_path / "layer.pt2"
    exported = to_framework(path, spec, weights, "aoti", mask=True)
    assert exported.difference <= 1e-5
    assert exported.outputs["output"] == "float32 (batch, time, 2, ?, ?)"
    x, mask, durations = frames(3, 2, 1, 11, 5), np.array([[True, False]] * 3), np.full((3, 2), 2.0, np.float32)
    given = {"mask": torch.from_numpy(mask), "durations": torch.from_numpy(durations)}
    output, _ = torch._inductor.aoti_load_package(str(path))(torch.from_numpy(x), **given)
    expected = reference.stack(spec, weights, x.astype(np.float64), mask=mask, durations=durations)[0]
    np.testing.assert_allclose(output.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.slow  # of compiling
@pytest.mark.filterwarnings("ignore")  # PyTorch warns of its own steps
def test_a_forecaster_of_patches_with_a_residual_is_compiled(tmp_path: Path) -> None:
    # with other kernels or boundaries PyTorch's compiler finds no sizes that it cannot compare
    options = {"kernel_size": 3, "recurrent_kernel_size": 1, "boundary": "replicate", "peephole": "channel"}
    encoder = ConvLSTMSpec(in_channels=18, hidden_channels=1, bias=False, **options)
    spec = ForecasterSpec(encoder=encoder, frame_channels=2, patch_size=3, rollout="feedback", residual=True)
    exported = to_framework(tmp_path / "model.pt2", spec, initialise(spec, 0), "aoti", horizon=3)
    assert exported.difference <= 1e-5


def test_without_a_compiler_nothing_is_compiled(refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("a-compiler-that-is-not-installed",))
    with refused(DependencyError, "aoti"):
        to_framework(tmp_path / "layer.pt2", LAYER, initialise(LAYER, 0), "aoti")
    assert not list(tmp_path.iterdir())


def test_a_module_of_jax_takes_any_batch_time_and_size(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    from jax import export

    weights, path = initialise(FORECASTER, 0), tmp_path / "model.stablehlo"
    exported = to_framework(path, FORECASTER, weights, "stablehlo", horizon=3, probability=True, mask=True)
    assert exported.inputs == {"frames": "float32 (batch, time, height, width, 1)", "mask": "bool (batch, time)"}
    assert exported.outputs == {"forecast": "float32 (batch, 3, height, width, 2)"}
    x, mask = frames(1, 5, 1, 12, 16), np.array([[True, False, True, True, False]])
    module = export.deserialize(bytearray(path.read_bytes()))
    received = module.call(np.moveaxis(x, 2, -1), mask=mask)
    expected = reference_forecaster.forecast(FORECASTER, weights, x.astype(np.float64), 3, mask=mask)
    expected = 0.5 * (1 + np.tanh(0.5 * expected))
    np.testing.assert_allclose(jax.device_get(received), np.moveaxis(expected, 2, -1), rtol=0, atol=1e-5)


def test_a_fixed_size_allows_what_an_open_one_does_not(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3, stride=2, boundary="reflect", padding=1)
    exported = to_framework(tmp_path / "m.stablehlo", spec, initialise(spec, 0), "stablehlo", size=(7, 8))
    assert exported.difference <= 1e-5
    assert exported.outputs["h_n.0"] == "float32 (batch, 4, 4, 2)"


REFUSED: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "stride": (replace(LAYER, stride=2), "pt2", {}, "stride"),
    "padding": (replace(LAYER, padding="valid"), "stablehlo", {}, "padding"),
    "boundary": (replace(LAYER, boundary="circular"), "stablehlo", {}, "boundary"),
    "no input": (ConvLSTMSpec(in_channels=0, hidden_channels=2, kernel_size=3), "pt2", {}, "in_channels"),
    "a function": (replace(LAYER, duration_strategy=lambda r: r), "pt2", {}, "duration_strategy"),
    "no horizon": (FORECASTER, "pt2", {}, "horizon"),
    "detail": (replace(FORECASTER, detail_channels=2), "stablehlo", {"horizon": 2}, "detail_channels"),
    "probability of frames": (
        replace(FORECASTER, thresholds=()),
        "pt2",
        {"horizon": 2, "probability": True},
        "probability",
    ),
    "a horizon of a layer": (LAYER, "pt2", {"horizon": 2}, "horizon"),
    "a horizon of 0 of a layer": (LAYER, "pt2", {"horizon": 0}, "horizon"),
    "a probability of a layer": (LAYER, "pt2", {"probability": True}, "probability"),
    "a stride of an open size, compiled": (replace(LAYER, stride=2), "aoti", {}, "stride"),
    "a stride of an open size in one step": (replace(LAYER, stride=2), "litert", {}, "stride"),
    "two directions of one step": (replace(LAYER, direction="bidirectional"), "litert", {}, "direction"),
    "a mask of one step": (LAYER, "litert", {"mask": True}, "mask"),
    "another format": (LAYER, "coreml", {}, "kind"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_format_cannot_hold_is_refused_by_name(name: str, refused: Any, tmp_path: Path) -> None:
    spec, kind, options, argument = REFUSED[name]
    with refused(SpecError, argument):
        path = tmp_path / f"model{SUFFIXES.get(kind, '.coreml')}"
        to_framework(path, spec, initialise(spec, 0), kind, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


class _Failing:
    """An exporter that writes a file of other numbers, or fails."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def write(self, path: Path, *_: Any, **__: Any) -> None:
        if self.error is not None:
            raise self.error
        path.write_bytes(b"a file")

    def runner(self, _: Path) -> Any:
        return lambda inputs: {
            "output": np.zeros((*inputs["x"].shape[:2], 2, *inputs["x"].shape[3:])),
            "h_n.0": np.zeros(1),
            "c_n.0": np.zeros(1),
        }


@pytest.mark.parametrize("error", [None, RuntimeError("two\nlines")])
def test_a_failed_export_leaves_the_old_file(
    error: Exception | None, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"the old file")
    monkeypatch.setattr(frameworks, "_exporter", lambda _: _Failing(error))
    with refused(OutputError, str(path)):
        to_framework(path, LAYER, initialise(LAYER, 0), "pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert path.read_bytes() == b"the old file"


@pytest.mark.parametrize("kind", ["pt2", "stablehlo", "savedmodel"])
@pytest.mark.parametrize("open_space", [True, False])
def test_mask_of_a_stack_in_one_dimension_has_no_axis(kind, open_space):
    spec = ConvLSTMSpec(in_channels=2, hidden_channels=3, kernel_size=3, spatial_dims=1)
    words = frameworks._described("mask", np.zeros((2, 5), np.float32), spec, open_space, kind)
    assert words == "float32 (batch, time)"
