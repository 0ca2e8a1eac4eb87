"""Training a forecaster in MLX, on the default device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx.utils import tree_flatten, tree_map_with_path, tree_unflatten

from convlstm.errors import ConfigError
from convlstm.frontend.trainer import DECAYED, Optimisation, Sample, check_moments, read_precision
from convlstm.mlx.forecaster import Forecaster
from convlstm.mlx.weights import load_canonical, named_parameters, to_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array

_PRECISIONS = {"float32": mx.float32, "bfloat16": mx.bfloat16}
_MOMENTS = ("m", "v")
_STEP = "optimiser.step"


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise Python's own error where memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if "allocate" in str(error):
            raise MemoryError(str(error)) from error
        raise


class Trainer:
    """An MLX forecaster with its optimiser (protocol: `convlstm.frontend.trainer.Trainer`).

    Args:
        spec: The forecaster.
        weights: Canonical arrays to start from.
        optimisation: Loss and optimiser.

    Raises:
        ConfigError: for an unknown precision.

    Example:
        >>> from convlstm import ConvLSTMSpec
        >>> from convlstm.weights.canonical import initialise
        >>> spec = ForecasterSpec(encoder=ConvLSTMSpec(in_channels=1, hidden_channels=4, kernel_size=3))
        >>> trainer = Trainer(spec, initialise(spec, 0))
        >>> frames = np.ones((2, 3, 1, 8, 8), dtype=np.float32)
        >>> loss = trainer.step(Sample(frames, frames, frames), learning_rate=1e-3, key=0)
        >>> trainer.predict(Sample(frames, frames, frames), horizon=5).shape
        (2, 5, 1, 8, 8)
    """

    def __init__(
        self, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
    ) -> None:
        self._options = optimisation or Optimisation()
        # bfloat16 is not quicker on CPU, and unmeasured on Metal
        self._precision = read_precision(self._options.precision, "float32")
        self.module = Forecaster(spec)
        load_canonical(self.module, weights)
        self._optimiser = _adam()

    @property
    def description(self) -> str:
        """Framework, device and precision in words."""
        return f"MLX {version('mlx')}, {mx.default_device().type.name}, {self._precision}"

    @_memory_errors()
    def step(self, sample: Sample, learning_rate: float, key: int) -> float:
        """Take one optimiser step and return the loss before it; `key` seeds dropout."""
        self.module.train()
        parameters = self.module.parameters()
        differentiate = mx.value_and_grad(lambda p: self._loss(p, sample, mx.random.key(key)))
        loss, gradients = differentiate(parameters)
        gradients, _ = optimizers.clip_grad_norm(gradients, self._options.clip_norm)
        decayed = _of_kernels(lambda a: a * (1.0 - learning_rate * self._options.weight_decay), parameters)
        self._optimiser.learning_rate = learning_rate
        self.module.update(self._optimiser.apply_gradients(gradients, decayed))
        mx.eval(loss, self.module.parameters(), self._optimiser.state)
        return float(np.array(loss))

    @_memory_errors()
    def loss(self, sample: Sample) -> float:
        """Return the loss in evaluation mode."""
        self.module.eval()
        return float(np.array(self._loss(self.module.parameters(), sample, None)))

    @_memory_errors()
    def predict(self, sample: Sample, horizon: int) -> Array:
        """Return the forecast for the sample's inputs (batch, horizon, channel, height, width), float32."""
        self.module.eval()
        forecast = self._forecast(self.module.parameters(), sample, horizon, None)
        return np.ascontiguousarray(np.moveaxis(np.array(forecast), -1, 2))

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""
        return to_canonical(self.module)

    def state(self) -> dict[str, Array]:
        """Return weights and optimiser state as arrays, from which `restore` goes on bit for bit."""
        arrays = {f"weights.{key}": array for key, array in self.weights().items()}
        moments = dict(tree_flatten(self._optimiser.state))
        for key in named_parameters(self.module):
            for name in _MOMENTS:
                if f"{key}.{name}" in moments:
                    arrays[f"optimiser.{key}.{name}"] = np.array(moments[f"{key}.{name}"])
                    arrays[_STEP] = np.array(moments["step"]).astype(np.float32)
        return arrays

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take over what `state` returned.

        Args:
            state: Arrays by name.

        Raises:
            WeightsError: if an array is missing or unknown.
        """
        prefix = "weights."
        load_canonical(self.module, {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        moments = {key: array for key, array in state.items() if not key.startswith(prefix)}
        self._optimiser = _adam()
        if moments:
            _check_moments(self.module, moments)
            found = {key.removeprefix("optimiser."): mx.array(array) for key, array in moments.items()}
            found |= {"step": found["step"].astype(mx.uint64), "learning_rate": self._optimiser.learning_rate}
            self._optimiser.state = tree_unflatten(list(found.items()))

    def _loss(self, parameters: Any, sample: Sample, key: mx.array | None) -> mx.array:
        forecast = self._forecast(parameters, sample, sample.targets.shape[1], key)
        error = forecast - _frames(sample.targets)
        weight = _frames(sample.weight)
        total = _total(weight * (error.square() + self._options.absolute_error * error.abs()))
        return total / mx.maximum(_total(weight), 1e-12)

    def _forecast(self, parameters: Any, sample: Sample, horizon: int, key: mx.array | None) -> mx.array:
        """Return the forecast (batch, horizon, height, width, channel), float32, of a module with these parameters."""
        optional = {"durations": sample.durations, "lead_durations": sample.lead_durations, "gaps": sample.gaps}
        given: dict[str, Any] = {name: None if a is None else mx.array(a) for name, a in optional.items()}
        own, dtype = self.module.parameters(), _PRECISIONS[self._precision]
        self.module.update(_of_kernels(lambda a: a.astype(dtype), parameters))
        result: mx.array = self.module(_frames(sample.inputs), horizon, key=key, **given)
        self.module.update(own)
        return result.astype(mx.float32)


def _total(values: mx.array) -> mx.array:
    """Return the sum, axis by axis: MLX adds one number after another, which costs float32 four digits at a million."""
    while values.ndim:
        values = values.sum(axis=0)
    return values


def set_threads(count: int) -> None:
    """Refuse any number of threads but one: on CPU MLX computes on one, and its BLAS follows the environment.

    Raises:
        ConfigError: if another number is wanted.
    """
    if count != 1:
        raise ConfigError(
            "threads",
            expected="1 or nothing in MLX, which has no such setting",
            received=count,
            hint="leave it out; the threads of the BLAS follow its own variable, as OPENBLAS_NUM_THREADS.",
        )


def _adam() -> optimizers.Adam:
    # on weights that have decayed this is AdamW, with a decay of its own for each kind of weight
    return optimizers.Adam(1e-3, bias_correction=True)


def _of_kernels(change: Callable[[mx.array], mx.array], parameters: Any) -> Any:
    """Return a tree of parameters with a change made to the kernels of convolutions."""
    return tree_map_with_path(lambda key, a: change(a) if key.endswith(DECAYED) else a, parameters)


def _frames(array: Array) -> mx.array:
    """Return frames (batch, time, channel, height, width) channels last."""
    return mx.array(np.moveaxis(array, 2, -1))


def _check_moments(module: Forecaster, moments: Mapping[str, Array]) -> None:
    expected = {
        f"optimiser.{key}.{name}": tuple(parameter.shape)
        for key, parameter in named_parameters(module).items()
        for name in _MOMENTS
    }
    expected[_STEP] = ()
    check_moments(expected, moments)
