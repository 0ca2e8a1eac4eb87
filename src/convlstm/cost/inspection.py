"""The input of `convlstm inspect`: a model file, a run, a preset or a spec, and the size of the frames."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from convlstm.cost.operations import ModelCost
from convlstm.cost.workload import Workload, check_frames
from convlstm.errors import ConfigError, ConvLSTMError
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import AXIS_NAMES
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.presets import PRESETS
from convlstm.weights.canonical import Spec
from convlstm.weights.checkpoint import SPEC_TYPES, file_error, kind_of, load_model

_SIZE = "[1-9][0-9]{0,9}"
_MOST_STEPS = 10_000
_USUAL_STEPS, _USUAL_HORIZON, _USUAL_POINTS = 10, 12, 128


@dataclass(frozen=True)
class Subject:
    """A model to inspect: its spec, the digest of its weights, and the data pipeline if `convlstm train` wrote it."""

    spec: Spec
    digest: str | None = None
    pipeline: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`layer` or `forecaster`."""
        return kind_of(self.spec)


def read_subject(target: str) -> Subject:
    """Return the model of a model file, a run folder, a spec as a JSON file, or the name of a preset."""
    path = Path(target)
    if path.suffix == ".json" and path.is_file():
        return Subject(_read_spec(path))
    if path.is_file() or path.is_dir():
        return _read_model(path)
    if target in PRESETS:
        return Subject(PRESETS[target])
    raise ConfigError(
        "TARGET",
        expected=f"a model file, the folder of a run, a spec as *.json, or one of {', '.join(PRESETS)}",
        received=repr(target),
        hint="Correct the path or the name.",
    )


def workload(
    subject: Subject, text: str | None, *, batch: int = 1, horizon: int | None = None, precision: str = "float32"
) -> Workload:
    """Return the workload of a model; the values of its training are the defaults.

    `text` holds the frames as `10x1x128x128`: time, channel and the spatial axes.
    """
    if horizon is not None and subject.kind == "layer":
        raise ConfigError("--horizon", expected="none for a layer", received=horizon, hint="Leave `--horizon` out.")
    result = Workload(
        shape=_usual_shape(subject) if text is None else padded(subject, _read_shape(subject.spec, text)),
        batch=batch,
        horizon=subject.pipeline.get("horizon", _USUAL_HORIZON) if horizon is None else horizon,
        precision=precision,
    )
    check_frames(subject.spec, result.full_shape)
    return result


def padded(subject: Subject, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size to which `convlstm forecast` pads frames: height and width are multiples of the patch size.

    Only a model with a data pipeline is padded; any other model refuses such frames.
    """
    if not (isinstance(subject.spec, ForecasterSpec) and subject.pipeline):
        return shape
    patch = subject.spec.patch_size
    return (*shape[:2], *(-(-size // patch) * patch for size in shape[2:]))


def describe(subject: Subject, workload: Workload, cost: ModelCost) -> dict[str, Any]:
    """Return the output of `inspect` as plain JSON values: sizes in points or pixels, FLOP and bytes."""
    forecaster = subject.kind == "forecaster"
    return {
        "kind": subject.kind,
        "digest": subject.digest,
        "pipeline": dict(subject.pipeline) or None,
        "input": list(workload.shape),
        "batch": workload.batch,
        "horizon": workload.horizon if forecaster else None,
        "precision": workload.precision,
        "layers": [asdict(layer) for layer in cost.layers],
        "head": None if cost.head is None else asdict(cost.head),
        "detail": [asdict(convolution) for convolution in cost.detail],
        "parameters": cost.parameters,
        "forward_flop": cost.forward_flop,
        "training_flop": cost.training_flop,
        "training_bytes": cost.training_bytes,
    }


def _read_model(path: Path) -> Subject:
    model = load_model(path)
    pipeline = model.extra.get("pipeline") or {}
    counts = [pipeline.get(name, 1) for name in ("input_length", "horizon")] if isinstance(pipeline, dict) else [None]
    if not all(type(count) is int and 1 <= count <= _MOST_STEPS for count in counts):
        raise file_error(path, "numbers of frames in its data pipeline", repr(pipeline)[:100], "Train the model again.")
    return Subject(model.spec, model.digest, pipeline)


def _read_spec(path: Path) -> Spec:
    """Read {"kind": "layer" or "forecaster", "spec": {...}}."""
    form = '{"kind": "layer" or "forecaster", "spec": {...}}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind, options = SPEC_TYPES[content.pop("kind")], content.pop("spec")
        if content:
            raise ValueError(f"the unknown key {sorted(content)[0]!r}")
        return kind.from_dict(options)
    except ConvLSTMError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        hint = "Write the result of `to_dict` of a spec."
        received = str(error) or type(error).__name__
        raise ConfigError(str(path), expected=form, received=received, hint=hint) from error


def _read_shape(spec: Spec, text: str) -> tuple[int, ...]:
    rank = spec.spatial_dims if isinstance(spec, ConvLSTMSpec) else 2
    numbers = text.split("x")
    # a limit on the digits keeps every number printable; frames of a stack without input have 0 channels
    channels = numbers.pop(1) if len(numbers) > 1 else ""
    is_size = channels == "0" or re.fullmatch(_SIZE, channels, re.ASCII)
    if len(numbers) == rank + 1 and is_size and all(re.fullmatch(_SIZE, number, re.ASCII) for number in numbers):
        numbers.insert(1, channels)
        return tuple(int(number) for number in numbers)
    example = "x".join(["10", "1", *["128"] * rank])
    raise ConfigError(
        "--input",
        expected=f"{' x '.join(['time', 'channel', *AXIS_NAMES[rank]])}, each at least 1",
        received=repr(text),
        hint=f"Write the sizes as {example}.",
    )


def _usual_shape(subject: Subject) -> tuple[int, ...]:
    """Return the default size of the frames of a model."""
    steps = subject.pipeline.get("input_length", _USUAL_STEPS)
    spec = subject.spec
    if isinstance(spec, ForecasterSpec):
        grid = spec.encoder.input_size or (-(-_USUAL_POINTS // spec.patch_size),) * 2
        return (steps, spec.frame_channels, *(n * spec.patch_size for n in grid))
    return (steps, spec.in_channels, *(spec.input_size or (_USUAL_POINTS,) * spec.spatial_dims))
