"""The work of an evaluation: each case is forecast and scored alone, and its statistics are kept until all are done.

So an evaluation can be interrupted and continued, and its cases can be spread over processes, with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from convlstm import __version__
from convlstm.errors import DependencyError, OutputError, install
from convlstm.files import check_writable, write_atomic
from convlstm.nowcast.evaluation_forecasts import Cases
from convlstm.nowcast.evaluation_statistics import Scoring, Statistics, case_statistics, mean_activity
from convlstm.nowcast.folder_lock import locked
from convlstm.weights.checkpoint import load_arrays, save_arrays

UNFINISHED = "unfinished"
"""Name of the folder, in that of an evaluation, with the statistics of the finished cases."""

_PLAN = "plan.json"
_GROUPS = 4  # for each process, so that all end at about the same time


@dataclass(frozen=True, eq=False)
class Work:
    """The cases of an evaluation, and the folder with the statistics of those that are finished."""

    cases: Cases
    scoring: Scoring
    output: Path  # the evaluation folder

    @property
    def folder(self) -> Path:
        """The folder with the statistics of the finished cases."""
        return self.output / UNFINISHED

    @property
    def count(self) -> int:
        """The number of cases."""
        return len(self.cases.targets)

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers of an evaluation, as JSON values; functions are known by their names only."""
        cases, frames = self.cases, self.cases.frames
        activity = np.array([mean_activity(frames.read(targets)[:, 0]) for targets in cases.targets])
        seen = b"".join(array.tobytes() for array in (frames.seconds, cases.targets, activity))
        return {
            "version": __version__,
            "model": {name: [model.model.digest, list(model.spec.thresholds)] for name, model in cases.models.items()},
            "framework": {name: model.trainer.description for name, model in cases.models.items()},
            "methods": list(cases.names),
            "thresholds": list(self.scoring.thresholds),
            "fss_window": self.scoring.fss_window,
            "lead_times": cases.lead_seconds.tolist(),
            "cases": [str(start) for start in cases.starts.values],
            "data": [list(frames.variables), frames.units, list(frames.shape), hashlib.sha256(seen).hexdigest()],
            **cases.identity(),
        }

    @contextmanager
    def begun(self, *, overwrite: bool) -> Iterator[None]:
        """Lock the folder, and delete it at the end of the block; after an error the finished cases stay.

        Finished cases of an evaluation with another identity are an error, or are deleted with `overwrite`.
        """
        check_writable(self.folder, folder=True)
        plan = json.dumps(self.identity(), indent=1, sort_keys=True)
        with locked(self.folder, "evaluation"):
            _check_plan(self.folder, json.loads(plan), overwrite=overwrite)
            write_atomic(self.folder / _PLAN, lambda draft: draft.write_text(plan, encoding="utf-8"))
            try:
                yield
            except BaseException:
                if not self._finished():
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *, workers: int, threads: int | None, on_case: Callable[[int, int], None]) -> None:
        """Forecast and score the cases that are not finished, in this process or in several."""
        remaining = [number for number in range(self.count) if not self._file(number).exists()]
        if len(remaining) < self.count:
            on_case(self.count - len(remaining), self.count)
        if workers > 1 and len(remaining) > 1:
            _run_in_processes(self, remaining, min(workers, len(remaining)), threads, on_case)
            return
        for number in remaining:
            self._score(number)
            on_case(self._finished(), self.count)

    def run_group(self, numbers: Sequence[int], threads: int) -> int:
        """Forecast and score some cases in a process of its own, and return their number."""
        for model in self.cases.models.values():
            model.set_threads(threads)
        for number in numbers:
            self._score(number)
        return len(numbers)

    def statistics(self) -> Statistics:
        """Return the statistics of all cases."""
        parts = (load_arrays(self._file(number))[:2] for number in range(self.count))
        return Statistics.joined(parts, self.cases.names, self.cases.lead_seconds / 60.0, self.scoring)

    def _score(self, number: int) -> None:
        arrays, description = case_statistics(self.cases.forecast(number), self.scoring)
        save_arrays(self._file(number), arrays, {"kind": "case", **description})

    def _file(self, number: int) -> Path:
        return self.folder / f"case-{number:05}.safetensors"

    def _finished(self) -> int:
        return sum(self._file(number).exists() for number in range(self.count))


def _check_plan(folder: Path, identity: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raise an error for finished cases of another evaluation, or delete them."""
    path = folder / _PLAN
    if not path.exists():
        return
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        saved = {}
    different = [name for name in identity if identity[name] != saved.get(name)]
    if not different:
        return
    if not overwrite:
        raise OutputError(
            str(folder.parent),
            expected="no unfinished evaluation of other forecasts, data or options",
            received=f"one that differs in {', '.join(different)}",
            hint="Choose another `--output`, or delete it with `--overwrite`.",
        )
    for part in folder.glob("*.safetensors"):
        part.unlink()


def _run_in_processes(
    work: Work, numbers: Sequence[int], workers: int, threads: int | None, on_case: Callable[[int, int], None]
) -> None:
    """Spread cases over processes of Dask, each of which writes the statistics of its cases."""
    try:
        from dask.base import compute
        from dask.callbacks import Callback
        from dask.delayed import delayed
    except ImportError as error:
        raise DependencyError(
            "--workers",
            expected="Dask installed, for more than one process",
            received=f"no module {error.name!r}",
            hint=f"Run: {install('nowcast')}.",
        ) from error
    groups = np.array_split(np.asarray(numbers), min(_GROUPS * workers, len(numbers)))
    each = threads or max((os.cpu_count() or 1) // workers, 1)
    # as part of the function, since Dask would look for its own arrays in arguments
    run = delayed(partial(_run_group, work, each), pure=False)
    report = Callback(posttask=lambda *_: on_case(work._finished(), work.count))
    with report:
        compute(*[run(group.tolist()) for group in groups], scheduler="processes", num_workers=workers, chunksize=1)


def _run_group(work: Work, threads: int, numbers: Sequence[int]) -> int:
    return work.run_group(numbers, threads)
