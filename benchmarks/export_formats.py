"""Export ten random models in every format, and print the largest difference of each file from the reference.

    KERAS_BACKEND=tensorflow python -m benchmarks.export_formats

Each file is loaded and run at two batch sizes, numbers of steps and spatial sizes, with random weights, inputs, states,
durations and gaps. A star means that the format fixes the spatial size for this model. Where a format refuses the
model, the table has the option, and where it fails, `failed`. `--formats` and `--models` choose a part of the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from convlstm.conformance.random_forecasters import random_forecast_case
from convlstm.conformance.random_layers import random_case
from convlstm.errors import OutputError, SpecError
from convlstm.export import to_framework, to_onnx
from convlstm.export.exported import SUFFIXES
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.canonical import Spec, initialise

FORMS = {"onnx": "scan", "onnx-unrolled": "unrolled", "onnx-step": "step"}
FORMATS = (*FORMS, "pt2", "aoti", "stablehlo", "savedmodel", "litert")
LAYERS, FORECASTERS = 6, 4
HORIZON = 3
SIDE = 12  # of a fixed size, a multiple of every patch size of the random models
_ONE_STEP = ("onnx-step", "litert")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--models", nargs="+", type=int, default=range(LAYERS + FORECASTERS))
    arguments = parser.parse_args()
    specs = _specs()
    cells = {}
    for number in arguments.models:
        for kind in arguments.formats:
            start = time.perf_counter()
            cells[number, kind] = _cell(specs[number], kind, number)
            seconds = time.perf_counter() - start
            print(f"{number} {kind}: {cells[number, kind]} in {seconds:.1f} s", file=sys.stderr, flush=True)
    print(f"| model | {' | '.join(arguments.formats)} |\n|---|{'---|' * len(arguments.formats)}")
    for number in arguments.models:
        row = " | ".join(cells[number, kind] for kind in arguments.formats)
        print(f"| {_described(specs[number])} | {row} |")


def _specs() -> list[Spec]:
    """Return layer stacks, half of them forward, and forecasters, half of them with `detail_channels`."""
    layers = [random_case(seed).spec for seed in range(100)]
    layers_of_any_size = [spec for spec in layers if spec.in_channels and spec.peephole != "pixel"]
    forecasters = [random_forecast_case(seed).spec for seed in range(100)]
    chosen: list[Spec] = []
    for is_forward in (True, False):
        chosen += [spec for spec in layers_of_any_size if (spec.direction == "forward") == is_forward][: LAYERS // 2]
    for has_detail in (False, True):
        chosen += [spec for spec in forecasters if bool(spec.detail_channels) == has_detail][: FORECASTERS // 2]
    return chosen


def _cell(spec: Spec, kind: str, seed: int) -> str:
    """Return the largest difference of a file, with a star for a fixed size, or the option that is refused."""
    weights = {key: np.asarray(array, np.float32) for key, array in initialise(spec, seed).items()}
    refused = ""
    for side in (None, SIDE):
        try:
            return _difference(spec, weights, kind, side) + ("" if side is None else "*")
        except SpecError as error:
            refused = f"`{error.argument}`"
        except OutputError as error:
            print(error, file=sys.stderr)
            refused = "failed"
    return refused


def _difference(spec: Spec, weights: Any, kind: str, side: int | None) -> str:
    is_forecaster = isinstance(spec, ForecasterSpec)
    size = None if side is None else (side,) * (spec.encoder if is_forecaster else spec).spatial_dims
    options: dict[str, Any] = {"size": size, "mask": kind not in _ONE_STEP}
    path = Path(tempfile.mkdtemp()) / f"model{SUFFIXES['onnx' if kind in FORMS else kind]}"
    if kind not in FORMS:
        exported = to_framework(path, spec, weights, kind, horizon=HORIZON if is_forecaster else None, **options)
        return f"{exported.difference:.0e}"
    lead_is_input = kind == "onnx" and is_forecaster and spec.uses_durations
    options["horizon"] = HORIZON if is_forecaster and not lead_is_input else None
    options["steps"] = 4 if kind == "onnx-unrolled" else None
    return f"{to_onnx(path, spec, weights, form=FORMS[kind], **options).difference:.0e}"


def _described(spec: Spec) -> str:
    """Return the options of a model in which the rows differ most."""
    if isinstance(spec, ForecasterSpec):
        parts = ["forecaster", f"patches of {spec.patch_size}", f"`{spec.rollout}`"]
        parts += [
            name for name in ("residual", "thresholds", "detail_channels", "uses_durations") if getattr(spec, name)
        ]
        return ", ".join(parts)
    parts = [f"{spec.spatial_dims}-D", f"{spec.depth} layers" if spec.depth > 1 else "1 layer", spec.direction]
    if any(set(layer.stride) != {1} for layer in spec.layers):
        parts.append("stride")
    parts += [f"{name} {getattr(spec, name)}" for name in ("norm", "peephole") if getattr(spec, name) != "none"]
    if spec.duration_strategy != "none":
        parts.append("durations")
    return ", ".join([*parts, *(["gaps"] if spec.memory_decay else [])])


if __name__ == "__main__":
    main()
