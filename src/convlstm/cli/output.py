"""Print progress (a bar on a terminal, lines elsewhere), text, small tables and JSON; add lines to a log file."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from convlstm.errors import OutputError
from convlstm.nowcast.clock import utc_text

if TYPE_CHECKING:
    import pandas as pd

    from convlstm.data.summary import Summary
    from convlstm.nowcast.pipeline import Pipeline
    from convlstm.nowcast.watch.events import Event

console = Console(highlight=False)
_SECONDS_BETWEEN_LINES = 5.0


@dataclass
class _Settings:
    """How the present command prints, and its result so far."""

    is_silent: bool = False  # --quiet or --json
    as_json: bool = False
    log_file: IO[str] | None = None
    started: float = field(default_factory=time.monotonic)
    result: dict[str, Any] = field(default_factory=dict)


_settings = _Settings()


def begin(command: str, *, quiet: bool, log_file: Path | None, as_json: bool) -> None:
    """Set how a command prints: nothing but errors, or its result as JSON; and open its log file."""
    global _settings  # noqa: PLW0603 (a process runs one command at a time)
    if _settings.log_file is not None:
        _settings.log_file.close()
    _settings = _Settings(is_silent=quiet or as_json, as_json=as_json, result={"command": command})
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            _settings.log_file = log_file.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise OutputError(
                str(log_file),
                expected="a file to which lines can be added",
                received=str(error.strerror or error),
                hint="Choose another `--log-file`.",
            ) from error


def silence() -> None:
    """Print and log nothing but errors from now on, because another process prints the same."""
    _settings.is_silent, _settings.as_json = True, False
    if _settings.log_file is not None:
        _settings.log_file.close()
        _settings.log_file = None


def finish(text: str, **values: Any) -> None:
    """Print the last line of a command; with `--json` its result instead, with what was read and the seconds."""
    say(text)
    if _settings.as_json:
        seconds = {"seconds": round(time.monotonic() - _settings.started, 3)}
        _print_json(_settings.result | values | seconds)


def log(level: str, text: str) -> None:
    """Add a line with the present time to the log file, if there is one."""
    if _settings.log_file is None:
        return
    try:
        _settings.log_file.write(f"{utc_text()} {level} {text}\n")
    except OSError as error:  # a full disk must not end the command whose lines these are
        _settings.log_file = None
        print(f"error: --log-file: expected free space, got {error.strerror}. The log ends here.", file=sys.stderr)


def say(text: str) -> None:
    """Print one line of plain text."""
    log("INFO", text)
    if not _settings.is_silent:
        console.print(text, markup=False, soft_wrap=True)


def say_summary(summary: Summary, pipeline: Pipeline | None = None) -> None:
    """Print what was read from the data, and for a model the transform and the days of its training."""
    from convlstm.data.summary import summary_lines

    _settings.result["data"] = summary.to_dict()
    training = () if pipeline is None else (pipeline.transform, pipeline.days)
    lines = summary_lines(summary, *training)
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        say(f"{label:{width}}  {text}")


def say_event(event: Event) -> None:
    """Print an event of a watch as a line with its time, or as a JSON object; warnings are printed with `--quiet`."""
    log(event.level, event.message)
    if _settings.as_json:
        words = {"time": utc_text(), "level": event.level, "event": event.kind, "message": event.message}
        _print_json(words | dict(event.values))
    elif not _settings.is_silent or event.level != "INFO":
        stream = sys.stderr if _settings.is_silent else sys.stdout
        print(utc_text(), event.level, event.message, file=stream, flush=True)


def say_scores(table: Table) -> None:
    """Print a table of scores, and log its rows."""
    plain = Console(file=io.StringIO(), width=120)
    plain.print(table)
    for line in plain.file.getvalue().splitlines():  # type: ignore[attr-defined]
        log("INFO", line.rstrip())
    if not _settings.is_silent:
        console.print(table)


def time_text(value: Any) -> str:
    """Return a time of numpy or cftime as a text such as 2018-05-20T12:00:00Z."""
    text = str(value)[:19].replace(" ", "T")
    return f"{text}Z"


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, ensure_ascii=False, allow_nan=False), flush=True)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, of, note) that moves a bar on a terminal, and prints lines elsewhere."""
    if _settings.is_silent or not sys.stdout.isatty():
        yield _progress_lines(label, say)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    show_in_log = _progress_lines(label, lambda text: log("INFO", text))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None, note="")

        def show(done: int, of: int, note: str) -> None:
            bar.update(task, completed=done, total=of, note=note)
            show_in_log(done, of, note)

        yield show


def score_table(scores: pd.DataFrame, units: str, thresholds: list[float]) -> Table:
    """Return the main scores at a few lead times, with one column per method."""
    from convlstm.verification.lead_times import lead_unit

    leads = sorted(scores["lead_time"].unique())
    shown = sorted({leads[0], leads[len(leads) // 2 - 1] if len(leads) > 1 else leads[0], leads[-1]})
    table = Table("score", "lead time", *scores["method"].unique(), box=None, pad_edge=False)
    lines: list[tuple[str, float | None, str]] = []
    if thresholds:
        middle = thresholds[len(thresholds) // 2]
        lines += [("csi", middle, f"CSI ≥ {middle:g} {units}"), ("fss", middle, f"FSS ≥ {middle:g} {units}")]
    lines.append(("rmse", None, f"RMSE, {units}"))
    for score, threshold, name in lines:
        at_threshold = scores["threshold"].isna() if threshold is None else scores["threshold"] == threshold
        rows = scores[at_threshold & (scores["score"] == score)]
        for lead in shown:
            values = rows[rows["lead_time"] == lead].set_index("method")["value"]
            cells = [f"{values[method]:.3f}" for method in scores["method"].unique()]
            table.add_row(name, lead_unit(leads).label(lead), *cells)
    return table


def _progress_lines(label: str, write: Callable[[str], object]) -> Callable[[int, int, str], None]:
    last_time = 0.0

    def show(done: int, of: int, note: str) -> None:
        nonlocal last_time
        now = time.monotonic()
        if now - last_time >= _SECONDS_BETWEEN_LINES or done == of:
            last_time = now
            write(f"{label} {done}/{of} {note}".rstrip())

    return show
