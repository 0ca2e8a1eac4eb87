"""The origin of a model, saved with its weights: version of the package and configuration of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from convlstm import __version__
from convlstm.errors import WeightsError
from convlstm.nowcast.config import BRIEF, READING_OPTIONS, Config, DataConfig
from convlstm.weights.checkpoint import Model


@dataclass(frozen=True)
class Provenance:
    """The version of the package and the configuration of a training.

    The configuration is not validated on reading, so that files of other versions can be used.
    """

    version: str | None
    config: Mapping[str, Any]  # by section, as in a configuration file; empty if the file has none
    started_from: str | None = None  # digest of the weights that the training started from

    @classmethod
    def of_run(cls, config: Config, started_from: str | None) -> Provenance:
        """Return the provenance of a model that is trained now."""
        return cls(__version__, config.model_dump(mode="json"), started_from)

    @classmethod
    def of_model(cls, model: Model) -> Provenance:
        """Return the provenance in a model file."""
        values = model.extra.get("provenance", {})
        config = values.get("config", {}) if isinstance(values, dict) else None
        if not isinstance(config, dict):
            raise _wrong("provenance", values)
        return cls(values.get("version"), config, values.get("started_from"))

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)

    @property
    def seed(self) -> int | None:
        """The seed of the training."""
        seed: int | None = self.config.get("seed")
        return seed

    @property
    def reading_options(self) -> dict[str, Any]:
        """The options of `open_frames` in the training, without those that were not set."""
        options = self.config.get("data", {})
        if not isinstance(options, dict):
            raise _wrong("data", options)
        chosen = {name: options[name] for name in READING_OPTIONS if options.get(name) is not None}
        try:
            DataConfig.model_validate(chosen)
        except ValidationError as error:
            raise _wrong("data", chosen) from error
        return {name: value for name, value in chosen.items() if name != "variables" or value}


def _wrong(name: str, received: object) -> WeightsError:
    return WeightsError(
        name,
        expected="the origin of the model, as `convlstm train` writes it",
        received=BRIEF.repr(received),
        hint="Use another copy of the file, or train the model again.",
    )
