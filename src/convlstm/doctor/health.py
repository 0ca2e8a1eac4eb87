"""What is installed, and whether each framework computes what the contract says."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from convlstm import __version__
from convlstm.contract.forecaster import ForecasterSpec
from convlstm.contract.parity import error
from convlstm.contract.reference_forecaster import forecast
from convlstm.contract.spec import ConvLSTMSpec
from convlstm.contract.training import Optimisation, Sample
from convlstm.contract.weights import initialise
from convlstm.doctor.setups import SETUPS, SetUp, run_task
from convlstm.errors import DependencyError, install
from convlstm.nowcast.faces import build_trainer

PACKAGES = (
    *(
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
    ),
    *("dm-haiku", "mlx", "xarray", "zarr", "netCDF4", "scores"),
)
TOLERANCE = 1e-5
"""Largest difference from the float64 reference that float32 may show (CONTRACT, Precision)."""


@dataclass(frozen=True)
class Health:
    """One set-up against the reference.

    Args:
        setup: Its name.
        description: Version, device and precision; the problem where there is one.
        difference: Largest difference from the reference; infinite where it failed, None where it is not installed.
        seconds: Time of one forecast of the small model.
    """

    setup: str
    description: str
    difference: float | None
    seconds: float

    @property
    def well(self) -> bool:
        """Whether it runs and agrees."""
        return self.difference is not None and self.difference <= TOLERANCE


def installed() -> dict[str, str]:
    """Return Python, the system, and the version of each package that matters, or `not installed`.

    Example:
        >>> "numpy" in installed()
        True
    """
    system = f"{platform.system()} {platform.machine()}"
    versions = {"convlstm": __version__, "Python": platform.python_version(), "system": system}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def check_setups(setups: Sequence[SetUp] = SETUPS) -> list[Health]:
    """Run a small forecaster in every set-up, each in a process of its own, and compare it with the reference.

    Args:
        setups: Which ones.

    Returns:
        What was found, in the same order.
    """
    found = []
    for setup in setups:
        if not setup.installed:
            found.append(Health(setup.name, install(setup.face), None, 0.0))
            continue
        try:
            answer = run_task(setup, "small_forecast")
        except DependencyError as problem:
            answer = {"description": str(problem.received), "difference": float("inf"), "seconds": 0.0}
        found.append(Health(setup.name, **answer))
    return found


def small_forecast(face: str) -> dict[str, Any]:
    """Forecast with a small model in this process.

    Args:
        face: The framework.

    Returns:
        `description`, `difference` from the reference and `seconds`.
    """
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[8, 8], kernel_size=3, peephole="channel")
    spec = ForecasterSpec(encoder=stack, patch_size=2, residual=True)
    random = np.random.default_rng(0)
    frames = random.standard_normal((2, 4, 1, 16, 12))
    weights = {key: value + 0.1 * random.standard_normal(value.shape) for key, value in initialise(spec, 0).items()}
    truth = forecast(spec, weights, frames, 3)
    inputs = frames.astype(np.float32)
    trainer = build_trainer(face, spec, weights, Optimisation(precision="float32"))
    started = time.perf_counter()
    result = trainer.predict(Sample(inputs, inputs[:, :0], inputs[:, :0]), truth.shape[1])
    seconds = time.perf_counter() - started
    return {"description": trainer.description, "difference": error(result, truth), "seconds": seconds}
