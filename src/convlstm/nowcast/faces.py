"""The frameworks a model can be trained and run in, loaded by name on request."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from convlstm.contract.activations import Array
from convlstm.contract.forecaster import ForecasterSpec
from convlstm.contract.training import Optimisation, Trainer
from convlstm.errors import ConfigError, DependencyError

FRAMEWORKS = ("torch",)
"""Frameworks with a `training` module."""


def build_trainer(
    framework: str, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
) -> Trainer:
    """Return a model of a framework, ready to train or to forecast.

    Args:
        framework: One of `FRAMEWORKS`.
        spec: The forecaster.
        weights: Canonical arrays to start from.
        optimisation: Loss and optimiser; None for a model that only forecasts.

    Returns:
        The framework's trainer.

    Raises:
        ConfigError: for an unknown framework.
        DependencyError: if the framework is not installed; the message says what to install.
    """
    if framework not in FRAMEWORKS:
        raise ConfigError(
            "framework", expected=f"one of {', '.join(FRAMEWORKS)}", received=repr(framework), mend="choose one."
        )
    try:
        module = import_module(f"convlstm.{framework}.training")
    except ImportError as error:
        raise DependencyError(
            framework,
            expected="the framework and its training library installed",
            received=f"no module {error.name!r}",
            mend=f"pip install 'convlstm[{framework}]'.",
        ) from error
    trainer: Trainer = module.Trainer(spec, weights, optimisation)
    return trainer
