"""Training a forecaster in Keras, on whichever backend is active, step for step as in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from math import sqrt
from typing import Any

import keras
import numpy as np

from convlstm.errors import ConfigError
from convlstm.frontend import trainer
from convlstm.frontend.layouts import from_channels_last, to_channels_last
from convlstm.frontend.trainer import DECAYED, Optimisation, Sample, event_loss, refuse_device, weighted_loss
from convlstm.keras.differentiation import Tensors, compiled, detached, replaced, value_and_gradients
from convlstm.keras.engines import BACKEND, Tensor, to_array
from convlstm.keras.forecaster import Forecaster
from convlstm.keras.weights import load_canonical, to_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.weights.canonical import canonical_shapes

_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
_MOMENTS = ("exp_avg", "exp_avg_sq")
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_DRAWS = "seed_generator"


class Trainer(trainer.Trainer):
    """A Keras forecaster with its optimiser.

    The optimiser is PyTorch's AdamW, with decay on convolution kernels only: Keras's has ε inside the bias correction,
    and would differ from the other frameworks at the first step.
    """

    def __init__(
        self, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
    ) -> None:
        refuse_device(
            None if optimisation is None else optimisation.device,
            "Keras",
            "Leave `--device` out, and hide accelerators with the variables of the backend.",
        )
        super().__init__(optimisation, "bfloat16" if _has_accelerator() else "float32")
        self.module = Forecaster(spec, dtype=_POLICIES[self._precision])
        load_canonical(self.module, weights)
        self._variables = self.module.canonical_variables()
        self._moments = self._fresh_moments()
        self._steps = 0
        self._advance = compiled(self._one_step)
        self._compiled_loss = compiled(self._loss)
        self._run = compiled(self._forecast, static="horizon")

    @property
    def description(self) -> str:
        """Framework, device and precision in words."""
        version = import_module(BACKEND).__version__
        device = "accelerator" if _has_accelerator() else "cpu"
        return f"Keras {keras.__version__} on {BACKEND} {version}, {device}, {self._precision}"

    def _take_step(self, sample: Sample, learning_rate: float, key: int) -> float:
        steps = self._steps + 1
        first, second = (1.0 - beta**steps for beta in _BETAS)
        rates = {
            "decay": 1.0 - learning_rate * self._options.weight_decay,
            "step_size": learning_rate / first,
            "root": sqrt(second),
        }
        scalars = {name: _tensor(np.float32(rate)) for name, rate in rates.items()}
        weights = self._weights()
        loss, new, moments = self._advance(weights, self._moments, _tensors(sample), scalars, _seed(key))
        for name, value in new.items():
            self._variables[name].assign(value)
        self._moments, self._steps = moments, steps
        return float(loss)

    def _evaluate(self, sample: Sample) -> float:
        return float(self._compiled_loss(self._weights(), _tensors(sample)))

    def _predict(self, sample: Sample, horizon: int) -> Array:
        forecast = self._run(self._weights(), _tensors(sample), horizon=horizon)
        return np.moveaxis(to_array(keras.ops.cast(forecast, "float32")), -1, 2)

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""
        return to_canonical(self.module)

    def _load_weights(self, weights: Mapping[str, Array]) -> None:
        load_canonical(self.module, weights)

    def _moment_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = canonical_shapes(self.module.spec)
        return {"step": ()} | {f"{key}.{moment}": shape for key, shape in shapes.items() for moment in _MOMENTS}

    def _moments_to_arrays(self) -> dict[str, Array]:
        arrays = {"step": np.array(self._steps, dtype=np.float32)}
        shapes = canonical_shapes(self.module.spec)
        for moment, tensors in self._moments.items():
            for key, tensor in tensors.items():
                arrays[f"{key}.{moment}"] = from_channels_last(key, to_array(tensor), shapes[key])
        return arrays

    def _load_moments(self, moments: Mapping[str, Array]) -> None:
        self._moments, self._steps = self._fresh_moments(), 0
        if not moments:
            return
        self._steps = int(moments["step"])
        for moment, tensors in self._moments.items():
            for key, tensor in tensors.items():
                array = to_channels_last(key, np.asarray(moments[f"{key}.{moment}"]))
                tensors[key] = _tensor(array.reshape(tuple(tensor.shape)))

    def _one_step(
        self, weights: Tensors, moments: dict[str, Tensors], sample: Tensors, rates: Tensors, seed: Tensor
    ) -> tuple[Tensor, Tensors, dict[str, Tensors]]:
        loss, gradients = value_and_gradients(lambda tensors: self._loss(tensors, sample, seed), weights)
        norm = keras.ops.sqrt(sum(keras.ops.sum(keras.ops.square(g)) for g in gradients.values()))
        clip = keras.ops.minimum(self._options.clip_norm / (norm + 1e-6), 1.0)
        new: Tensors = {}
        after: dict[str, Tensors] = {moment: {} for moment in _MOMENTS}
        for key, weight in weights.items():
            gradient = gradients[key] * clip
            mean = _BETAS[0] * moments["exp_avg"][key] + (1.0 - _BETAS[0]) * gradient
            square = _BETAS[1] * moments["exp_avg_sq"][key] + (1.0 - _BETAS[1]) * keras.ops.square(gradient)
            decayed = weight * rates["decay"] if key.endswith(DECAYED) else weight
            new[key] = decayed - rates["step_size"] * mean / (keras.ops.sqrt(square) / rates["root"] + _EPSILON)
            after["exp_avg"][key], after["exp_avg_sq"][key] = mean, square
        return loss, new, after

    def _loss(self, weights: Tensors, sample: Tensors, seed: Tensor | None = None) -> Tensor:
        targets, weight = sample["targets"], sample["weight"]
        forecast = self._forecast(weights, sample, targets.shape[1], seed)
        forecast, total, at_least = keras.ops.cast(forecast, "float32"), keras.ops.sum, keras.ops.maximum
        if self.module.spec.thresholds:
            return event_loss(forecast, targets, weight, keras.ops.softplus, total, at_least)
        share = self._options.absolute_error
        return weighted_loss(forecast, targets, weight, share, keras.ops.square, total, at_least)

    def _forecast(self, weights: Tensors, sample: Tensors, horizon: int, seed: Tensor | None = None) -> Tensor:
        variables = self._variables | {_DRAWS: self.module.seed_generator.state}
        given = weights if seed is None else weights | {_DRAWS: seed}
        times = {name: sample.get(name) for name in ("durations", "lead_durations", "gaps")}
        with replaced(variables, given):
            return self.module(sample["inputs"], horizon=horizon, training=seed is not None, **times)

    def _weights(self) -> Tensors:
        return {key: detached(variable) for key, variable in self._variables.items()}

    def _fresh_moments(self) -> dict[str, Tensors]:
        return {m: {key: keras.ops.zeros(v.shape, "float32") for key, v in self._variables.items()} for m in _MOMENTS}


def set_threads(count: int) -> None:
    """Set the number of threads of the backend, or raise an error where it is fixed: in JAX, or after a computation."""
    if BACKEND == "torch":
        import_module("torch").set_num_threads(count)
        return
    try:
        if BACKEND == "jax":
            raise RuntimeError("JAX fixes its threads when it starts")
        threading = import_module("tensorflow").config.threading
        threading.set_intra_op_parallelism_threads(count)
        threading.set_inter_op_parallelism_threads(count)
    except RuntimeError as error:
        raise ConfigError(
            "threads",
            expected=f"what {BACKEND} started with",
            received=count,
            hint="Leave it out, and bind the process to its cores, for example with `taskset`.",
        ) from error


def _tensors(sample: Sample) -> Tensors:
    """Return a sample's arrays as tensors, frames channels last."""
    frames = ("inputs", "targets", "weight")
    tensors = {name: _tensor(np.moveaxis(getattr(sample, name), 2, -1)) for name in frames}
    return tensors | {name: _tensor(array) for name, array in sample.times().items() if array is not None}


def _tensor(array: Any) -> Tensor:
    return keras.ops.convert_to_tensor(np.array(array, dtype=np.float32))


def _seed(key: int) -> Tensor:
    """Return the state of a generator that starts from a key."""
    state = np.array([key & 0x7FFFFFFF, (key >> 31) & 0x7FFFFFFF])
    return keras.ops.convert_to_tensor(state, dtype=keras.random.SeedGenerator(0).state.dtype)


def _has_accelerator() -> bool:
    if BACKEND == "tensorflow":
        return bool(import_module("tensorflow").config.list_physical_devices("GPU"))
    if BACKEND == "torch":
        return bool(import_module("torch").cuda.is_available())
    return bool(import_module("jax").default_backend() != "cpu")
