"""What is installed, and whether each framework computes what the contract says."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from convlstm import __version__
from convlstm.conformance.environments import ENVIRONMENTS, Environment, run_task
from convlstm.errors import DependencyError, install

PACKAGES = (
    "numpy",
    "safetensors",
    "torch",
    "convlstm-native",
    "lightning-fabric",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "flax",
    "dm-haiku",
    "mlx",
    "xarray",
    "zarr",
    "netCDF4",
    "scores",
)
TOLERANCE = 1e-5
"""Largest difference from the float64 reference that float32 may show (docs/contract.md, Precision)."""


@dataclass(frozen=True)
class Health:
    """One framework compared with the reference."""

    environment: str
    description: str  # version, device and precision, or the problem
    difference: float | None  # from the reference; infinite if it failed, None if it is not installed
    seconds: float  # of one forecast

    @property
    def well(self) -> bool:
        """Whether it runs and agrees."""
        return self.difference is not None and self.difference <= TOLERANCE


def installed() -> dict[str, str]:
    """Return Python, the system, and the version of each package that matters, or `not installed`."""
    system = f"{platform.system()} {platform.machine()}"
    versions = {"convlstm": __version__, "Python": platform.python_version(), "system": system}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def check_environments(environments: Sequence[Environment] = ENVIRONMENTS) -> list[Health]:
    """Run a small forecaster in each environment, in its own process, and compare it with the reference."""
    results = []
    for environment in environments:
        if not environment.installed:
            results.append(Health(environment.name, install(environment.frontend), None, 0.0))
            continue
        try:
            answer = run_task(environment, "small_forecast")
        except DependencyError as problem:
            answer = {"description": str(problem.received), "difference": float("inf"), "seconds": 0.0}
        results.append(Health(environment.name, **answer))
    return results
