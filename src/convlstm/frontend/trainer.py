"""What training asks of a framework: one gradient step, one loss, one forecast, and state as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from convlstm.errors import ConfigError, WeightsError
from convlstm.spec.types import Array

PRECISIONS = ("float32", "bfloat16")
DECAYED = ("weight_ih", "weight_hh", "head.weight")
"""How the canonical keys of convolution kernels end, to which alone weight decay applies."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What one step learns from, in model units, float32.

    Args:
        inputs: (batch, time, channel, height, width).
        targets: (batch, lead_time, channel, height, width).
        weight: Weight of each target value, 0 where it is missing; shape of the targets.
        durations: Δ of the inputs (batch, time), for a model that uses them, else None.
        lead_durations: Δ of the targets (batch, lead_time), likewise.
        gaps: Time since the last valid frame (batch, time), for a model with memory decay, else None.
    """

    inputs: Array
    targets: Array
    weight: Array
    durations: Array | None = None
    lead_durations: Array | None = None
    gaps: Array | None = None


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a step changes the weights: AdamW on Σ w·(e² + a·|e|) / Σ w.

    Args:
        weight_decay: Of convolution kernels only.
        clip_norm: Largest norm of the whole gradient.
        absolute_error: a, the share of the absolute error.
        precision: `float32`, `bfloat16` (convolutions in bfloat16, weights and cell state in float32) or `auto`.
    """

    weight_decay: float = 0.01
    clip_norm: float = 1.0
    absolute_error: float = 0.3
    precision: str = "auto"


class Trainer(Protocol):
    """A model of one framework while it is trained."""

    def step(self, sample: Sample, learning_rate: float, key: int) -> float:
        """Take one optimiser step and return the loss before it; `key` seeds dropout."""

    def loss(self, sample: Sample) -> float:
        """Return the loss in evaluation mode."""

    def predict(self, sample: Sample, horizon: int) -> Array:
        """Return the forecast for the sample's inputs (batch, horizon, channel, height, width)."""

    def weights(self) -> dict[str, Array]:
        """Return the weights as canonical arrays."""

    def state(self) -> dict[str, Array]:
        """Return weights and optimiser state as arrays, from which `restore` goes on bit for bit."""

    def restore(self, state: Mapping[str, Array]) -> None:
        """Take over what `state` returned."""

    @property
    def description(self) -> str:
        """Framework, device and precision in words, for reports."""


def read_precision(wanted: str, best: str) -> str:
    """Return the precision to train in.

    Args:
        wanted: Of the configuration; `auto` takes the best here.
        best: What the framework is quickest in on this device.

    Returns:
        `float32` or `bfloat16`.

    Raises:
        ConfigError: for an unknown precision.

    Example:
        >>> read_precision("auto", "bfloat16"), read_precision("float32", "bfloat16")
        ('bfloat16', 'float32')
    """
    if wanted not in ("auto", *PRECISIONS):
        raise ConfigError(
            "training.precision",
            expected=f"one of auto, {', '.join(PRECISIONS)}",
            received=repr(wanted),
            hint="choose one of these.",
        )
    return best if wanted == "auto" else wanted


def check_moments(expected: Mapping[str, tuple[int, ...]], moments: Mapping[str, Array]) -> None:
    """Refuse an optimiser's state that lacks an array, or has one more, or one of another shape.

    Args:
        expected: Shape of each array.
        moments: The arrays of a saved state.

    Raises:
        WeightsError: naming the first array at fault.
    """
    for key in sorted(expected.keys() | moments.keys()):
        wanted = f"shape {tuple(expected[key])}" if key in expected else "no array of this name"
        received = f"shape {tuple(moments[key].shape)}" if key in moments else "none"
        if wanted != received:
            raise WeightsError(key, expected=wanted, received=received, hint="start the run anew.")
