"""Copies of the log of a training for TensorBoard and MLflow.

A copy has the lines of `log.jsonl`, so that a resumed run cannot have a step twice: the run folder truncates its log to
the saved state, and a copy adds the lines that it does not have yet.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from convlstm.errors import ConfigError, DataError, DependencyError, OutputError, install
from convlstm.files import write_atomic
from convlstm.nowcast.run_folder import MLFLOW_FILE, RunFolder

_VALUES = ("loss", "validation_loss", "learning_rate")
_LONGEST = 6000  # characters of a parameter in MLflow
_MOST_METRICS = 1000  # in one call of MLflow
_EXPERIMENT = "convlstm"  # unless MLFLOW_EXPERIMENT_NAME is set


class TrainingLog(Protocol):
    """A copy of the log."""

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add one line of the log."""

    def close(self, *, finished: bool) -> None:
        """Write what is left; `finished` is false if the training has stopped before its end."""


def check_training_logs(names: Sequence[str]) -> None:
    """Raise an error for an unknown name, or one whose package is not installed."""
    for name in names:
        if name not in _LOGS:
            raise ConfigError(
                "--log", expected=f"one of {', '.join(_LOGS)}", received=repr(name), hint="Pass one of the names."
            )
        package = _LOGS[name][0]
        if find_spec(package) is None:
            raise DependencyError(
                "--log",
                expected=f"the package {package} for {name}",
                received="none",
                hint=f"Run: {install(name)}.",
            )


@contextmanager
def training_logs(
    names: Sequence[str], folder: RunFolder, parameters: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Open copies of the log in a run folder by name, and return a function that adds a line to each of them."""
    check_training_logs(names)
    history = folder.history()
    logs: list[TrainingLog] = []
    with ExitStack() as stack:
        for name in dict.fromkeys(names):
            log = _LOGS[name][1](folder.path, parameters, history)
            logs.append(log)
            stack.push(_closing(log))

        def add(entry: Mapping[str, Any]) -> None:
            for log in logs:
                log.add(entry)

        yield add


def _closing(log: TrainingLog) -> Callable[..., bool]:
    """Return what a stack calls at its end to close a log; an error of the training counts more than one in closing."""

    def close(kind: object, error: BaseException | None, traceback: object) -> bool:
        try:
            log.close(finished=error is None)
        except OutputError:
            if error is None:
                raise
        return False

    return close


class TensorBoardLog:
    """Event files in the folder `tensorboard` of a run, written anew from the log when a run is resumed."""

    def __init__(self, folder: Path, parameters: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        path = folder / "tensorboard"
        for file in path.glob("events.out.tfevents.*"):
            file.unlink()
        self._writer: Any = SummaryWriter(str(path))
        values = {name: _plain(value) for name, value in parameters.items()}
        for summary in hparams(values, dict.fromkeys(_VALUES)):
            self._writer.file_writer.add_summary(summary)
        for entry in history:
            self._write(entry)
        self._writer.flush()

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write the values of one line."""
        self._write(entry)
        self._writer.flush()

    def close(self, *, finished: bool) -> None:
        """Close the file."""
        self._writer.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        for name in _VALUES:
            self._writer.add_scalar(name, entry[name], entry["step"], walltime=_seconds(entry))


class MlflowLog:
    """A run of MLflow, whose identifier is kept in the run folder for a resumed run.

    The server or store is that of MLflow's own setting `MLFLOW_TRACKING_URI`. The experiment is that of
    `MLFLOW_EXPERIMENT_NAME`, by default `convlstm`.
    """

    def __init__(self, folder: Path, parameters: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        import mlflow

        for name in ("mlflow", "alembic"):  # they announce on standard error what is no error
            logging.getLogger(name).setLevel(logging.WARNING)
        self._file = folder / MLFLOW_FILE
        values = {name: str(_plain(value))[:_LONGEST] for name, value in parameters.items()}
        with _mlflow_errors():
            self._client: Any = mlflow.MlflowClient()
            saved = self._saved_run()
            if saved is None:
                self._run = self._new_run(folder, values)
                last = 0
            else:
                self._run = saved
                self._client.update_run(self._run, status="RUNNING")
                self._note_changes(values)
                last = max((metric.step for metric in self._client.get_metric_history(self._run, "loss")), default=0)
            self._write([entry for entry in history if entry["step"] > last])

    def add(self, entry: Mapping[str, Any]) -> None:
        """Write the values of one line."""
        with _mlflow_errors():
            self._write([entry])

    def close(self, *, finished: bool) -> None:
        """Set the status of the run."""
        with _mlflow_errors():
            self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")

    def _saved_run(self) -> str | None:
        """Return the run that the folder names; None without one."""
        if not self._file.exists():
            return None
        try:
            run = str(json.loads(self._file.read_text(encoding="utf-8"))["run_id"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                str(self._file),
                expected="the identifier of a run of MLflow",
                received=f"{type(error).__name__}: {error}",
                hint="Delete the file to log to a new run.",
            ) from error
        self._client.get_run(run)  # raises an error for a run that is not there
        return run

    def _new_run(self, folder: Path, values: Mapping[str, str]) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        run = str(self._client.create_run(experiment, run_name=folder.resolve().name).info.run_id)
        self._client.log_batch(run, params=[Param(name, value) for name, value in values.items()])
        text = json.dumps({"run_id": run}) + "\n"
        write_atomic(self._file, lambda draft: draft.write_text(text, encoding="utf-8"))
        return run

    def _note_changes(self, values: Mapping[str, str]) -> None:
        """Write changed parameters of a resumed run, such as more steps, as tags: MLflow keeps the first values."""
        before = self._client.get_run(self._run).data.params
        for name, value in values.items():
            if before.get(name) != value:
                self._client.set_tag(self._run, f"resumed.{name}", value)

    def _write(self, entries: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, entry[name], round(1000 * _seconds(entry)), entry["step"])
            for entry in entries
            for name in _VALUES
        ]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run, metrics=metrics[first : first + _MOST_METRICS])


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    """Raise an error of MLflow as one of this package; the state of the training is saved before."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise OutputError(
            "--log mlflow",
            expected="a store of MLflow that takes the values",
            received=str(error).strip().splitlines()[0],
            hint="Correct `MLFLOW_TRACKING_URI` or `MLFLOW_EXPERIMENT_NAME`, and continue with `--resume`.",
        ) from error


def _plain(value: Any) -> str | float | bool:
    """Return a value of the configuration as one that both libraries take; lists and None as JSON."""
    return value if isinstance(value, str | bool | int | float) else json.dumps(value)


def _seconds(entry: Mapping[str, Any]) -> float:
    """Return the time of a line of the log in seconds since 1970; the present one for a line without a time."""
    written = entry.get("time")
    return time.time() if written is None else datetime.fromisoformat(written).timestamp()


_LOGS: dict[str, tuple[str, Callable[[Path, Mapping[str, Any], Sequence[Mapping[str, Any]]], TrainingLog]]] = {
    "tensorboard": ("tensorboardX", TensorBoardLog),
    "mlflow": ("mlflow", MlflowLog),
}
TRAINING_LOGS = tuple(_LOGS)
"""Names of the copies of the log."""
