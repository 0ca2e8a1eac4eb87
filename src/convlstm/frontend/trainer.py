"""What training asks of a framework: one gradient step, one loss, one forecast, and state as plain arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.errors import ConfigError, WeightsError
from convlstm.frontend.processes import ONE_PROCESS, DeviceMesh, Processes
from convlstm.spec.choices import PRECISIONS
from convlstm.spec.types import Array

_WEIGHTS, _OPTIMISER = "weights.", "optimiser."
LEAST_WEIGHT = 1e-12
"""Smallest divisor of a loss, so that a batch without a known target has the loss 0."""

DECAYED = ("weight_ih", "weight_hh", "head.weight", "detail.0.weight", "detail.1.weight", "output.weight")
"""How the canonical keys of convolution kernels end, to which alone weight decay applies."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What one step learns from, in model units, float32.

    Args:
        inputs: (batch, time, channel, height, width).
        targets: (batch, lead_time, channel, height, width); for a model with thresholds (batch, lead_time, threshold,
            height, width), 1 where the threshold is reached, else 0.
        weight: Weight of each target value, 0 where it is missing; shape of the targets.
        durations: Δ of the inputs (batch, time), for a model that uses them, else None.
        lead_durations: Δ of the targets (batch, lead_time), in the same unit.
        gaps: Time since the last valid frame (batch, time), for a model with memory decay, else None.
    """

    inputs: Array
    targets: Array
    weight: Array
    durations: Array | None = None
    lead_durations: Array | None = None
    gaps: Array | None = None

    def times(self) -> dict[str, Array | None]:
        """Return the times of the steps by the names of a forecaster's arguments."""
        return {"durations": self.durations, "lead_durations": self.lead_durations, "gaps": self.gaps}

    def split(self, parts: int) -> list[Sample]:
        """Return equal parts along the batch, whose size is a multiple of `parts`."""
        size = len(self.inputs) // parts
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        present = {name: array for name, array in arrays.items() if array is not None}
        return [
            replace(self, **{name: array[n * size : (n + 1) * size] for name, array in present.items()})
            for n in range(parts)
        ]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a step changes the weights: AdamW on Σ w·(e² + a·|e|) / Σ w, or with thresholds on the cross-entropy.

    Args:
        weight_decay: Of convolution kernels only.
        clip_norm: Largest norm of the whole gradient.
        absolute_error: a, the share of the absolute error.
        precision: `float32`, `bfloat16` (convolutions in bfloat16, weights and cell state in float32) or `auto`.
        device: A device of PyTorch or a platform of JAX; None takes the one that the framework chooses.
        accumulate: Parts of a batch whose gradients are computed one after another and added; PyTorch only.
        processes: The processes that train together; not in Keras.
        mesh: The devices of all processes that train together; None takes one device of each process. Flax only.
    """

    weight_decay: float = 0.01
    clip_norm: float = 1.0
    absolute_error: float = 0.3
    precision: str = "auto"
    device: str | None = None
    accumulate: int = 1
    processes: Processes = ONE_PROCESS
    mesh: DeviceMesh | None = None


class Trainer(ABC):
    """A forecaster of one framework while it is trained; a frontend fills in the private methods."""

    def __init__(self, optimisation: Optimisation | None, best_precision: str) -> None:
        self._options = optimisation or Optimisation()
        self._precision = read_precision(self._options.precision, best_precision)

    @property
    def options(self) -> Optimisation:
        """The options of the constructor."""
        return self._options

    @property
    @abstractmethod
    def description(self) -> str:
        """Framework, device and precision in words, for reports."""

    @property
    def rank(self) -> int:
        """Number of this process among those that train together; the first one writes the files."""
        return 0

    def batch_rows(self, batch_size: int) -> slice:
        """Return the rows of a batch that this process reads."""
        return self._options.processes.rows(batch_size, self.rank)

    def gather(self, values: float | Array) -> NDArray[np.float64]:
        """Return values of all processes along a new first axis; a call waits for the other processes."""
        return np.asarray(values, np.float64)[None]

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Raise a `LostProcessError` if another process ends within the block, and disconnect after it."""
        yield

    def step(self, sample: Sample, learning_rate: float, key: int) -> float:
        """Take one optimiser step and return the loss before it; `key` seeds dropout.

        With several processes the sample is this one's part of the batch, and the loss that of the whole batch.
        """
        with self._memory_errors():
            return self._take_step(sample, learning_rate, key)

    def loss(self, sample: Sample) -> float:
        """Return the loss in evaluation mode."""
        with self._memory_errors():
            return self._evaluate(sample)

    def predict(self, sample: Sample, horizon: int) -> Array:
        """Return the forecast for the sample's inputs (batch, horizon, channel, height, width), float32."""
        with self._memory_errors():
            return self._predict(sample, horizon)

    @abstractmethod
    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""

    @contextmanager
    def using(self, weights: Mapping[str, Array]) -> Iterator[None]:
        """Use other weights within the block, and the present ones again after it."""
        present = self.weights()
        self._load_weights(weights)
        try:
            yield
        finally:
            self._load_weights(present)

    def state(self) -> dict[str, Array]:
        """Return weights and optimiser state as arrays, from which `restore` goes on bit for bit."""
        weights = {_WEIGHTS + key: array for key, array in self.weights().items()}
        return weights | {_OPTIMISER + key: array for key, array in self._moments_to_arrays().items()}

    def restore(self, state: Mapping[str, Array]) -> None:
        """Load what `state` returned; a missing, unknown or misshapen array raises a `WeightsError`."""
        weights = {key.removeprefix(_WEIGHTS): array for key, array in state.items() if key.startswith(_WEIGHTS)}
        moments = {key: array for key, array in state.items() if not key.startswith(_WEIGHTS)}
        if moments:
            check_moments({_OPTIMISER + key: shape for key, shape in self._moment_shapes().items()}, moments)
        self._load_weights(weights)
        self._load_moments({key.removeprefix(_OPTIMISER): array for key, array in moments.items()})

    @abstractmethod
    def _take_step(self, sample: Sample, learning_rate: float, key: int) -> float: ...

    @abstractmethod
    def _evaluate(self, sample: Sample) -> float: ...

    @abstractmethod
    def _predict(self, sample: Sample, horizon: int) -> Array: ...

    @abstractmethod
    def _load_weights(self, weights: Mapping[str, Array]) -> None: ...

    @abstractmethod
    def _moment_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array of the optimiser's state."""

    @abstractmethod
    def _moments_to_arrays(self) -> dict[str, Array]:
        """Return the optimiser's state; nothing before the first step, where the optimiser has none."""

    @abstractmethod
    def _load_moments(self, moments: Mapping[str, Array]) -> None:
        """Load the optimiser's state; an empty one resets it."""

    def _is_memory_error(self, error: RuntimeError) -> bool:
        """Return whether the framework says with an error that memory has run out."""
        return False

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Raise Python's own error where memory runs out."""
        try:
            yield
        except RuntimeError as error:
            if self._is_memory_error(error):
                raise MemoryError(str(error)) from error
            raise


def weighted_loss(
    forecast: Any,
    targets: Any,
    weight: Any,
    absolute_error: float,
    square: Callable[[Any], Any],
    total: Callable[[Any], Any],
    at_least: Callable[[Any, float], Any],
    total_weight: float | None = None,
) -> Any:
    """Return Σ w·(e² + a·|e|) / Σ w on arrays of any framework; `absolute_error` is a.

    `square` is an argument since its derivative is rounded once, unlike that of e · e. For a part of a batch,
    `total_weight` is Σ w of the whole batch, so that the losses of all parts add up to that of the batch.
    """
    error = forecast - targets
    each = weight * (square(error) + absolute_error * abs(error))
    return _weighted_mean(each, weight, total, at_least, total_weight)


def event_loss(
    logits: Any,
    events: Any,
    weight: Any,
    softplus: Callable[[Any], Any],
    total: Callable[[Any], Any],
    at_least: Callable[[Any, float], Any],
    total_weight: float | None = None,
) -> Any:
    """Return the cross-entropy Σ w·(softplus(l) − y·l) / Σ w of logits and events on arrays of any framework.

    `total_weight` is that of `weighted_loss`.
    """
    each = weight * (softplus(logits) - events * logits)
    return _weighted_mean(each, weight, total, at_least, total_weight)


def _weighted_mean(
    weighted: Any,
    weight: Any,
    total: Callable[[Any], Any],
    at_least: Callable[[Any, float], Any],
    total_weight: float | None,
) -> Any:
    """Return the sum of weighted values over that of their weights; 0 without any weight."""
    if total_weight is None:
        return total(weighted) / at_least(total(weight), LEAST_WEIGHT)
    return total(weighted) / max(total_weight, LEAST_WEIGHT)


def read_precision(precision: str, best: str) -> str:
    """Return `float32` or `bfloat16`; `auto` takes the best precision on this device."""
    if precision not in ("auto", *PRECISIONS):
        raise ConfigError(
            "precision",
            expected=f"one of auto, {', '.join(PRECISIONS)}",
            received=repr(precision),
            hint="Choose one of these.",
        )
    return best if precision == "auto" else precision


def refuse_device(device: str | None, framework: str, hint: str) -> None:
    """Raise an error for a device that is named for a framework which has no choice of one here."""
    if device is not None:
        raise ConfigError("device", expected=f"none with {framework}", received=repr(device), hint=hint)


def check_moments(expected: Mapping[str, tuple[int, ...]], moments: Mapping[str, Array]) -> None:
    """Raise an error for an optimiser's state that lacks an array, or has an unknown or misshapen one."""
    for key in sorted(expected.keys() | moments.keys()):
        required = f"shape {tuple(expected[key])}" if key in expected else "no array of this name"
        received = f"shape {tuple(moments[key].shape)}" if key in moments else "none"
        if required != received:
            raise WeightsError(key, expected=required, received=received, hint="Start a new run.")
