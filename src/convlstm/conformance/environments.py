"""The set-ups the package runs in, each in a process of its own: Keras has one backend per process."""

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
class SetUp:
    """A face, and what its process needs.

    Args:
        name: As `keras-jax`.
        face: The face's folder, as `keras`.
        packages: What must be installed.
        environment: Variables of its process.
    """

    name: str
    face: str
    packages: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        """Whether every package is there."""
        return all(find_spec(package) is not None for package in self.packages)

    def check(self) -> None:
        """Refuse a set-up that is not installed.

        Raises:
            DependencyError: that says what to install.
        """
        if not self.installed:
            raise _failed(self, "not installed")


SETUPS = (
    SetUp("torch", "torch", ("torch",)),
    SetUp("keras-tensorflow", "keras", ("keras", "tensorflow"), {"KERAS_BACKEND": "tensorflow"}),
    SetUp("keras-jax", "keras", ("keras", "jax"), {"KERAS_BACKEND": "jax"}),
    SetUp("keras-torch", "keras", ("keras", "torch"), {"KERAS_BACKEND": "torch"}),
    SetUp("flax", "flax", ("jax", "flax"), {"JAX_ENABLE_X64": "1"}),
    SetUp("mlx", "mlx", ("mlx",)),
)
"""Every set-up, in the order of the tables."""

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"}


def choose_setups(names: Sequence[str]) -> list[SetUp]:
    """Return the set-ups of these names, all where there are none.

    Args:
        names: As `torch` or `keras-jax`.

    Returns:
        The set-ups, in the order of the tables.

    Raises:
        ConfigError: for an unknown name.

    Example:
        >>> [setup.name for setup in choose_setups(["mlx", "torch"])]
        ['torch', 'mlx']
    """
    known = [setup.name for setup in SETUPS]
    for name in names:
        if name not in known:
            raise ConfigError(
                "setup", expected=f"one of {', '.join(known)}", received=repr(name), hint="choose among these."
            )
    return [setup for setup in SETUPS if not names or setup.name in names]


def run_task(setup: SetUp, task: str, **arguments: Any) -> Any:
    """Run a task of `convlstm.conformance.worker` in a process of its own.

    Args:
        setup: Where it runs.
        task: Name of the function.
        **arguments: Its JSON arguments, beside the face.

    Returns:
        What it returned, through JSON.

    Raises:
        DependencyError: if a package of the set-up is missing, or the process fails; its last line is in the message.
    """
    setup.check()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        request = json.dumps({"task": task, "face": setup.face, "arguments": arguments, "answer": str(answer)})
        done = subprocess.run(
            [sys.executable, "-m", "convlstm.conformance.worker", request],
            env={**os.environ, **_QUIET, **setup.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not answer.exists():
            raise _failed(setup, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return json.loads(answer.read_text())


def _failed(setup: SetUp, received: str) -> DependencyError:
    return DependencyError(
        setup.name,
        expected=f"{', '.join(setup.packages)} installed and working",
        received=received,
        hint=f"{install(setup.face)}, and the packages it names.",
    )
