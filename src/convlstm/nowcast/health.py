"""What is installed, and whether each framework computes what the contract says."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from convlstm.contract.forecaster import ForecasterSpec
from convlstm.contract.reference_forecaster import forecast
from convlstm.contract.spec import ConvLSTMSpec
from convlstm.contract.training import Optimisation, Sample
from convlstm.contract.weights import initialise
from convlstm.errors import DependencyError
from convlstm.nowcast.faces import FRAMEWORKS, build_trainer

PACKAGES = ("convlstm", "numpy", "safetensors", "torch", "lightning-fabric", "xarray", "zarr", "netCDF4", "scores")
TOLERANCE = 1e-5
"""Largest difference from the float64 reference that float32 may show (CONTRACT, Precision)."""


@dataclass(frozen=True)
class Health:
    """One framework against the reference.

    Args:
        framework: Its name.
        description: Version, device and precision; the problem where there is one.
        difference: Largest difference from the reference; infinite where it failed, None where it is not installed.
        seconds: Time of one forecast of the small model.
    """

    framework: str
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
    versions = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def check_frameworks() -> list[Health]:
    """Run a small forecaster in every framework and compare it with the reference."""
    stack = ConvLSTMSpec(in_channels=4, hidden_channels=[8, 8], kernel_size=3, peephole="channel")
    spec = ForecasterSpec(encoder=stack, patch_size=2, residual=True)
    random = np.random.default_rng(0)
    frames = random.standard_normal((2, 4, 1, 16, 12))
    weights = {key: value + 0.1 * random.standard_normal(value.shape) for key, value in initialise(spec, 0).items()}
    truth = forecast(spec, weights, frames, 3)
    return [_check(framework, spec, weights, frames, truth) for framework in FRAMEWORKS]


def _check(
    framework: str,
    spec: ForecasterSpec,
    weights: dict[str, np.ndarray],
    frames: np.ndarray,
    truth: np.ndarray,
) -> Health:
    inputs = frames.astype(np.float32)
    sample = Sample(inputs, inputs[:, :0], inputs[:, :0])
    started = time.perf_counter()
    try:
        trainer = build_trainer(framework, spec, weights, Optimisation(precision="float32"))
        started = time.perf_counter()
        result = trainer.predict(sample, truth.shape[1])
    except DependencyError as error:
        return Health(framework, str(error), None, 0.0)
    # a driver or an installation can be broken in any way, and to show it is what this is for
    except Exception as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        return Health(framework, problem, float("inf"), time.perf_counter() - started)
    seconds = time.perf_counter() - started
    difference = float(np.abs(result - truth).max() / max(1.0, np.abs(truth).max()))
    return Health(framework, trainer.description, difference, seconds)
