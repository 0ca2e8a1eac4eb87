"""One step of a model as a file of LiteRT (`*.tflite`), by the converter of TensorFlow."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convlstm.frontend.exported_inputs import ExportedModel
from convlstm.keras.engines import ENGINE, State, Tensor
from convlstm.keras.exporting import check_backend
from convlstm.keras.forecaster import Forecaster, space_to_depth
from convlstm.keras.stack_layer import ConvLSTMStack
from convlstm.keras.weights import load_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array

_ENDPOINT = "serving_default"


def write(path: Path, model: ExportedModel) -> None:
    """Write one step whose inputs are those of the example, with states as inputs and outputs."""
    check_backend("a file of LiteRT")
    tf = import_module("tensorflow")
    module: Any = Forecaster(model.spec) if isinstance(model.spec, ForecasterSpec) else ConvLSTMStack(model.spec)
    load_canonical(module, model.weights)
    names = {_identifier(name): name for name in model.inputs}
    # LiteRT keeps variables as such, and fails to read them
    arrays = [(variable, keras.ops.convert_to_numpy(variable)) for variable in module.variables]

    def step(**identified: Tensor) -> dict[str, Tensor]:
        tensors = {names[name]: tensor for name, tensor in identified.items()}
        constants = [(variable, tf.constant(values)) for variable, values in arrays]
        with keras.StatelessScope(state_mapping=constants):
            if isinstance(model.spec, ForecasterSpec):
                assert model.horizon is not None
                return _forecaster_step(module, tensors, model.horizon, model.probability)
            return _layer_step(module, tensors)

    signature = {
        _identifier(name): tf.TensorSpec(_open_shape(name, array, model.open_space), tf.float32, _identifier(name))
        for name, array in model.inputs.items()
    }
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns that the file has no gradients
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow warns of its own steps
        function = tf.function(step, autograph=False).get_concrete_function(**signature)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
        path.write_bytes(converter.convert())


def runner(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs one step of a file on arrays by name, with channels first."""
    interpreter = _interpreter(path)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        call = interpreter.get_signature_runner(_ENDPOINT)
        result = call(**{_identifier(name): _channels_last(array) for name, array in inputs.items()})
        return {_canonical(name): _channels_first(name, array) for name, array in result.items()}

    return run


def _layer_step(module: ConvLSTMStack, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the output of a stack at one step, and its states after the step."""
    states = _stack_step(module, tensors["x"], _states(tensors), tensors.get("duration"), tensors.get("gap"))
    return {"output": states[-1][0]} | _final(states)


def _forecaster_step(
    module: Forecaster, tensors: Mapping[str, Tensor], horizon: int, probability: bool
) -> dict[str, Tensor]:
    """Return the forecast after one more frame, the encoder's states, and the frames that the next step needs."""
    spec, frame = module.spec, tensors["frames"]
    patches = space_to_depth(keras.ops.expand_dims(frame, 1), spec.patch_size)[:, 0]
    states = _stack_step(module.encoder, patches, _states(tensors), tensors.get("duration"), tensors.get("gap"))
    result, last = _final(states), keras.ops.expand_dims(frame, 1)
    if "frames_0" in tensors:
        batch, *size, _ = keras.ops.shape(frame)
        count = spec.detail_frames - 1
        before = keras.ops.reshape(tensors["frames_0"], (batch, *size, count, spec.frame_channels))
        last = keras.ops.concatenate([keras.ops.moveaxis(before, -2, 1), last], axis=1)
        result["frames_n"] = keras.ops.concatenate([last[:, n] for n in range(1, count + 1)], axis=-1)
    future = _future(module, last, states, horizon, tensors.get("lead_durations"))
    return result | {"forecast": keras.ops.sigmoid(future) if probability else future}


def _future(
    module: Forecaster, last: Tensor, states: list[State], horizon: int, lead_durations: Tensor | None
) -> Tensor:
    """Return the forecast from the encoder's states and the last frames (batch, frames, height, width, channels)."""
    spec, hidden, future = module.spec, list[Tensor](), list[Tensor]()
    if module.forecaster is not None:
        for step in range(horizon):
            duration = None if lead_durations is None else lead_durations[:, step]
            states = _stack_step(module.forecaster, None, states, duration)
            hidden.append(keras.ops.concatenate([h for h, _ in states], axis=-1))
        return module.output_of(keras.ops.stack(hidden, axis=1), last, None)
    for step in range(horizon):
        last = module.output_of(keras.ops.expand_dims(states[-1][0], 1), last, None)
        future.append(last[:, 0])
        if step < horizon - 1:
            states = _stack_step(module.encoder, space_to_depth(last, spec.patch_size)[:, 0], states)
    return keras.ops.stack(future, axis=1)


def _stack_step(
    module: ConvLSTMStack,
    x: Tensor | None,
    states: list[State],
    duration: Tensor | None = None,
    gap: Tensor | None = None,
) -> list[State]:
    """Return the states of every layer after one step (batch, *grid, hidden), without a loop of TensorFlow."""
    result: list[State] = []
    for layer, before in zip(module.spec.layers, states, strict=True):
        weights = module.weights_of(layer.index, "forward")
        z_x = ENGINE.input_convolution(layer, weights, x) if layer.in_channels else None
        scale = None if duration is None else ENGINE.duration_scale(layer, weights, duration[:, None])
        factor = None if gap is None else ENGINE.retention(layer, weights, gap[:, None])
        rank = module.spec.spatial_dims
        scale, factor = _over_grid(scale, rank), _over_grid(factor, rank)
        after = ENGINE.step(layer, weights, z_x, before, candidate_scale=scale, retention=factor)
        result.append(after)
        x = after[0]
    return result


def _over_grid(values: Tensor | None, rank: int) -> Tensor | None:
    """Return values of one step (batch, 1, channel) to broadcast over a grid."""
    return None if values is None else keras.ops.reshape(values, (-1, *(1,) * rank, values.shape[-1]))


def _states(tensors: Mapping[str, Tensor]) -> list[State]:
    count = sum(name.startswith("h_0.") for name in tensors)
    return [(tensors[f"h_0.{n}"], tensors[f"c_0.{n}"]) for n in range(count)]


def _final(states: list[State]) -> dict[str, Tensor]:
    return {f"{part}_n_{n}": array for n, pair in enumerate(states) for part, array in zip("hc", pair, strict=True)}


def _interpreter(path: Path) -> Any:
    """Return an interpreter of the package ai-edge-litert where it is installed, else that of TensorFlow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's interpreter points to the other package
        try:
            interpreter = import_module("ai_edge_litert.interpreter").Interpreter
        except ImportError:
            interpreter = import_module("tensorflow").lite.Interpreter
        return interpreter(model_path=str(path))


def _open_shape(name: str, array: Array, open_space: bool) -> tuple[int | None, ...]:
    """Return the shape of an input, with channels last, None where it is open."""
    if array.ndim <= 2:
        return (None, *array.shape[1:])
    return (None, *((None,) * (array.ndim - 2) if open_space else array.shape[2:]), array.shape[1])


def _identifier(name: str) -> str:
    """Return the name of an input or output in a file, which has no dots."""
    return name.replace(".", "_")


def _canonical(name: str) -> str:
    """Return the canonical name of an output: `h_n.0` of `h_n_0`."""
    return name[:3] + "." + name[4:] if name.startswith(("h_n_", "c_n_")) else name


def _channels_last(array: Array) -> Array:
    return np.moveaxis(array, 1, -1) if array.ndim > 2 else array


def _channels_first(name: str, array: Array) -> Array:
    return np.moveaxis(array, -1, 2 if name == "forecast" else 1)
