"""`convlstm export`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from convlstm.export import Exported, Physical
    from convlstm.weights.checkpoint import Model

_FORMS = {"onnx": "scan", "onnx-unrolled": "unrolled", "onnx-step": "step"}
_FRAMEWORK_FORMATS = ("pt2", "aoti", "stablehlo", "savedmodel", "litert")
_HUB = "hub"
_OF_ANY_FORMAT = ("--size", "--mask", "--probability", "--horizon")  # but hub
_HORIZON = 12
_BACKEND = "KERAS_BACKEND"


def export(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Model file or run folder. Default: the model of rain in the package.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; a folder for savedmodel and hub.")
    ] = Path("model.onnx"),
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="ONNX: onnx (any number of steps), onnx-unrolled (a fixed number), onnx-step (one step with states). "
            "Others: pt2 (PyTorch), aoti (PyTorch, compiled), stablehlo (JAX), savedmodel (TensorFlow), litert (one "
            "step with states), hub (a folder for the Hugging Face Hub).",
        ),
    ] = "onnx",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Input steps of onnx-unrolled. Default: those of the training.")
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Frames to forecast. Default: the horizon of the training, or 12.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Size of the frames, such as 128x128. Default: any.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Samples in a batch, for onnx. Default: any.")] = None,
    states: Annotated[
        bool, typer.Option("--states", metavar="", help="Make the states inputs and outputs, for onnx.")
    ] = False,
    mask: Annotated[bool, typer.Option("--mask", metavar="", help="Make the validity of the frames an input.")] = False,
    probability: Annotated[
        bool, typer.Option("--probability", metavar="", help="Return probabilities in place of logits.")
    ] = False,
    physical: Annotated[
        bool,
        typer.Option(
            "--physical",
            metavar="",
            help="Take and return physical values, with the transform in the file, for onnx. Events are probabilities.",
        ),
    ] = False,
    weights: Annotated[
        str, typer.Option(help="Type of the kernels in the file, for onnx: float32, float16 or int8.")
    ] = "float32",
    license_name: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="NAME",
            help="Licence in the card of hub, such as cc-by-4.0. Default: that of the package for its model only.",
        ),
    ] = None,
) -> None:
    """Write a model for another runtime, and compare the file with the reference; or write it for the Hugging Face Hub.

    Batch, time and size are open where the format allows it and no option fixes them. The file is run on random inputs
    at two sizes, and is not written if a number differs by more than 1e-5.

    Example: `convlstm export -o rain.onnx`

    Example: `convlstm export my-run -o model.pt2 --format pt2 --size 128x128`

    Example: `convlstm export my-run -o my-model --format hub --license cc-by-4.0`
    """
    from convlstm.files import check_not_input
    from convlstm.nowcast.models import shipped_model
    from convlstm.spec.parsing import choice
    from convlstm.weights.checkpoint import load_model, model_file

    choice("--format", kind, (*_FORMS, *_FRAMEWORK_FORMATS, _HUB))
    graph_options = {"--size": size, "--mask": mask, "--probability": probability, "--horizon": horizon}
    onnx_options = {
        "--steps": steps,
        "--batch": batch,
        "--states": states,
        "--physical": physical,
        "--weights": weights if weights != "float32" else None,
    }
    if kind == _HUB:
        _check_unused(kind, graph_options | onnx_options)
        _to_hub(output, path, license_name)
        return
    _check_unused(kind, {"--license": license_name})
    source = shipped_model() if path is None else path
    check_not_input(output, model_file(source))
    model = load_model(source)
    shared = {"size": _sizes(size), "mask": mask, "probability": probability, "horizon": _horizon(model, horizon, kind)}
    if kind in _FORMS:
        further = {
            "form": _FORMS[kind],
            "steps": _steps(model, steps) if kind == "onnx-unrolled" else steps,
            "batch": batch,
            "states": states,
            "physical": _physical(model, source) if physical else None,
            "weight_type": weights,
        }
        _say(_to_onnx(output, model, shared | further), kind, weights)
        return
    _check_unused(kind, onnx_options)
    _say(_to_framework(output, model, kind, shared), kind)


def _to_onnx(output: Path, model: Model, options: dict[str, Any]) -> Exported:
    from convlstm.export import to_onnx

    pipeline = model.extra.get("pipeline", {})
    names = ("variables", "units", "time_step", "input_length", "transform", "frame", "grid_spacing")
    metadata = {name: pipeline[name] for name in names if pipeline.get(name) is not None}
    return to_onnx(output, model.spec, model.weights, metadata=metadata, **options)


def _to_framework(output: Path, model: Model, kind: Any, options: dict[str, Any]) -> Exported:
    from convlstm.export import to_framework

    if kind in ("savedmodel", "litert") and "keras" not in sys.modules:
        os.environ.setdefault(_BACKEND, "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return to_framework(output, model.spec, model.weights, kind, **options)


def _to_hub(output: Path, model: Path | None, license_name: str | None) -> None:
    """Write a folder for the Hub, and print what it has."""
    from convlstm.cli.output import say
    from convlstm.export.exported import check_path
    from convlstm.hub import FILES, save_folder

    folder = save_folder(check_path(output, _HUB), model, license=license_name)
    say(f"{folder}: {', '.join(FILES)}, {(folder / FILES[1]).stat().st_size / 1e6:.2f} MB")


def _horizon(model: Model, horizon: int | None, kind: str) -> int | None:
    """Return the number of forecast frames; None for a layer, and where the input `lead_durations` sets it."""
    from convlstm.spec.forecaster import ForecasterSpec

    if horizon is not None or not isinstance(model.spec, ForecasterSpec):
        return horizon
    if kind == "onnx" and model.spec.uses_durations:
        return None
    return int(model.extra.get("pipeline", {}).get("horizon", _HORIZON))


def _steps(model: Model, steps: int | None) -> int | None:
    """Return the number of input steps of an unrolled graph; None if neither option nor file tells it."""
    return model.extra.get("pipeline", {}).get("input_length") if steps is None else steps


def _physical(model: Model, source: Path) -> Physical:
    from convlstm.export import Physical
    from convlstm.nowcast.pipeline import Pipeline

    pipeline = Pipeline.of_model(model, source)
    return Physical(transform=pipeline.transform.to_dict(), rain=pipeline.rain, moving=pipeline.frame == "moving")


def _check_unused(kind: str, options: dict[str, Any]) -> None:
    """Raise an error for the first of these options that was passed, which only other formats have."""
    from convlstm.errors import SpecError

    name = next((name for name, value in options.items() if value), None)
    if name is None:
        return
    formats = {"--steps": "--format onnx-unrolled", "--license": f"--format {_HUB}"}
    formats |= dict.fromkeys(_OF_ANY_FORMAT, f"a format other than {_HUB}")
    options_of_format = [option for option in _OF_ANY_FORMAT if (option, kind) != ("--mask", "litert")]
    supported = "`--license`" if kind == _HUB else ", ".join(f"`{option}`" for option in options_of_format)
    raise SpecError(
        name,
        expected=formats.get(name, f"--format {' or '.join(_FORMS)}"),
        received=kind,
        hint=f"Leave it out; {kind} supports {supported}.",
    )


def _sizes(text: str | None) -> tuple[int, ...] | None:
    try:
        return None if text is None else tuple(int(part) for part in text.split("x"))
    except ValueError as error:
        raise typer.BadParameter(f"expected sizes as 128x128, got {text!r}", param_hint="--size") from error


def _say(exported: Exported, kind: str, weights: str = "float32") -> None:
    """Print what was written, with its inputs and outputs."""
    from convlstm.cli.output import say

    path = exported.path
    files = [path] if path.is_file() else [part for part in path.rglob("*") if part.is_file()]
    size = sum(part.stat().st_size for part in files) / 1e6
    kernels = "" if weights == "float32" else f" with kernels in {weights}"
    say(f"{path}: {kind}, {size:.2f} MB, at most {exported.difference:.1g} from the reference{kernels}")
    width = max(len(name) for name in (*exported.inputs, *exported.outputs))
    for label, values in (("input", exported.inputs), ("output", exported.outputs)):
        for name, text in values.items():
            say(f"{label:6}  {name:{width}}  {text}")
