"""The environments that the package runs in, each in its own process: Keras has one backend per process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from convlstm.errors import ConfigError, DependencyError, install


@dataclass(frozen=True)
class Environment:
    """A framework, the packages that must be installed, and the environment variables of its process."""

    name: str
    frontend: str
    packages: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        """Whether every package is there."""
        return all(find_spec(package) is not None for package in self.packages)

    def check(self) -> None:
        """Raise DependencyError, which says what to install, for an environment that is not installed."""
        if not self.installed:
            raise _failed(self, "not installed")


ENVIRONMENTS = (
    Environment("torch", "torch", ("torch",)),
    Environment("keras-tensorflow", "keras", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
    Environment("keras-jax", "keras", ("keras", "jax"), {"KERAS_BACKEND": "jax"}),
    Environment("keras-torch", "keras", ("keras", "torch"), {"KERAS_BACKEND": "torch"}),
    Environment("flax", "flax", ("jax", "flax"), {"JAX_ENABLE_X64": "1"}),
    Environment("mlx", "mlx", ("mlx",)),
)
"""Every environment, in the order of the tables."""

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}


def choose_environments(names: Sequence[str]) -> list[Environment]:
    """Return the environments of these names in the order of the tables; all of them without any name."""
    known = [environment.name for environment in ENVIRONMENTS]
    for name in names:
        if name not in known:
            raise ConfigError(
                "framework", expected=f"one of {', '.join(known)}", received=repr(name), hint="Pass one of these."
            )
    return [environment for environment in ENVIRONMENTS if not names or environment.name in names]


def run_task(environment: Environment, task: str, **arguments: Any) -> Any:
    """Run a function of `convlstm.conformance.worker` in its own process, and return its result through JSON.

    Raise DependencyError if a package is missing, or with the last line of a process that fails.
    """
    environment.check()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        request = json.dumps(
            {"task": task, "frontend": environment.frontend, "arguments": arguments, "answer": str(answer)}
        )
        done = subprocess.run(
            [sys.executable, "-m", "convlstm.conformance.worker", request],
            env={**os.environ, **_QUIET, **environment.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not answer.exists():
            raise _failed(environment, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return json.loads(answer.read_text())


def _failed(environment: Environment, received: str) -> DependencyError:
    return DependencyError(
        environment.name,
        expected=f"{', '.join(environment.packages)} installed and working",
        received=received,
        hint=f"{install(environment.frontend)}, and the packages it names.",
    )
