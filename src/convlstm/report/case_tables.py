"""The main score by case and by day, with links to the cases that the page shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlstm.report.glossary import SCORES, Score, count, decimals, method_label, number
from convlstm.report.results import Results
from convlstm.report.tables import Cell

MOST_ROWS = 100
"""Rows of a table; of more cases, as many are listed, spread evenly over time, and all that have maps."""

_NOTE = (
    "The best method of each row is bold. A single case or day says little: look for weather in which a method fails."
)
_RARE = "Scores of cases with few event cells depend on chance."


@dataclass(frozen=True)
class PartRow:
    """One case or day."""

    label: str
    shown: int | None  # number of the case in the player, from 0; None for a case without maps
    reason: str  # such as "best CSI"
    cells: list[Cell]


@dataclass(frozen=True)
class PartTable:
    """The main score of every method by case or by day."""

    title: str
    note: str
    head: str  # heading of the first column
    columns: list[str]
    rows: list[PartRow]


def case_table(results: Results) -> PartTable | None:
    """Return the main score by case, in order of time; None in a folder of an earlier version."""
    if results.by_case is None:
        return None
    starts = [str(start) for start in results.cases["init_time"].dt.strftime("%Y-%m-%dT%H:%M:%S").values]
    shown = {start: place for place, start in enumerate(starts)}
    table = _table(
        results, results.by_case, "init_time", "Start (UTC)", lambda start: start[:16].replace("T", " "), shown
    )
    number_of_rows = len(table.rows)
    if number_of_rows <= MOST_ROWS:
        return table
    spread = set(np.linspace(0, number_of_rows - 1, MOST_ROWS).astype(int).tolist())
    rows = [row for place, row in enumerate(table.rows) if place in spread or row.shown is not None]
    note = f"{table.note} Listed are {len(rows)} of {count(number_of_rows)} cases; `cases.csv` has all of them."
    return PartTable(table.title, note, table.head, table.columns, rows)


def day_table(results: Results) -> PartTable | None:
    """Return the main score by day; None in a folder of an earlier version or for a single day."""
    if results.by_day is None or results.by_day["day"].nunique() < 2:
        return None
    return _table(results, results.by_day, "day", "Day", str, {})


def _table(
    results: Results, rows: pd.DataFrame, group: str, head: str, name: Callable[[str], str], shown: dict[str, int]
) -> PartTable:
    threshold, lead = results.main_threshold, results.main_lead
    score = next(s for s in SCORES if s.name == ("rmse" if threshold is None else "csi"))
    rows = rows[np.isclose(rows["lead_time"], lead)]
    at = rows["threshold"].isna() if threshold is None else np.isclose(rows["threshold"], threshold)
    rows = rows[at]
    values = rows.pivot(index=group, columns="method", values=score.name)[results.methods]
    first = rows[rows["method"] == results.methods[0]].set_index(group)
    share = (first["hits"] + first["misses"]) / first["pixels"]
    places = decimals(score, values.to_numpy(dtype=np.float64).ravel())
    part_rows = []
    for key, line in values.iterrows():
        cells = _compared(score, line.to_numpy(dtype=np.float64), places)
        if threshold is not None:
            cells.append(Cell(_percent(share[str(key)])))
        place = shown.get(str(key))
        part_rows.append(PartRow(name(str(key)), place, "" if place is None else results.reasons[place], cells))
    subject = "RMSE" + results.evaluation.bracketed_units
    if threshold is not None:
        subject = f"CSI at {results.evaluation.amount(threshold)}"
    columns = [method_label(method) for method in results.methods]
    columns += [f"{results.evaluation.amount(threshold)} or more observed in"] if threshold is not None else []
    title = f"{subject}, {results.lead_unit.words(lead)} ahead, by {'case' if group == 'init_time' else 'day'}"
    return PartTable(title, _NOTE if threshold is None else f"{_NOTE} {_RARE}", head, columns, part_rows)


def _percent(share: float) -> str:
    """Return a share in percent, or a dash where it is unknown, as in a case without a common pixel."""
    return f"{number(100 * share, 1)} %" if np.isfinite(share) else number(share, 1)


def _compared(score: Score, values: NDArray[np.float64], places: int) -> list[Cell]:
    """Return the cells of one row; all values equal to the best in print are marked."""
    distances = np.array([score.distance(round(value, places)) for value in values])
    known = np.isfinite(distances)
    best = np.min(distances[known]) if known.any() else np.nan
    marked = np.isclose(distances, best, rtol=0, atol=1e-12) & (len(values) > 1)
    return [Cell(number(value, places), best=bool(mark)) for value, mark in zip(values, marked, strict=True)]
