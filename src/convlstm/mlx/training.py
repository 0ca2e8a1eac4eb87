"""Training a forecaster in MLX, on the default device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import optimizers
from mlx.utils import tree_flatten, tree_map, tree_map_with_path, tree_unflatten
from numpy.typing import NDArray

from convlstm.engine.mlx.activations import ACTIVATION_FUNCTIONS
from convlstm.errors import ConfigError
from convlstm.frontend import trainer
from convlstm.frontend.processes import check_same
from convlstm.frontend.trainer import DECAYED, Optimisation, Sample, event_loss, refuse_device, weighted_loss
from convlstm.mlx import processes as connection
from convlstm.mlx.dropout import batch_part
from convlstm.mlx.forecaster import Forecaster
from convlstm.mlx.weights import load_canonical, named_parameters, to_canonical
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array

_PRECISIONS = {"float32": mx.float32, "bfloat16": mx.bfloat16}
_MOMENTS = ("m", "v")


class Trainer(trainer.Trainer):
    """An MLX forecaster with its optimiser."""

    def __init__(
        self, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
    ) -> None:
        refuse_device(
            None if optimisation is None else optimisation.device,
            "MLX",
            "Leave `--device` out: MLX computes on its default device.",
        )
        super().__init__(optimisation, "float32")  # bfloat16 is not quicker on CPU, and unmeasured on Metal
        self._processes = self._options.processes
        self._group = connection.connect(self._processes) if self._processes.count > 1 else None
        with connection.lost_connections(self._processes):
            check_same(self.gather, spec.to_dict())  # a step would wait or fail
        self.module = Forecaster(spec)
        load_canonical(self.module, weights)
        self._optimiser = _adam()

    @property
    def description(self) -> str:
        """Framework, device and precision in words."""
        many = f", {self._processes.count} processes" if self._group is not None else ""
        return f"MLX {version('mlx')}, {mx.default_device().type.name}, {self._precision}{many}"

    @property
    def rank(self) -> int:
        """Number of this process among those that train together; the first one writes the files."""
        return 0 if self._group is None else self._group.rank()

    def gather(self, values: float | Array) -> NDArray[np.float64]:
        """Return values of all processes along a new first axis; a call waits for the other processes."""
        array = np.asarray(values, np.float64)
        return array[None] if self._group is None else connection.gather(array, self._group)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Raise a `LostProcessError` if another process ends within the block."""
        with connection.lost_connections(self._processes):
            yield

    def _take_step(self, sample: Sample, learning_rate: float, key: int) -> float:
        self.module.train()
        parameters = self.module.parameters()
        loss, gradients = self._gradients(parameters, sample, mx.random.key(key))
        gradients, _ = optimizers.clip_grad_norm(gradients, self._options.clip_norm)
        decayed = _of_kernels(lambda a: a * (1.0 - learning_rate * self._options.weight_decay), parameters)
        self._optimiser.learning_rate = learning_rate
        self.module.update(self._optimiser.apply_gradients(gradients, decayed))
        mx.eval(loss, self.module.parameters(), self._optimiser.state)
        return float(self.gather(float(np.array(loss))).sum())

    def _gradients(self, parameters: Any, sample: Sample, key: mx.array) -> tuple[mx.array, Any]:
        """Return this process's part of the loss, and the gradients of the whole loss."""
        if self._group is None:
            return mx.value_and_grad(lambda p: self._loss(p, sample, key))(parameters)
        total_weight = float(self.gather(sample.weight.sum(dtype=np.float64)).sum())
        rows = len(sample.inputs)
        with batch_part(self.rank * rows, self._processes.count * rows):
            loss, gradients = mx.value_and_grad(lambda p: self._loss(p, sample, key, total_weight))(parameters)
        return loss, tree_map(lambda gradient: mx.distributed.all_sum(gradient, group=self._group), gradients)

    def _evaluate(self, sample: Sample) -> float:
        self.module.eval()
        return float(np.array(self._loss(self.module.parameters(), sample, None)))

    def _predict(self, sample: Sample, horizon: int) -> Array:
        self.module.eval()
        forecast = self._forecast(self.module.parameters(), sample, horizon, None)
        return np.ascontiguousarray(np.moveaxis(np.array(forecast), -1, 2))

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""
        return to_canonical(self.module)

    def _load_weights(self, weights: Mapping[str, Array]) -> None:
        load_canonical(self.module, weights)

    def _moment_shapes(self) -> dict[str, tuple[int, ...]]:
        parameters = named_parameters(self.module)
        shapes = {f"{key}.{name}": tuple(p.shape) for key, p in parameters.items() for name in _MOMENTS}
        return shapes | {"step": ()}

    def _moments_to_arrays(self) -> dict[str, Array]:
        state = dict(tree_flatten(self._optimiser.state))
        names = [f"{key}.{name}" for key in named_parameters(self.module) for name in _MOMENTS]
        arrays = {name: np.array(state[name]) for name in names if name in state}
        return arrays | {"step": np.array(state["step"]).astype(np.float32)} if arrays else {}

    def _load_moments(self, moments: Mapping[str, Array]) -> None:
        self._optimiser = _adam()
        if moments:
            state = {key: mx.array(array) for key, array in moments.items()}
            state |= {"step": state["step"].astype(mx.uint64), "learning_rate": self._optimiser.learning_rate}
            self._optimiser.state = tree_unflatten(list(state.items()))

    def _is_memory_error(self, error: RuntimeError) -> bool:
        return "allocate" in str(error)

    def _loss(
        self, parameters: Any, sample: Sample, key: mx.array | None, total_weight: float | None = None
    ) -> mx.array:
        forecast = self._forecast(parameters, sample, sample.targets.shape[1], key)
        targets, weight = _frames(sample.targets), _frames(sample.weight)
        loss: mx.array
        if self.module.spec.thresholds:
            softplus = ACTIVATION_FUNCTIONS["softplus"]
            loss = event_loss(forecast, targets, weight, softplus, _total, mx.maximum, total_weight)
        else:
            share = self._options.absolute_error
            operations = (mx.square, _total, mx.maximum)
            loss = weighted_loss(forecast, targets, weight, share, *operations, total_weight)
        return loss

    def _forecast(self, parameters: Any, sample: Sample, horizon: int, key: mx.array | None) -> mx.array:
        """Return the forecast (batch, horizon, height, width, channel), float32, of a module with these parameters."""
        times: dict[str, Any] = {name: None if a is None else mx.array(a) for name, a in sample.times().items()}
        original, dtype = self.module.parameters(), _PRECISIONS[self._precision]
        self.module.update(_of_kernels(lambda a: a.astype(dtype), parameters))
        result: mx.array = self.module(_frames(sample.inputs), horizon, key=key, **times)
        self.module.update(original)
        return result.astype(mx.float32)


def _total(values: mx.array) -> mx.array:
    """Return the sum, axis by axis: MLX adds one number after another, which costs float32 four digits at a million."""
    while values.ndim:
        values = values.sum(axis=0)
    return values


def set_threads(count: int) -> None:
    """Raise an error for any number of threads but one: MLX computes on one, and its BLAS follows the environment."""
    if count != 1:
        raise ConfigError(
            "threads",
            expected="1 or nothing in MLX, which has no such setting",
            received=count,
            hint="Leave it out. The BLAS reads its threads from its own variable, such as OPENBLAS_NUM_THREADS.",
        )


def _adam() -> optimizers.Adam:
    # on weights that have decayed this is AdamW, with a separate decay for each kind of weight
    return optimizers.Adam(1e-3, bias_correction=True)


def _of_kernels(change: Callable[[mx.array], mx.array], parameters: Any) -> Any:
    """Return a tree of parameters with a change made to the kernels of convolutions."""
    return tree_map_with_path(lambda key, a: change(a) if key.endswith(DECAYED) else a, parameters)


def _frames(array: Array) -> mx.array:
    """Return frames (batch, time, channel, height, width) channels last."""
    return mx.array(np.moveaxis(array, 2, -1))
