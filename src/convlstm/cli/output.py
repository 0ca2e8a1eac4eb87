"""Print progress (a bar on a terminal, lines elsewhere), text and small tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

    from convlstm.data.summary import Summary
    from convlstm.nowcast.pipeline import Pipeline

console = Console(highlight=False)
_SECONDS_BETWEEN_LINES = 5.0


def say(text: str) -> None:
    """Print one line of plain text."""
    console.print(text, markup=False, soft_wrap=True)


def say_summary(summary: Summary, pipeline: Pipeline | None = None) -> None:
    """Print what was read from the data, and for a model the transform and the days of its training."""
    from convlstm.data.summary import summary_lines

    training = () if pipeline is None else (pipeline.transform, pipeline.days)
    lines = summary_lines(summary, *training)
    width = max(len(label) for label, _ in lines)
    for label, text in lines:
        say(f"{label:{width}}  {text}")


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function of (done, of, note) that moves a bar on a terminal, and prints lines elsewhere."""
    if not sys.stdout.isatty():
        yield _progress_lines(label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=None, note="")
        yield lambda done, of, note: bar.update(task, completed=done, total=of, note=note)


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


def _progress_lines(label: str) -> Callable[[int, int, str], None]:
    last_time = 0.0

    def show(done: int, of: int, note: str) -> None:
        nonlocal last_time
        now = time.monotonic()
        if now - last_time >= _SECONDS_BETWEEN_LINES or done == of:
            last_time = now
            say(f"{label} {done}/{of} {note}".rstrip())

    return show
