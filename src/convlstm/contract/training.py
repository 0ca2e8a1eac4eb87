"""What training asks of a framework: one gradient step, one loss, one forecast, and state as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from convlstm.contract.activations import Array


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
