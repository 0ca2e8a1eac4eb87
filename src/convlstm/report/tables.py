"""The tables of the page, with the best value of each lead time marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from convlstm.report.glossary import SCORES, Score, count, decimals, interval_text, method_label, number
from convlstm.report.results import Results

_COUNTS = {
    "hits": "Hits",
    "misses": "Misses",
    "false_alarms": "False alarms",
    "correct_negatives": "Correct negatives",
    "cases": "Cases",
    "pixels": "Cells",
}


@dataclass(frozen=True)
class Cell:
    """One cell; it is the best if no other method shows a better number at this lead time."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    lead: str  # lead time as text
    method: str  # empty in a table that has the methods as columns
    cells: list[Cell]
    spans: int = 1  # number of rows with this lead time, in the first of them; 0 in the others


@dataclass(frozen=True)
class Table:
    """One table."""

    title: str  # caption
    groups: list[tuple[str, int]]  # headings over several columns, with their widths; may be empty
    columns: list[str]  # headings of the columns after the lead time (and the method)
    rows: list[Row]


def overview(results: Results) -> Table:
    """Return a table of CSI at every threshold and RMSE, for all methods, with one row per lead time."""
    csi, rmse = (next(s for s in SCORES if s.name == name) for name in ("csi", "rmse"))
    blocks: list[tuple[str, Score, float | None]] = [
        (f"CSI at {results.evaluation.amount(t)}", csi, t) for t in results.thresholds
    ]
    blocks.append((f"RMSE{results.evaluation.bracketed_units}", rmse, None))
    unit = results.lead_unit
    rows = []
    for lead in results.lead_times:
        cells = [cell for _, score, t in blocks for cell in _compare(results, score, t, lead, intervals=False)]
        rows.append(Row(unit.label(lead), "", cells))
    labels = [method_label(m) for m in results.methods]
    return Table("Overview", [(name, len(labels)) for name, _, _ in blocks], labels * len(blocks), rows)


def details(results: Results) -> list[Table]:
    """Return tables of every score with interval and counts per threshold, and of the errors."""
    known = [s for s in SCORES if s.name in results.known_scores]
    events = [s for s in known if s.by_threshold]
    errors = [s for s in known if not s.by_threshold]
    tables = [_detail(results, f"{results.evaluation.amount(t)} or more", events, t) for t in results.thresholds]
    return [*tables, _detail(results, f"Error{results.evaluation.bracketed_units}", errors, None)]


def differences(results: Results) -> list[Table]:
    """Return a table of CSI and RMSE minus those of each other method, with intervals; bold where zero is outside."""
    table = results.differences
    if table is None or table.empty:
        return []
    unit = results.lead_unit
    tables = []
    for (method, other), pair in table.groupby(["method", "other"], sort=False):
        blocks = [
            (
                f"CSI at {results.evaluation.amount(t)}",
                pair[np.isclose(pair["threshold"], t) & (pair["score"] == "csi")],
            )
            for t in results.thresholds
        ]
        blocks.append((f"RMSE{results.evaluation.bracketed_units}", pair[pair["score"] == "rmse"]))
        rows = []
        for lead in results.lead_times:
            cells = [_difference_cell(block[np.isclose(block["lead_time"], lead)]) for _, block in blocks]
            rows.append(Row(unit.label(lead), "", cells))
        title = f"{method_label(str(method))} minus {method_label(str(other))}"
        tables.append(Table(title, [], [name for name, _ in blocks], rows))
    return tables


def _difference_cell(rows: pd.DataFrame) -> Cell:
    if rows.empty:
        return Cell(number(math.nan, 3))
    row = rows.iloc[0]
    excludes_zero = row["lower"] > 0 or row["upper"] < 0
    return Cell(interval_text(row["difference"], row["lower"], row["upper"], 3), best=bool(excludes_zero))


def uneven_samples(results: Results) -> bool:
    """Return whether the methods were scored on different numbers of cells, so that scores are not comparable."""
    by_lead = results.scores.groupby(["lead_time", "score", "threshold"], dropna=False)["pixels"]
    return bool((by_lead.nunique() > 1).any())


def _detail(results: Results, title: str, scores: Sequence[Score], threshold: float | None) -> Table:
    counts = _COUNTS if threshold is not None else {k: _COUNTS[k] for k in ("cases", "pixels")}
    unit = results.lead_unit
    rows = []
    for lead in results.lead_times:
        compared = [_compare(results, score, threshold, lead, intervals=True) for score in scores]
        for k, method in enumerate(results.methods):
            row = results.numbers(scores[0].name, threshold, method, lead)
            cells = [cells[k] for cells in compared] + [Cell(count(row[name])) for name in counts]
            spans = 0 if k else len(results.methods)
            rows.append(Row(unit.label(lead), method_label(method), cells, spans))
    return Table(title, [], [s.label for s in scores] + list(counts.values()), rows)


def _compare(results: Results, score: Score, threshold: float | None, lead: float, *, intervals: bool) -> list[Cell]:
    """Return one score of all methods at one lead time; all values equal to the best in print are marked."""
    places = decimals(score, results.scores.loc[results.scores["score"] == score.name, "value"])
    rows = [results.numbers(score.name, threshold, method, lead) for method in results.methods]
    distances = [score.distance(round(row["value"], places)) for row in rows]
    least = min((d for d in distances if math.isfinite(d)), default=math.nan)
    texts = [
        interval_text(row["value"], row["lower"], row["upper"], places) if intervals else number(row["value"], places)
        for row in rows
    ]
    return [
        Cell(text, best=len(rows) > 1 and math.isclose(d, least, abs_tol=1e-12))
        for text, d in zip(texts, distances, strict=True)
    ]
