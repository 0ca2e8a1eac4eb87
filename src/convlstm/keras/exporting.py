"""A model as a SavedModel of TensorFlow, with open batch, time and space."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convlstm.errors import SpecError
from convlstm.frontend.exported_inputs import FRAMES, GAPS_PREFIX, ExportedModel
from convlstm.keras.engines import BACKEND, Tensor
from convlstm.keras.forecaster import Forecaster
from convlstm.keras.stack_layer import ConvLSTMStack
from convlstm.keras.weights import load_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array


def write(path: Path, model: ExportedModel) -> None:
    """Write a folder whose endpoint `serve` has the inputs of the example, with open batch and time."""
    check_backend("a SavedModel")
    tf = import_module("tensorflow")
    module: Any = Forecaster(model.spec) if isinstance(model.spec, ForecasterSpec) else ConvLSTMStack(model.spec)
    load_canonical(module, model.weights)
    names = list(model.inputs)

    def serve(*tensors: Tensor) -> dict[str, Tensor]:
        given: dict[str, Any] = dict(zip(names, tensors, strict=True))
        frames = given.pop(next(name for name in FRAMES if name in given))
        gaps = tuple(given.pop(name) for name in names if name.startswith(GAPS_PREFIX))
        times = given | ({"gaps": gaps} if gaps else {})
        if isinstance(model.spec, ForecasterSpec):
            future = module(frames, horizon=model.horizon, **times)
            return {"forecast": keras.ops.sigmoid(future) if model.probability else future}
        output, (h, c) = module(frames, **times)
        parts = output if isinstance(output, tuple | list) else (output,)
        labels = ["output"] if len(parts) == 1 else [f"output_{n}" for n in range(len(parts))]
        found = dict(zip(labels, parts, strict=True))
        return found | {f"{k}_n_{n}": part for k, states in (("h", h), ("c", c)) for n, part in enumerate(states)}

    signature = [
        tf.TensorSpec(_open_shape(name, array, model.open_space), array.dtype, _identifier(name))
        for name, array in model.inputs.items()
    ]
    archive = keras.export.ExportArchive()
    archive.track(module)
    archive.add_endpoint("serve", serve, input_signature=signature)
    archive.write_out(str(path), verbose=False)


def runner(path: Path) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs the endpoint `serve` of a folder on arrays by name, with channels first."""
    tf = import_module("tensorflow")
    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns that the file has no gradients
    loaded = tf.saved_model.load(str(path))  # the functions end with the object that loaded them

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {
            _identifier(name): tf.constant(np.moveaxis(array, 2, -1) if name in FRAMES else array)
            for name, array in inputs.items()
        }
        result = loaded.signatures["serving_default"](**tensors)
        return {_canonical(name): _channels_first(name, value.numpy()) for name, value in result.items()}

    return run


def check_backend(file: str) -> None:
    """Raise an error unless TensorFlow, which writes this kind of file, is the backend of Keras."""
    if BACKEND != "tensorflow":
        raise SpecError(
            "KERAS_BACKEND",
            expected=f"tensorflow for {file}",
            received=BACKEND,
            hint="Set the environment variable `KERAS_BACKEND=tensorflow` before Python starts.",
        )


def _open_shape(name: str, array: Array, open_space: bool) -> tuple[int | None, ...]:
    """Return the shape of an input, with channels last, None where it is open."""
    if name in FRAMES:
        space = (None,) * (array.ndim - 3) if open_space else array.shape[3:]
        return (None, None, *space, array.shape[2])
    return (None, array.shape[1] if name == "lead_durations" else None)


def _identifier(name: str) -> str:
    """Return the name of an input in a signature, which has no dots."""
    return name.replace(".", "_")


def _canonical(name: str) -> str:
    """Return the canonical name of an output: `h_n.0` of `h_n_0`."""
    head, _, number = name.rpartition("_")
    return f"{head}.{number}" if number.isdigit() else name


def _channels_first(name: str, array: Array) -> Array:
    return np.moveaxis(array, -1, 2 if name.startswith(("output", "forecast")) else 1)
