"""Write a model by the exporter of a framework, and compare the file with the reference."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from convlstm.errors import DependencyError, OutputError, SpecError, install
from convlstm.export.comparison import check_file, compared_sizes, random_case
from convlstm.export.exported import Exported, check_path, described
from convlstm.export.options import (
    HORIZON_HINT,
    Form,
    GraphOptions,
    check_kind,
    check_one_step,
    check_size_of_grid,
)
from convlstm.files import write_atomic
from convlstm.frontend.exported_inputs import ExportedModel
from convlstm.spec import parsing
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.geometry import AXIS_NAMES
from convlstm.spec.options import ConvLSTMSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec, check_weights
from convlstm.weights.checkpoint import Model

FrameworkFormat = Literal["pt2", "aoti", "stablehlo", "savedmodel", "litert"]
_MODULES: dict[FrameworkFormat, tuple[str, str]] = {
    "pt2": ("convlstm.torch.exporting", "torch"),
    "aoti": ("convlstm.torch.aoti", "torch"),
    "stablehlo": ("convlstm.jax.exporting", "flax"),
    "savedmodel": ("convlstm.keras.exporting", "keras"),
    "litert": ("convlstm.keras.litert", "keras"),
}
"""By format the module that writes it, and the extra that it needs."""


def to_framework(
    path: str | Path,
    spec: Spec,
    weights: Mapping[str, Array],
    kind: FrameworkFormat,
    *,
    horizon: int | None = None,
    size: tuple[int, ...] | None = None,
    mask: bool = False,
    probability: bool = False,
) -> Exported:
    """Write a layer stack or a forecaster by the exporter of a framework, with open batch and time.

    The file is loaded again and compared with the reference at two sizes before it takes its place. Layouts and names
    of the inputs: `docs/export.md`.

    Args:
        path: The file to write: `*.pt2`, `*.stablehlo`, `*.tflite`, or a folder for `savedmodel`.
        spec: The layer stack or forecaster.
        weights: Canonical arrays by key.
        kind: `pt2` (PyTorch), `aoti` (PyTorch, compiled), `stablehlo` (JAX), `savedmodel` (Keras on TensorFlow), or
            `litert` (the same, one step with its states as inputs and outputs).
        horizon: Number of forecast frames, for a forecaster only.
        size: Spatial size of the frames; None leaves it open, for which all but `savedmodel` need stride 1.
        mask: Whether the validity of the frames (batch, time) is an input.
        probability: Whether a forecaster with thresholds returns probabilities instead of logits.

    Returns:
        The path, inputs, outputs and the largest difference from the reference.

    Raises:
        SpecError: for an option that the format cannot hold, naming it.
        WeightsError: if weights and spec differ.
        OutputError: if the path is wrong, or the file differs from the reference by more than 1e-5. Nothing is written.
        DependencyError: if the framework is not installed, or for `aoti` a C++ compiler.

    Example:
        >>> import tempfile, jax, numpy
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=2, kernel_size=3)
        >>> path = Path(tempfile.mkdtemp()) / "layer.stablehlo"
        >>> to_framework(path, spec, initialise(spec, seed=0), "stablehlo", size=(6, 8)).inputs
        {'x': 'float32 (batch, time, 6, 8, 1)'}
        >>> module = jax.export.deserialize(bytearray(path.read_bytes()))
        >>> output, (h_n, c_n) = module.call(numpy.zeros((1, 3, 6, 8, 1), "float32"))
        >>> output.shape
        (1, 3, 6, 8, 2)
    """
    parsing.choice("kind", kind, tuple(_MODULES))
    path = check_path(path, kind)
    check_weights(spec, weights)
    Model(spec, weights).check_range("float32")
    form: Form = "step" if kind == "litert" else "unrolled"
    options = GraphOptions(form=form, horizon=horizon, size=size, mask=mask, probability=probability)
    _check(spec, kind, options)
    module = _exporter(kind)
    open_space = size is None and _stack(spec).peephole != "pixel"
    example, expected = random_case(spec, weights, options, compared_sizes(spec, options)[0], seed=2)
    model = ExportedModel(spec, weights, example, horizon, probability, open_space)
    difference = 0.0

    def write(draft: Path) -> None:
        module.write(draft, model)
        nonlocal difference
        difference = check_file(spec, weights, options, module.runner(draft), path)

    try:
        write_atomic(path, write)
    except (DependencyError, OutputError, SpecError):
        raise
    except Exception as error:
        raise OutputError(
            str(path),
            expected=f"a model that {kind} holds",
            received=" ".join(f"{type(error).__name__}: {error}".split())[:200],
            hint="Fix the size, or export the model as ONNX. Nothing was written.",
        ) from error
    inputs, outputs = (
        {_listed(name, kind): _described(name, array, spec, open_space, kind) for name, array in arrays.items()}
        for arrays in (example, expected)
    )
    return Exported(path, inputs, outputs, difference)


def _listed(name: str, kind: FrameworkFormat) -> str:
    """Return the name of an input or output in the file: those of TensorFlow have no dots in names."""
    return name.replace(".", "_") if kind in ("savedmodel", "litert") else name


def _exporter(kind: FrameworkFormat) -> Any:
    name, extra = _MODULES[kind]
    try:
        return import_module(name)
    except ImportError as error:
        raise DependencyError(
            kind,
            expected="the framework of this format installed",
            received=f"no module {error.name!r}",
            hint=f"Run: {install(extra)}.",
        ) from error


def _stack(spec: Spec) -> ConvLSTMSpec:
    return spec.encoder if isinstance(spec, ForecasterSpec) else spec


def _check(spec: Spec, kind: FrameworkFormat, options: GraphOptions) -> None:
    """Raise an error for an option that the format cannot hold, naming it."""
    stack = _stack(spec)
    if callable(stack.duration_strategy):
        raise _refusal("duration_strategy", kind, "the name of a strategy", "a function", "Use a named strategy.")
    if stack.in_channels == 0:
        raise _refusal("in_channels", kind, "a stack with an input", 0, "Export it as ONNX, with the states as inputs.")
    if options.form == "step":
        check_one_step(stack, options)
    check_kind(spec, options)
    if isinstance(spec, ForecasterSpec):
        if options.horizon is None:
            raise _refusal("horizon", kind, "the number of forecast frames", "None", HORIZON_HINT)
        parsing.integer("horizon", options.horizon, 1)
    if options.size is not None:
        parsing.per_axis("size", options.size, stack.spatial_dims, 1)
        check_size_of_grid(spec, options)
    elif kind != "savedmodel" and stack.peephole != "pixel":
        _check_open_size(spec, kind)


def _check_open_size(spec: Spec, kind: FrameworkFormat) -> None:
    """Raise an error for an option with which the exporter of a framework cannot leave the size open."""
    stack = _stack(spec)
    wants: list[tuple[str, str, object, bool]] = [
        ("stride", "1", layer.stride, set(layer.stride) == {1}) for layer in stack.layers
    ]
    if kind == "stablehlo":
        wants += [("padding", "'same'", repr(layer.padding), layer.padding == "same") for layer in stack.layers]
        has_zeros = set(stack.boundary) == {"zeros"}
        wants.append(("boundary", "zeros", stack.boundary, has_zeros))
        if isinstance(spec, ForecasterSpec):
            wants.append(("detail_channels", "0", spec.detail_channels, not spec.detail_channels))
    for name, expected, received, holds in wants:
        if not holds:
            raise _refusal(
                name,
                kind,
                f"{expected} with an open size",
                received,
                "Pass `--size 64x64` (`size=(64, 64)` in Python), which fixes the size.",
            )


def _refusal(name: str, kind: str, expected: str, received: object, hint: str) -> SpecError:
    return SpecError(name, expected=f"{expected} in {kind}", received=received, hint=hint)


def _described(name: str, array: Array, spec: Spec, open_space: bool, kind: FrameworkFormat) -> str:
    """Return type and sizes of an input or output in words, with names of the open sizes."""
    dims: list[Any] = list(array.shape)
    dims[0] = "batch"
    is_state = name.startswith(("h_", "c_"))
    has_steps = not is_state and (name == "forecast" or kind != "litert")
    if has_steps and name not in ("forecast", "lead_durations"):
        dims[1] = "time"
    rank = _stack(spec).spatial_dims
    if array.ndim > 2:  # others are mask and durations
        first = 3 if has_steps else 2
        if open_space:
            keeps = name.startswith(("x", "frames", "forecast")) or _keeps_size(spec)
            dims[first:] = list(AXIS_NAMES[rank]) if keeps else [None] * rank
        if kind not in ("pt2", "aoti"):
            dims.append(dims.pop(first - 1))
    return described("float32" if array.dtype.kind == "f" else str(array.dtype), dims)


def _keeps_size(spec: Spec) -> bool:
    has_patches = isinstance(spec, ForecasterSpec) and spec.patch_size > 1
    return not has_patches and all(
        layer.padding == "same" and set(layer.stride) == {1} for layer in _stack(spec).layers
    )
