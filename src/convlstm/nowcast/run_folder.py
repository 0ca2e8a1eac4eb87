"""The folder of a run: configuration, best model, last state and log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convlstm.errors import ConfigError, DataError, OutputError, WeightsError
from convlstm.files import check_writable, remove_drafts, write_atomic
from convlstm.nowcast.config import Config
from convlstm.nowcast.config_text import read_config, to_yaml
from convlstm.nowcast.folder_lock import check_unlocked, locked
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.spec.types import Array
from convlstm.weights.checkpoint import MODEL_FILE, load_arrays, save_arrays, save_model

MLFLOW_FILE = "mlflow.json"
"""Name of the file with the run of MLflow that a training is logged to."""


@dataclass
class Progress:
    """The progress of a run, saved with its state."""

    step: int = 0  # number of finished optimiser steps
    best_loss: float | None = None  # smallest validation loss so far
    best_step: int = 0  # step of that loss
    validations_without_improvement: int = 0
    losses: list[float] = field(default_factory=list)  # training losses since the last validation
    finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by their names in the state file, where one has the shorter name `worse`."""
        values = dict(vars(self))
        values["worse"] = values.pop("validations_without_improvement")
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Progress:
        """Return the progress in a state file."""
        fields = dict(values)
        fields["validations_without_improvement"] = fields.pop("worse")
        return cls(**fields)


class RunFolder:
    """The files of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model = self.path / MODEL_FILE
        self.config = self.path / "config.yaml"
        self._state = self.path / "state.safetensors"
        self._log = self.path / "log.jsonl"
        self._data = self.path / "data.json"
        self._mlflow = self.path / MLFLOW_FILE

    @property
    def holds_run(self) -> bool:
        """Whether the folder has a run."""
        return any(file.exists() for file in (self.config, self.model, self._state))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of a run, which no other command may overwrite."""
        return self.model, self.config, self._state, self._log, self._data, self._mlflow

    @property
    def checked_files(self) -> tuple[Path, ...]:
        """The files with a digest that the folder has; at least the model, whose absence is an error."""
        return tuple(file for file in (self.model, self._state) if file.exists()) or (self.model,)

    def check(self, config: Config, resume: bool) -> None:
        """Raise an error for a folder that cannot be written, or has another run or one that must not continue."""
        check_writable(self.model, folder=False)
        if not self.holds_run:
            return
        if not resume:
            check_unlocked(self.path, "training")
            raise ConfigError(
                str(self.path),
                expected="a new folder",
                received="a folder with a run",
                hint="Choose another `--output`, or add `--resume` to continue the run.",
            )
        _check_same(self.config, config)

    @contextmanager
    def begun(self, config: Config, resume: bool) -> Iterator[None]:
        """Lock the folder for one training, check it, and delete temporary files of a killed training."""
        self.check(config, resume)  # before the lock, so that a refused folder stays as it was
        with locked(self.path, "training"):
            self.check(config, resume)  # again, because a run can have started in between
            remove_drafts(self.path)
            is_new = not self.holds_run
            if is_new:
                self.save_config(config)
            try:
                yield
            except BaseException:
                if is_new and not (self.model.exists() or self._state.exists()):
                    # no state was saved yet, so the next attempt may have other options
                    self.config.unlink(missing_ok=True)
                    self._log.unlink(missing_ok=True)
                    self._data.unlink(missing_ok=True)
                    self._mlflow.unlink(missing_ok=True)
                raise

    def save_model(self, spec: ForecasterSpec, weights: Mapping[str, Array], extra: Mapping[str, Any]) -> None:
        """Save the model with its pipeline and provenance."""
        save_model(self.model, spec, weights, dict(extra))

    def save_config(self, config: Config) -> None:
        """Save the configuration: of a new run, or of one that is resumed with more steps."""
        write_atomic(self.config, lambda draft: draft.write_text(to_yaml(config), encoding="utf-8"))

    def load_state(self, data: Mapping[str, Any]) -> tuple[dict[str, Array] | None, Progress]:
        """Return the last saved arrays and progress, or None and the initial progress in a new run.

        The log is truncated to that step. A run with other `data` than in `save_state` is a `DataError`.
        """
        arrays, progress = self.read_state(data)
        lines = [json.dumps(entry) + "\n" for entry in self.history() if entry["step"] <= progress.step]
        write_atomic(self._log, lambda draft: draft.write_text("".join(lines), encoding="utf-8"))
        return arrays, progress

    def read_state(self, data: Mapping[str, Any]) -> tuple[dict[str, Array] | None, Progress]:
        """Return what `load_state` returns, without a change of the log."""
        arrays, progress = None, Progress()
        if self._state.exists():
            arrays, content, _ = load_arrays(self._state)
            _check_data(content.get("data", {}), data)
            try:
                progress = Progress.from_dict(content["progress"])
            except (KeyError, TypeError, ValueError) as error:
                raise WeightsError(
                    str(self._state),
                    expected="the state of a run",
                    received="another file",
                    hint="Start a new run in another `--output`.",
                ) from error
        return arrays, progress

    def save_state(self, arrays: Mapping[str, Array], progress: Progress, data: Mapping[str, Any]) -> None:
        """Save arrays, progress and a description of the data, so that a run resumes with the same bits."""
        save_arrays(self._state, arrays, {"kind": "run", "progress": progress.to_dict(), "data": data})

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Save what was read from the data, as JSON values."""
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        write_atomic(self._data, lambda draft: draft.write_text(text, encoding="utf-8"))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add one line to the log: JSON values by name, including the step."""
        try:
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OutputError(
                str(self._log),
                expected="free space for one more line",
                received=str(error.strerror or error),
                hint="Free space and continue with `--resume`.",
            ) from error

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of the log, without an incomplete last line."""
        if not self._log.is_file():
            return []
        try:
            lines = self._log.read_text(encoding="utf-8").split("\n")[:-1]
            entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
            return sorted(entries, key=lambda entry: int(entry["step"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                str(self._log),
                expected="the lines of a training log",
                received=f"{type(error).__name__}: {error}",
                hint="Move or delete the file.",
            ) from error


class ReadOnlyRunFolder(RunFolder):
    """The run folder in a process that shares the training: it reads the state, and the first process writes."""

    @contextmanager
    def begun(self, config: Config, resume: bool) -> Iterator[None]:
        """Do nothing, because the first process locks and checks the folder."""
        yield

    def save_model(self, spec: ForecasterSpec, weights: Mapping[str, Array], extra: Mapping[str, Any]) -> None:
        """Do nothing."""

    def save_config(self, config: Config) -> None:
        """Do nothing."""

    def load_state(self, data: Mapping[str, Any]) -> tuple[dict[str, Array] | None, Progress]:
        """Return what the first process returns."""
        return self.read_state(data)

    def save_state(self, arrays: Mapping[str, Array], progress: Progress, data: Mapping[str, Any]) -> None:
        """Do nothing."""

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log(self, entry: Mapping[str, Any]) -> None:
        """Do nothing."""


def _check_same(path: Path, config: Config) -> None:
    saved_options = flat_options(read_config(path))
    for name, value in flat_options(config).items():
        is_longer = name == "training.steps" and value > saved_options[name]
        # other parts of a batch change the rounding only, and fewer processes need more of them
        may_change = is_longer or name == "training.accumulate"
        if value != saved_options[name] and not may_change:
            raise ConfigError(
                name,
                expected=f"{saved_options[name]!r}, the value at the start of the run",
                received=repr(value),
                hint="Resume with that value, or choose another `--output`.",
            )


def flat_options(config: Config) -> dict[str, Any]:
    """Return the options of a configuration by names such as `training.steps`."""
    sections = config.model_dump(exclude={"seed"})
    options = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    return options | {"seed": config.seed}


def _check_data(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    # as JSON, where tuples and lists are equal
    current = json.loads(json.dumps(current))
    different = [name for name in current if current[name] != saved.get(name)]
    if different:
        raise DataError(
            "data",
            expected="the sequence that the run started with",
            received=f"a sequence that differs in {', '.join(different)}",
            hint="Pass the same data, or choose another `--output`.",
        )
