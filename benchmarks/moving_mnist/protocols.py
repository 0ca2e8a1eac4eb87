"""The two protocols as data: model, sequences, optimiser, length of the training, published figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.moving_mnist.generator import Motion
from convlstm.cost.operations import model_cost
from convlstm.cost.workload import Workload
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.presets import PRESETS

INPUTS = 10
"""Input frames of both protocols; the other 10 of 20 are forecast."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One published protocol.

    Args:
        name: As in `--protocol`.
        preset: The model, by its name in `convlstm.spec.presets.PRESETS`.
        motion: Number and speed of the digits.
        subset: Number of digits that all sequences are made of; None uses all training digits in training, and the
            test digits in the test.
        training_sequences: Sequences of an epoch.
        new_each_epoch: Whether an epoch has sequences that no other epoch has.
        validation_sequences: Sequences for early stopping; 0 trains all epochs.
        test_sequences: Sequences of the test.
        loss: `mse` of the 19 next frames with scheduled sampling, or `cross_entropy` of the 10 forecast frames.
        learning_rate: The highest of the schedule with `mse`, else constant.
        batch_size: Sequences of a step.
        epochs: Length of the training; with early stopping, the most epochs.
        sampling: Share of the training in which the probability of a true input frame decreases from 1 to 0.
        patience: Epochs without a lower validation loss, after which the training stops.
        published: Published scores on the test sequences.
        published_three_digits: Published cross-entropy of sequences of three other digits; None without such a test.
    """

    name: str
    preset: str
    motion: Motion
    subset: int | None
    training_sequences: int
    new_each_epoch: bool
    validation_sequences: int
    test_sequences: int
    loss: str
    learning_rate: float
    batch_size: int = 16
    epochs: int = 200
    sampling: float = 0.0
    patience: int = 10
    published: Mapping[str, float]
    published_three_digits: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of an epoch; the last incomplete batch is left out."""
        return self.training_sequences // self.batch_size

    @property
    def steps(self) -> int:
        """Training steps of the full run."""
        return self.steps_per_epoch * self.epochs

    @property
    def three_digits(self) -> Motion:
        """The same motion with three digits."""
        return replace(self.motion, digits=3)

    def spec(self, narrow: int = 1) -> ForecasterSpec:
        """Return the model, or a smaller one with 1 / `narrow` of the hidden channels of each layer."""
        spec = PRESETS[self.preset]
        hidden = [max(1, layer.hidden_channels // narrow) for layer in spec.encoder.layers]
        return replace(spec, encoder=replace(spec.encoder, hidden_channels=hidden))


def training_flop(spec: ForecasterSpec, batch_size: int) -> int:
    """Return the FLOP of a training step of 10 input and 10 forecast frames."""
    return model_cost(spec, Workload(shape=(INPUTS, 1, 64, 64), batch=batch_size, horizon=10)).training_flop


PROTOCOLS = {
    "openstl": Protocol(
        name="openstl",
        preset="openstl-mmnist-s",
        motion=Motion(slowest=3.6, fastest=3.6),
        subset=None,
        training_sequences=10_000,
        new_each_epoch=True,
        validation_sequences=0,
        test_sequences=10_000,
        loss="mse",
        learning_rate=5e-4,
        sampling=0.4,
        published={"mse": 29.80, "mae": 90.64, "ssim": 0.9288, "psnr": 22.10},
    ),
    "shi": Protocol(
        name="shi",
        preset="shi2015-5x5-128-64-64",
        motion=Motion(slowest=3.0, fastest=5.0),
        subset=500,
        training_sequences=10_000,
        new_each_epoch=False,
        validation_sequences=2_000,
        test_sequences=3_000,
        loss="cross_entropy",
        learning_rate=1e-3,
        published={"cross_entropy": 3670.85},
        published_three_digits=6379.42,
    ),
}
