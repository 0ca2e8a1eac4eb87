"""The options of an ONNX graph, and the refusal of what it cannot hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from convlstm.errors import OutputError, SpecError
from convlstm.export.storage import WEIGHT_TYPES, WeightType
from convlstm.spec import parsing
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.options import ConvLSTMSpec
from convlstm.weights.canonical import Spec, parameter_count

Form = Literal["scan", "unrolled", "step"]
FORMS: tuple[Form, ...] = ("scan", "unrolled", "step")
_LARGEST_FILE = 2**31 - 2**20
"""Bytes of weights that fit in one file of ONNX, whose limit is 2 GiB."""
HORIZON_HINT = "Pass `--horizon 12` (`horizon=12` in Python)."


@dataclass(frozen=True, kw_only=True)
class Physical:
    """The conversion between physical values and model values that a graph contains.

    Args:
        transform: Name and options of the transform, as `Transform.to_dict` returns them.
        rain: Whether the values are rain rates, which are never negative.
        moving: Whether the model works in the moving frame, with a last channel that is 1 where values are known.
    """

    transform: Mapping[str, Any]
    rain: bool = False
    moving: bool = False


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """What an ONNX graph contains (see `convlstm.export.to_onnx`)."""

    form: Form = "scan"
    steps: int | None = None
    horizon: int | None = None
    batch: int | None = None
    size: tuple[int, ...] | None = None
    states: bool = False
    mask: bool = False
    probability: bool = False
    physical: Physical | None = None
    weight_type: WeightType = "float32"

    @property
    def loop_steps(self) -> int | None:
        """Number of unrolled time steps; None for a loop over any number."""
        return self.steps if self.form == "unrolled" else None

    @property
    def lead_steps(self) -> int | None:
        """Number of unrolled lead times; None for a loop over any number."""
        return None if self.form == "scan" else self.horizon

    @property
    def has_states(self) -> bool:
        """Whether the states are inputs and outputs."""
        return self.states or self.form == "step"


def check_options(spec: Spec, options: GraphOptions) -> None:
    """Raise an error for an option that the graph cannot hold, or that has no effect, naming the option."""
    parsing.choice("form", options.form, FORMS)
    parsing.choice("weight_type", options.weight_type, WEIGHT_TYPES)
    stack = spec.encoder if isinstance(spec, ForecasterSpec) else spec
    if callable(stack.duration_strategy):
        _refuse(
            "duration_strategy",
            "the name of a strategy",
            "a function, which no file holds",
            "Use a named strategy, such as `duration_strategy='mlp'`.",
        )
    if 4 * parameter_count(spec) > _LARGEST_FILE:
        raise OutputError(
            "spec",
            expected="at most 2 GiB of weights in a file of ONNX",
            received=f"{4 * parameter_count(spec) / 2**30:.1f} GiB",
            hint="Choose `--format pt2` (`to_framework` in Python).",
        )
    for name in ("steps", "horizon", "batch"):
        value = getattr(options, name)
        if value is not None:
            parsing.integer(name, value, 1)
    if options.size is not None:
        parsing.per_axis("size", options.size, stack.spatial_dims, 1)
    _check_steps(stack, options)
    check_size_of_grid(spec, options)
    check_kind(spec, options)
    if isinstance(spec, ForecasterSpec):
        _check_forecaster(spec, options)
    else:
        _check_layer(spec, options)


def _check_steps(stack: ConvLSTMSpec, options: GraphOptions) -> None:
    if options.form == "unrolled" and options.steps is None:
        hint = "Pass `--steps 6` (`steps=6` in Python), or choose `--format onnx` (`form='scan'`)."
        _refuse("steps", "the number of steps of an unrolled graph", "None", hint)
    if options.form != "unrolled" and options.steps is not None:
        hint = "Leave it out, or choose `--format onnx-unrolled` (`form='unrolled'` in Python)."
        _refuse("steps", "None, since only an unrolled graph fixes it", options.steps, hint)
    if options.form == "step":
        check_one_step(stack, options)


def check_one_step(stack: ConvLSTMSpec, options: GraphOptions) -> None:
    """Raise an error for an option that a graph of one step cannot hold."""
    if options.mask:
        _refuse("mask", "False in a graph of one step", True, "Call the step for valid frames only.")
    if stack.direction != "forward":
        _refuse(
            "direction",
            "'forward' in a graph of one step",
            repr(stack.direction),
            "Choose `--format onnx` (`form='scan'` in Python), which reads the whole sequence.",
        )


def check_size_of_grid(spec: Spec, options: GraphOptions) -> None:
    """Raise an error for a fixed size that does not fit pixel peepholes or patches, or is too small."""
    stack, patch = (spec.encoder, spec.patch_size) if isinstance(spec, ForecasterSpec) else (spec, 1)
    if stack.peephole == "pixel":
        fixed = tuple(n * patch for n in stack.input_size)
        if options.size not in (None, fixed):
            _refuse("size", f"{fixed}, the size of the pixel peepholes", options.size, "Leave it out.")
    if options.size is not None:
        if options.physical is None and any(n % patch for n in options.size):
            _refuse("size", f"multiples of the patch size {patch}", options.size, "Choose such a size.")
        stack.grids(tuple(-(-n // patch) for n in options.size))


def check_kind(spec: Spec, options: GraphOptions) -> None:
    """Raise an error for an option that needs a forecaster, or thresholds."""
    if isinstance(spec, ForecasterSpec):
        if options.probability and not spec.thresholds:
            _refuse("probability", "a model with thresholds", "one without thresholds", "Leave it out.")
        return
    for name in ("horizon", "probability", "physical"):
        value = getattr(options, name)
        if value is not None and value is not False:
            _refuse(name, "a forecaster", "a layer stack", "Leave it out.")


def _check_layer(spec: ConvLSTMSpec, options: GraphOptions) -> None:
    if spec.in_channels == 0 and not options.has_states:
        _refuse("states", "True for a stack without input", False, "Pass `--states` (`states=True` in Python).")


def _check_forecaster(spec: ForecasterSpec, options: GraphOptions) -> None:
    if options.form == "scan" and spec.uses_durations and options.horizon is not None:
        _refuse("horizon", "None, since `lead_durations` sets the number of frames", options.horizon, "Leave it out.")
    if options.form != "scan" and options.horizon is None:
        _refuse("horizon", "the number of forecast frames of a graph without a loop", "None", HORIZON_HINT)
    if options.physical is None:
        return
    for name in ("mask", "states"):
        if getattr(options, name):
            _refuse(name, "False with physical values", True, "Leave one of the two out.")
    if options.form == "step" and not options.physical.moving:
        _refuse(
            "physical",
            "None in a graph of one step, which cannot fill missing values",
            "a transform",
            "Leave it out, and pass model values to the graph.",
        )


def _refuse(argument: str, expected: str, received: object, hint: str) -> None:
    raise SpecError(argument, expected=expected, received=received, hint=hint)
