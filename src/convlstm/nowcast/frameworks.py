"""The frameworks for training and forecasting, imported by name on request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from convlstm.errors import ConfigError, DependencyError, install
from convlstm.frontend.processes import Processes, refuse_mesh, refuse_processes
from convlstm.frontend.trainer import Optimisation, Trainer
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array

FRAMEWORKS = ("torch", "keras", "flax", "mlx")
"""Frameworks with a `training` module."""

_WITH_PROCESSES = ("torch", "flax", "mlx")
"""Frameworks that train in several processes, with a `processes` module."""

_OTHER_NAMES = {"jax": "flax", "pytorch": "torch", "tensorflow": "keras", "tf": "keras"}
"""Frameworks of the list by names that users try."""

_PACKAGES = {"flax": "jax"}
"""The packages of frameworks whose trainer is in a package of another name."""


def build_trainer(
    framework: str, spec: ForecasterSpec, weights: Mapping[str, Array], optimisation: Optimisation | None = None
) -> Trainer:
    """Return a model in one of `FRAMEWORKS` with canonical weights; without `optimisation` it only forecasts."""
    module = _module(framework)
    if optimisation is not None and framework != "torch":
        several = framework in _WITH_PROCESSES
        refuse_processes(optimisation.processes, optimisation.accumulate, framework, has_processes=several)
    if optimisation is not None and framework != "flax":
        refuse_mesh(optimisation.mesh, framework)
    trainer: Trainer = module.Trainer(spec, weights, optimisation)
    return trainer


def process_rank(framework: str, processes: Processes, device: str | None) -> int | None:
    """Return the number of this process among those of a training; None if they have not been started."""
    if framework != "torch":
        refuse_processes(processes, 1, framework, has_processes=framework in _WITH_PROCESSES)
    if framework not in _WITH_PROCESSES:
        return 0
    if processes.count == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:  # without loading the framework
        return 0
    rank: int | None = _module(framework, "processes").process_rank(processes, device)
    return rank


def set_threads(framework: str, threads: int | None) -> None:
    """Set the number of threads of a framework; None keeps its default."""
    if threads is not None:
        _module(framework).set_threads(threads)


def _module(framework: str, name: str = "training") -> Any:
    if framework not in FRAMEWORKS:
        raise ConfigError(
            "framework",
            expected=f"one of {', '.join(FRAMEWORKS)}",
            received=repr(framework),
            hint=f"Pass {_OTHER_NAMES.get(framework.lower(), 'one of the listed frameworks')}.",
        )
    try:
        return import_module(f"convlstm.{_PACKAGES.get(framework, framework)}.{name}")
    except ImportError as error:
        raise DependencyError(
            framework,
            expected="the framework and its training library installed",
            received=f"no module {error.name!r}",
            hint=f"Run: {install(framework)}.",
        ) from error
