"""A run's folder: its configuration, its best model, its last state and its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convlstm.contract.activations import Array
from convlstm.contract.checkpoint import load_arrays, save_arrays
from convlstm.errors import ConfigError, OutputError
from convlstm.files import check_writable, write_whole
from convlstm.nowcast.config import Config, read_config, to_yaml


@dataclass
class Progress:
    """Where a run stands; saved with its state.

    Args:
        step: Optimiser steps taken.
        best_loss: Smallest validation loss so far, None before the first.
        best_step: When that was.
        worse: Validations since then.
        finished: Whether training has come to its end.
    """

    step: int = 0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    finished: bool = False


class RunFolder:
    """The files of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model = self.path / "model.safetensors"
        self.config = self.path / "config.yaml"
        self._state = self.path / "state.safetensors"
        self._log = self.path / "log.jsonl"

    def check(self, config: Config, resume: bool) -> None:
        """Refuse a folder that cannot be written or holds another run.

        Args:
            config: What shall be run.
            resume: Whether to go on with a run that is there.

        Raises:
            ConfigError: if a run is there already and shall not go on, or was started with other options.
            OutputError: if the folder cannot be written.
        """
        check_writable(self.model)
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(str(self.path), expected="a folder", received="a file", mend="choose another name.")
        if self.config.exists() and not resume:
            raise ConfigError(
                str(self.path),
                expected="a new folder",
                received="one that holds a run",
                mend="choose another --output, or add --resume to go on with it.",
            )
        if self.config.exists():
            _check_same(self.config, config)

    def begin(self, config: Config, resume: bool) -> None:
        """Make the folder ready, after `check`."""
        self.check(config, resume)
        if not self.config.exists():
            write_whole(self.config, lambda draft: draft.write_text(to_yaml(config), encoding="utf-8"))

    def load_state(self) -> tuple[dict[str, Array], Progress] | None:
        """Return the last saved state, or None in a new run."""
        if not self._state.exists():
            return None
        arrays, content, _ = load_arrays(self._state)
        progress = Progress(**content["progress"])
        self._keep_log(progress.step)
        return arrays, progress

    def save_state(self, arrays: Mapping[str, Array], progress: Progress) -> None:
        """Save everything a run needs to go on bit for bit."""
        save_arrays(self._state, arrays, {"kind": "run", "progress": vars(progress)})

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add one line to the log."""
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        if not self._log.exists():
            return []
        return [json.loads(line) for line in self._log.read_text(encoding="utf-8").splitlines()]

    def _keep_log(self, step: int) -> None:
        lines = [json.dumps(entry) + "\n" for entry in self.history() if entry["step"] <= step]
        write_whole(self._log, lambda draft: draft.write_text("".join(lines), encoding="utf-8"))


def _check_same(path: Path, config: Config) -> None:
    before, now = read_config(path).model_dump(), config.model_dump()
    for section, options in now.items():
        if options == before[section]:
            continue
        name = (
            next((key for key in options if options[key] != before[section][key]), "")
            if isinstance(options, dict)
            else ""
        )
        where = f"{section}.{name}" if name else section
        old, new = (before[section][name], options[name]) if name else (before[section], options)
        raise ConfigError(where, expected=f"{old!r}, as the run began", received=repr(new), mend="resume with it.")
