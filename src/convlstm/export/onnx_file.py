"""Write a model as ONNX, and compare it with the reference in ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convlstm import __version__
from convlstm.export.comparison import Arrays, check_file
from convlstm.export.exported import Exported, check_path, described, load_package
from convlstm.export.options import Form, GraphOptions, Physical, check_options
from convlstm.export.storage import WeightType, rounded
from convlstm.files import write_atomic
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import Spec, check_weights
from convlstm.weights.checkpoint import Model, kind_of, weights_digest

if TYPE_CHECKING:
    import onnx

_LAYOUT = "float32, channels first"


def to_onnx(
    path: str | Path,
    spec: Spec,
    weights: Mapping[str, Array],
    *,
    form: Form = "scan",
    steps: int | None = None,
    horizon: int | None = None,
    batch: int | None = None,
    size: tuple[int, ...] | None = None,
    states: bool = False,
    mask: bool = False,
    probability: bool = False,
    physical: Physical | None = None,
    weight_type: WeightType = "float32",
    metadata: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a layer stack or a forecaster as an ONNX file (opset 18), from its canonical weights.

    The graph is built from the equations of the contract, without any framework. It is compared with the reference in
    ONNX Runtime at two sizes before the file is written. Inputs and outputs by name: `docs/export.md`.

    Args:
        path: The file to write, `*.onnx`.
        spec: The layer stack or forecaster.
        weights: Canonical arrays by key, such as `convlstm.torch.to_canonical` returns.
        form: `scan`, a loop over any number of steps; `unrolled`, a fixed number of steps without a loop; or `step`,
            one step with the states as inputs and outputs.
        steps: Number of input steps, for `unrolled` only.
        horizon: Number of forecast frames. With `scan` it is the default of the input `horizon`, 12 if it is None.
        batch: Number of samples; None leaves it open.
        size: Spatial size of the frames; None leaves it open.
        states: Whether the initial states are inputs, and for a forecaster the final states outputs.
        mask: Whether the validity of the frames (batch, time) is an input.
        probability: Whether a forecaster with thresholds returns probabilities instead of logits.
        physical: The conversion between physical values and model values, as a part of the graph.
        weight_type: Type of the kernels in the file: float32, float16 or int8. The graph computes in float32. The
            reference then has the same rounded kernels.
        metadata: Further JSON values for the metadata of the file, by name.

    Returns:
        The path, inputs, outputs and the largest difference from the reference.

    Raises:
        SpecError: for an option that the graph cannot hold, naming it.
        WeightsError: if weights and spec differ.
        OutputError: if the path is wrong, or the file differs from the reference by more than 1e-5. Nothing is written.
        DependencyError: if `onnx` or `onnxruntime` is not installed.

    Example:
        >>> import tempfile, onnxruntime
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=4, kernel_size=3)
        >>> path = Path(tempfile.mkdtemp()) / "layer.onnx"
        >>> to_onnx(path, spec, initialise(spec, seed=0)).inputs
        {'x': 'float32 (batch, time, 1, height, width)'}
        >>> session = onnxruntime.InferenceSession(path)
        >>> session.run(["output"], {"x": np.zeros((2, 5, 1, 8, 8), np.float32)})[0].shape
        (2, 5, 4, 8, 8)
    """
    path = check_path(path, "onnx")
    options = GraphOptions(
        form=form,
        steps=steps,
        horizon=horizon,
        batch=batch,
        size=None if size is None else tuple(size),
        states=states,
        mask=mask,
        probability=probability,
        physical=physical,
        weight_type=weight_type,
    )
    model = onnx_model(spec, weights, options, metadata)
    data = model.SerializeToString(deterministic=True)
    session = load_session(data)
    in_file = stored_weights(weights, weight_type)
    difference = check_file(spec, in_file, options, lambda inputs: run_session(session, inputs), path)
    write_atomic(path, lambda draft: draft.write_bytes(data), size=len(data))
    defaults = {initializer.name for initializer in model.graph.initializer}
    inputs = {name: text + ", optional" * (name in defaults) for name, text in _described(model.graph.input).items()}
    outputs = _described(model.graph.output)
    return Exported(path, inputs, outputs, difference)


def onnx_model(
    spec: Spec,
    weights: Mapping[str, Array],
    options: GraphOptions,
    metadata: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    """Return the ONNX model of a spec and its canonical weights, checked by `onnx.checker`.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ConvLSTMSpec(in_channels=1, hidden_channels=4, kernel_size=3)
        >>> [value.name for value in onnx_model(spec, initialise(spec, seed=0), GraphOptions()).graph.output]
        ['output', 'h_n.0', 'c_n.0']
    """
    load_package("onnx", "onnx")
    from onnx import checker, helper

    from convlstm.export.forecaster_graph import forecaster_graph
    from convlstm.export.graph import IR_VERSION, OPSET
    from convlstm.export.layer_graph import layer_graph

    check_options(spec, options)
    check_weights(spec, weights)
    Model(spec, weights).check_range("float32")
    if isinstance(spec, ForecasterSpec):
        graph = forecaster_graph(spec, weights, options)
    else:
        graph = layer_graph(spec, weights, options)
    model: onnx.ModelProto = helper.make_model(
        graph.build(),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="convlstm",
        producer_version=__version__,
    )
    helper.set_model_props(model, _metadata(spec, weights, options, metadata or {}))
    checker.check_model(model, full_check=True)
    return model


def load_session(data: bytes) -> Any:
    """Return a session of ONNX Runtime on the processor."""
    runtime = load_package("onnxruntime", "onnx")
    settings = runtime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    return runtime.InferenceSession(data, settings, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: Arrays) -> Arrays:
    """Return the outputs of a session by name."""
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def stored_weights(weights: Mapping[str, Array], weight_type: WeightType) -> dict[str, Array]:
    """Return the weights as a file of this type has them, in float32."""
    return {key: rounded(key, array, weight_type) for key, array in weights.items()}


def _metadata(
    spec: Spec, weights: Mapping[str, Array], options: GraphOptions, further: Mapping[str, Any]
) -> dict[str, str]:
    """Return the metadata of a file as texts."""
    values = {
        "convlstm_version": __version__,
        "kind": kind_of(spec),
        "form": options.form,
        "layout": _LAYOUT,
        "spec": json.dumps(spec.to_dict(), sort_keys=True),
        "weights_digest": weights_digest(weights),
        "weight_type": options.weight_type,
        "values": "physical values" if options.physical is not None else "model values",
    }
    if isinstance(spec, ForecasterSpec):
        is_probability = options.probability or options.physical is not None
        events = "probabilities" if is_probability else "logits"
        values["output"] = f"{events} of the thresholds" if spec.thresholds else "frames"
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in further.items()}
    return dict(sorted((values | texts).items()))


def _described(values: Any) -> dict[str, str]:
    from onnx import helper

    result = {}
    for value in values:
        tensor = value.type.tensor_type
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
        dims = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None) for dim in tensor.shape.dim]
        result[value.name] = described(kind, dims)
    return result
