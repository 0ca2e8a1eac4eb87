"""The contenders of the study: one forecaster, with more or less knowledge of the time between frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from convlstm.frontend.trainer import Optimisation, Sample
from convlstm.nowcast.config import Config, ModelConfig
from convlstm.nowcast.fit import learning_rate
from convlstm.torch.training import Trainer
from convlstm.weights.canonical import initialise


@dataclass(frozen=True)
class Contender:
    """How a contender uses the time between frames."""

    duration_strategy: str
    memory_decay: bool

    def restrict(self, sample: Sample) -> Sample:
        """Return the sample with those times only that the contender knows."""
        scales_candidate = self.duration_strategy != "none"
        return replace(
            sample,
            durations=sample.durations if scales_candidate else None,
            lead_durations=sample.lead_durations if scales_candidate else None,
            gaps=sample.gaps if self.memory_decay else None,
        )


CONTENDERS = {
    "durations": Contender("mlp", memory_decay=True),
    "decay only": Contender("none", memory_decay=True),
    "blind": Contender("none", memory_decay=False),
    "mlp": Contender("mlp", memory_decay=False),
    "log1p": Contender("log1p", memory_decay=False),
}
STUDIED = ("durations", "decay only", "blind")


def train(
    contender: Contender,
    model: dict[str, Any],
    channels: int,
    reference_duration: float,
    config: Config,
    sample_at: Callable[[int], Sample],
) -> Trainer:
    """Return the trained forecaster.

    Args:
        contender: How the forecaster uses time.
        model: Options of the section `model` that all contenders share.
        channels: Channels of a frame.
        reference_duration: The usual time between frames, in the unit of the durations.
        config: Steps, learning rate and seed.
        sample_at: Returns the sample of a step, with all times.
    """
    options = {"duration_strategy": contender.duration_strategy, "memory_decay": contender.memory_decay}
    spec = ModelConfig(**model, **options).spec(channels, reference_duration)
    trainer = Trainer(spec, initialise(spec, config.seed), Optimisation(precision="float32"))
    for step in range(config.training.steps):
        trainer.step(contender.restrict(sample_at(step)), learning_rate(config, step), step)
    return trainer
