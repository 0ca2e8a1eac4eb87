"""ONNX files of random layers and forecasters against the reference, and what a file holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convlstm import ConvLSTMSpec, ForecasterSpec, __version__
from convlstm.conformance import random_forecasters, random_layers
from convlstm.conformance.compare import rounded, weights_of
from convlstm.errors import OutputError, SpecError, WeightsError
from convlstm.export import Physical, onnx_file, to_onnx
from convlstm.export.comparison import TOLERANCE, Sizes, random_case, relative_difference
from convlstm.export.onnx_file import load_session, onnx_model, run_session, stored_weights
from convlstm.export.options import GraphOptions, check_options
from convlstm.reference import forecaster as reference_forecaster
from convlstm.reference import recurrence as reference
from convlstm.weights.canonical import initialise
from convlstm.weights.checkpoint import weights_digest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LAYER = ConvLSTMSpec(in_channels=2, hidden_channels=[3, 2], kernel_size=3, peephole="channel")
ENCODER = ConvLSTMSpec(in_channels=8, hidden_channels=[3, 2], kernel_size=3)
FORECASTER = ForecasterSpec(
    encoder=ENCODER, frame_channels=2, patch_size=2, thresholds=(0.1, 1.0), detail_channels=3, detail_frames=3
)


def session_of(spec: Any, weights: Any, **options: Any) -> Any:
    return load_session(onnx_model(spec, weights, GraphOptions(**options)).SerializeToString())


def feeds(session: Any, arrays: dict[str, np.ndarray], further: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a random case by the names of the inputs of a file."""
    result = {}
    for value in (*session.get_inputs(), *session.get_overridable_initializers()):
        name = value.name.replace("_0.", ".") if value.name[:4] in ("h_0.", "c_0.") else value.name
        if value.name in further:
            result[value.name] = further[value.name]
        elif name in arrays or name == "gaps":
            array = arrays[name] if name in arrays else arrays[next(key for key in arrays if key.startswith("gaps"))]
            result[value.name] = array.astype(np.float32)
    return result


def worst(received: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    plain = {name.replace("_n.", "."): value for name, value in received.items()}
    assert plain.keys() <= expected.keys()
    return max(relative_difference(value, expected[name]) for name, value in plain.items())


def layer_case(seed: int) -> random_layers.Case:
    case = rounded(random_layers.random_case(seed), "float32")
    return replace(case, masks=None, dropout=None)


SEEDS = [seed for seed in range(1, 14) if layer_case(seed).arrays["x"].shape[1]][:10]


@pytest.mark.parametrize("form", ["scan", "unrolled"])
@pytest.mark.parametrize("seed", SEEDS)
def test_random_layers_with_masks_states_and_times(seed: int, form: Any) -> None:
    case = layer_case(seed)
    steps = case.arrays["x"].shape[1]
    weights = weights_of(case)
    fixed = steps if form == "unrolled" else None
    options = GraphOptions(form=form, steps=fixed, states=True, mask=case.mask is not None)
    session = load_session(onnx_model(case.spec, weights, options).SerializeToString())
    further = {"steps": np.array([steps])} | ({} if case.mask is None else {"mask": case.mask})
    received = run_session(session, feeds(session, dict(case.arrays), further))
    assert worst(received, random_layers.reference_arrays(case)) <= TOLERANCE
    space = tuple(n + 3 for n in case.arrays["x"].shape[3:])
    if form == "scan" and case.spec.peephole != "pixel":
        inputs, expected = random_case(case.spec, weights, options, Sizes(4, steps + 2, 1, space), seed)
        received = run_session(session, inputs)
        assert max(relative_difference(received[name], expected[name]) for name in expected) <= TOLERANCE


@pytest.mark.parametrize("form", ["scan", "unrolled"])
@pytest.mark.parametrize("seed", range(10))
def test_random_forecasters(seed: int, form: Any) -> None:
    case = rounded(random_forecasters.random_forecast_case(seed), "float32")
    steps = case.arrays["frames"].shape[1]
    fixed = {"steps": steps, "horizon": case.horizon} if form == "unrolled" else {}
    has_states = "h.0" in case.arrays
    session = session_of(case.spec, weights_of(case), form=form, states=has_states, mask=case.mask is not None, **fixed)
    lead = np.full((len(case.arrays["frames"]), case.horizon), case.spec.encoder.reference_duration)
    further = {"horizon": np.array([case.horizon])} | ({} if case.mask is None else {"mask": case.mask})
    received = run_session(session, feeds(session, {"lead_durations": lead} | dict(case.arrays), further))
    assert len(received) == 1 + 2 * has_states * case.spec.encoder.depth
    assert worst(received, random_forecasters.reference_forecast(case)) <= TOLERANCE


@pytest.mark.parametrize("seed", range(6))
def test_one_step_of_random_layers_with_durations(seed: int, tmp_path: Path) -> None:
    case = random_layers.random_case(seed, direction="forward", merge="concat", in_channels=3, groups=1)
    exported = to_onnx(tmp_path / "step.onnx", case.spec, weights_of(case), form="step")
    assert exported.difference <= TOLERANCE
    assert list(exported.inputs)[:3] == ["x", "h_0.0", "c_0.0"]


def test_a_sequence_step_by_step_is_the_whole_sequence() -> None:
    weights, x = initialise(LAYER, 0), np.random.default_rng(0).standard_normal((2, 4, 2, 5, 6)).astype(np.float32)
    step = session_of(LAYER, weights, form="step")
    states = {f"{part}_0.{n}": np.zeros((2, c, 5, 6), np.float32) for n, c in enumerate((3, 2)) for part in "hc"}
    outputs = []
    for t in range(4):
        results = run_session(step, {"x": x[:, t], **states})
        outputs.append(results["output"])
        states = {name: results[name.replace("_0.", "_n.")] for name in states}
    expected, final = reference.stack(LAYER, weights, x.astype(np.float64))
    assert relative_difference(np.stack(outputs, 1), expected) <= TOLERANCE
    assert relative_difference(states["c_0.1"], final[1][1]) <= TOLERANCE


def test_a_forecast_from_a_stream_of_frames_is_that_of_the_sequence() -> None:
    weights, random = initialise(FORECASTER, 0), np.random.default_rng(0)
    frames = random.standard_normal((1, 5, 2, 8, 6)).astype(np.float32)
    step = session_of(FORECASTER, weights, form="step", horizon=3)
    shapes = {value.name: value.shape for value in step.get_inputs()}
    states = {name: np.zeros((1, shapes[name][1], 4, 3), np.float32) for name in shapes if name[:2] in ("h_", "c_")}
    states["frames_0"] = np.zeros((1, 4, 8, 6), np.float32)  # two earlier frames of two channels
    for t in range(5):
        results = run_session(step, {"frames": frames[:, t], **states})
        states = {name: results[name.replace("_0", "_n")] for name in states}
    expected = reference_forecaster.forecast(FORECASTER, weights, frames.astype(np.float64), 3)
    assert relative_difference(results["forecast"], expected) <= TOLERANCE


def test_the_horizon_is_an_input_with_a_default(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    exported = to_onnx(path, FORECASTER, initialise(FORECASTER, 0), horizon=5)
    assert exported.inputs["horizon"] == "int64 (1,), optional"
    session = onnxruntime.InferenceSession(path)
    frames = np.zeros((1, 2, 2, 6, 8), np.float32)
    assert session.run(None, {"frames": frames})[0].shape == (1, 5, 2, 6, 8)
    assert session.run(None, {"frames": frames, "horizon": np.array([7])})[0].shape == (1, 7, 2, 6, 8)


@pytest.mark.parametrize("options", [{"residual": True}, {"rollout": "feedback"}])
def test_one_step_of_a_model_that_reads_its_last_frame(options: dict[str, Any], tmp_path: Path) -> None:
    spec = replace(FORECASTER, thresholds=(), detail_channels=0, detail_frames=1, **options)
    exported = to_onnx(tmp_path / "step.onnx", spec, initialise(spec, 0), form="step", horizon=2)
    assert exported.difference <= 1e-5


@pytest.mark.parametrize("form", ["unrolled", "step"])
def test_graphs_of_fixed_steps_have_no_loop_and_their_sizes_can_be_fixed(form: Any) -> None:
    steps = {"steps": 3} if form == "unrolled" else {}
    options = GraphOptions(form=form, horizon=2, batch=1, size=(8, 6), **steps)
    model = onnx_model(FORECASTER, initialise(FORECASTER, 0), options)
    assert not {"Scan", "Loop", "If"} & {node.op_type for node in model.graph.node}
    dims = [dim for value in (*model.graph.input, *model.graph.output) for dim in value.type.tensor_type.shape.dim]
    assert all(dim.dim_value > 0 for dim in dims)


def test_a_file_says_what_it_is_and_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    weights = initialise(FORECASTER, 0)
    for name in ("a.onnx", "b.onnx"):
        to_onnx(tmp_path / name, FORECASTER, weights, probability=True, metadata={"units": "mm/h", "time_step": 300})
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["convlstm_version"] == __version__
    assert props["weights_digest"] == weights_digest(weights)
    assert props["layout"] == "float32, channels first"
    assert props["output"] == "probabilities of the thresholds"
    assert (props["units"], props["time_step"], props["values"]) == ("mm/h", "300", "model values")
    assert ForecasterSpec.from_dict(json.loads(props["spec"])) == FORECASTER


def test_kernels_in_narrow_types_make_small_files_with_the_numbers_of_the_rounded_kernels(tmp_path: Path) -> None:
    spec = ConvLSTMSpec(in_channels=4, hidden_channels=16, kernel_size=3, groups=2, peephole="pixel", input_size=(5, 6))
    weights = initialise(spec, 0)
    x = np.random.default_rng(0).standard_normal((1, 3, 4, 5, 6)).astype(np.float32)
    exact = reference.stack(spec, weights, x.astype(np.float64))[0]
    sizes, errors = {}, {}
    for kind in ("float32", "float16", "int8"):
        path = tmp_path / f"{kind}.onnx"
        assert to_onnx(path, spec, weights, weight_type=kind).difference <= TOLERANCE
        sizes[kind] = sum(
            len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer if "weight" in tensor.name
        )
        output = onnxruntime.InferenceSession(path).run(["output"], {"x": x})[0]
        errors[kind] = relative_difference(output, exact)
    assert sizes["float16"] * 2 == sizes["float32"]
    assert sizes["int8"] < 0.3 * sizes["float32"]
    assert 1e-6 < errors["float16"] < 1e-3 < errors["int8"] < 3e-2
    stored = stored_weights(weights, "int8")["layers.0.forward.weight_hh"]
    scale = np.abs(weights["layers.0.forward.weight_hh"]).max(axis=(2, 3, 4), keepdims=True) / 127
    assert (np.abs(stored - weights["layers.0.forward.weight_hh"]) <= 0.5001 * scale).all()


@pytest.mark.parametrize(
    ("transform", "moving"),
    [
        ({"name": "log_rain", "scale": 10.0, "ceiling": 100.0, "top": 7.0}, True),
        ({"name": "reflectivity", "a": 200.0, "b": 1.6, "floor": 0.0, "ceiling": 60.0}, False),
        ({"name": "standard", "mean": [280.0, 3.0], "std": [10.0, 0.5]}, False),
        ({"name": "identity"}, False),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("form", ["scan", "unrolled"])
def test_physical_values_with_missing_ones_and_sizes_between_patches(
    transform: dict, moving: bool, form: Any, tmp_path: Path
) -> None:
    spec = replace(FORECASTER, thresholds=(), detail_channels=0, detail_frames=1, residual=True)
    steps = {"steps": 3} if form == "unrolled" else {}
    physical = Physical(transform=transform, rain=transform["name"] in ("log_rain", "reflectivity"), moving=moving)
    spec = FORECASTER if moving else spec
    exported = to_onnx(tmp_path / "m.onnx", spec, initialise(spec, 0), form=form, horizon=2, physical=physical, **steps)
    assert exported.difference <= TOLERANCE
    assert exported.inputs["frames"].split(", ")[2] == ("1" if moving else "2")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    frames = np.full((1, 3, 1 if moving else 2, 7, 9), np.nan, np.float32)
    forecast = session.run(["forecast"], {"frames": frames})[0]
    assert forecast.shape == (1, 2, 2, 7, 9)
    assert np.isfinite(forecast).all()


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a step backwards": (replace(LAYER, direction="bidirectional"), {"form": "step"}, "direction"),
    "a function": (replace(LAYER, duration_strategy=lambda r: r), {}, "duration_strategy"),
    "no steps": (LAYER, {"form": "unrolled"}, "steps"),
    "steps of a loop": (LAYER, {"steps": 3}, "steps"),
    "a mask of one step": (LAYER, {"form": "step", "mask": True}, "mask"),
    "no states": (ConvLSTMSpec(in_channels=0, hidden_channels=2, kernel_size=3), {}, "states"),
    "another size": (replace(LAYER, peephole="pixel", input_size=(4, 4)), {"size": (5, 4)}, "size"),
    "a horizon of a layer": (LAYER, {"horizon": 3}, "horizon"),
    "a probability of a layer": (LAYER, {"probability": True}, "probability"),
    "physical values of a layer": (LAYER, {"physical": Physical(transform={})}, "physical"),
    "physical values of one step": (
        FORECASTER,
        {"physical": Physical(transform={}), "form": "step", "horizon": 2},
        "physical",
    ),
    "two directions of one step": (replace(LAYER, direction="bidirectional"), {"form": "step"}, "direction"),
    "no horizon": (FORECASTER, {"form": "step"}, "horizon"),
    "no multiple of the patch": (FORECASTER, {"size": (7, 8)}, "size"),
    "probability of frames": (replace(FORECASTER, thresholds=()), {"probability": True}, "probability"),
    "a mask of physical values": (FORECASTER, {"physical": Physical(transform={}), "mask": True}, "mask"),
    "states of physical values": (FORECASTER, {"physical": Physical(transform={}), "states": True}, "states"),
    "an unknown form": (LAYER, {"form": "loop"}, "form"),
    "an unknown type": (LAYER, {"weight_type": "int4"}, "weight_type"),
    "no batch": (LAYER, {"batch": 0}, "batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_hold_is_refused_by_name(name: str, refused: Any, tmp_path: Path) -> None:
    spec, options, argument = REFUSED[name]
    weights = initialise(spec, 0)
    with refused(SpecError, argument):
        to_onnx(tmp_path / "model.onnx", spec, weights, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no steps", "Pass `--steps 6` (`steps=6` in Python), or choose `--format onnx` (`form='scan'`)."),
        ("steps of a loop", "choose `--format onnx-unrolled` (`form='unrolled'` in Python)."),
        ("no states", "Pass `--states` (`states=True` in Python)."),
        ("no horizon", "Pass `--horizon 12` (`horizon=12` in Python)."),
        ("two directions of one step", "Choose `--format onnx` (`form='scan'` in Python)"),
    ],
)
def test_a_hint_has_the_option_of_the_command_and_the_argument_of_python(name: str, words: str) -> None:
    spec, options, _ = REFUSED[name]
    with pytest.raises(SpecError, match=re.escape(words)):
        check_options(spec, GraphOptions(**options))


def test_an_unknown_transform_is_refused(refused: Any, tmp_path: Path) -> None:
    with refused(SpecError, "physical"):
        to_onnx(tmp_path / "m.onnx", FORECASTER, initialise(FORECASTER, 0), physical=Physical(transform={"name": "a"}))


@pytest.mark.parametrize("name", ["model.pt2", "model", "model.onnx.gz"])
def test_another_suffix_is_refused(name: str, refused: Any, tmp_path: Path) -> None:
    with refused(OutputError, str(tmp_path / name)):
        to_onnx(tmp_path / name, LAYER, initialise(LAYER, 0))


def test_a_file_with_other_numbers_is_not_written(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, weights = tmp_path / "model.onnx", initialise(LAYER, 0)
    path.write_bytes(b"the old file")
    other = stored_weights(weights, "float32")
    other["layers.1.forward.bias"] = other["layers.1.forward.bias"] + np.float32(1e-3)
    monkeypatch.setattr(onnx_file, "stored_weights", lambda *_: other)
    with refused(OutputError, str(path)):
        to_onnx(path, LAYER, weights)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"the old file"


def test_weights_of_another_spec_or_too_large_ones_are_refused(refused: Any, tmp_path: Path) -> None:
    weights = initialise(LAYER, 0)
    with refused(WeightsError, "layers.0.forward.peephole"):
        to_onnx(tmp_path / "m.onnx", replace(LAYER, peephole="none"), weights)
    weights["layers.0.forward.bias"] = weights["layers.0.forward.bias"] * 1e39
    with refused(WeightsError, "layers.0.forward.bias"):
        to_onnx(tmp_path / "m.onnx", LAYER, weights)


def test_a_model_above_the_limit_of_the_format_is_refused_before_it_is_built(refused: Any, tmp_path: Path) -> None:
    large = ConvLSTMSpec(in_channels=1, hidden_channels=6000, kernel_size=3)
    with pytest.raises(OutputError, match=r"`--format pt2` \(`to_framework` in Python\)") as caught:
        onnx_model(large, {}, GraphOptions())
    with refused(OutputError, "spec"):
        raise caught.value
