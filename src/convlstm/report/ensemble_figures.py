"""The figures and the table of ensembles: CRPS, spread against error, and rank histograms."""

from __future__ import annotations

import numpy as np
import pandas as pd

from convlstm.report.charts import Chart, Series, counting_axis, draw_chart, value_axis
from convlstm.report.figures import ChartGroup, method_slot
from convlstm.report.glossary import CRPS_NOTE, RANK_NOTE, SPREAD_NOTE, interval_text, method_label, number
from convlstm.report.probability_figures import lead_legend
from convlstm.report.results import Results
from convlstm.report.scale_figures import few_leads
from convlstm.report.tables import Cell, Row, Table
from convlstm.verification.ensembles import FLAT_SCORE

_COLUMNS = {
    "crps": "CRPS",
    "spread_error_ratio": "Spread / error",
    "rank_bias": "Rank bias",
    "rank_convexity": "Rank convexity",
}
_PLAIN_COLUMNS = {"spread": "Spread", "error": "Error of the mean", "mean_error": "Mean error"}
"""Columns without intervals, which would make the table wider than a page."""


def ensemble_methods(results: Results) -> list[str]:
    """Return the methods with an ensemble; empty without the table."""
    if results.ensembles is None:
        return []
    known = set(results.ensembles["method"])
    return [method for method in results.methods if method in known]


def ensemble_groups(results: Results) -> list[ChartGroup]:
    """Return the charts of CRPS and of spread by error, by lead time; empty without ensembles."""
    if not ensemble_methods(results):
        return []
    crps = _by_lead(results, "crps", f"CRPS{results.evaluation.bracketed_units}")
    ratio = _by_lead(results, "spread_error_ratio", "Spread / error", reference=1.0)
    return [ChartGroup("CRPS", CRPS_NOTE, [crps]), ChartGroup("Spread and error", SPREAD_NOTE, [ratio])]


def rank_group(results: Results) -> ChartGroup | None:
    """Return the rank histograms, one chart per method; None without ensembles."""
    methods = ensemble_methods(results)
    if not methods or results.ranks is None:
        return None
    table = results.ranks
    highest = float(np.nanmax([1.0, *table["share"].to_numpy(dtype=np.float64)]))
    charts = []
    for method in methods:
        rows = table[table["method"] == method]
        members = int(rows["members"].iloc[0])
        series = []
        for (label, slot), lead in zip(lead_legend(results), few_leads(results), strict=True):
            part = rows[np.isclose(rows["lead_time"], lead)].sort_values("rank")
            x, y, lower, upper = (part[name].to_numpy(dtype=np.float64) for name in ("rank", "share", "lower", "upper"))
            notes = tuple(
                f"{label}, {rank:.0f} of {members} members below: {interval_text(value, low, high, 2)}"
                for rank, value, low, high in zip(x, y, lower, upper, strict=True)
            )
            series.append(Series(label, slot, x, y, lower, upper, notes))
        x_axis = counting_axis(0.0, float(members), "Members below the observation")
        title = f"{method_label(method)}, {members} members"
        ends = " ".join(f"{s.label}: {number(s.y[0], 2)} below all, {number(s.y[-1], 2)} above all." for s in series)
        y_axis = value_axis(0.0, highest)
        charts.append(draw_chart(title, f"Rank histogram of {title}. {ends}", series, x_axis, y_axis, reference=1.0))
    return ChartGroup("Rank histograms", RANK_NOTE, charts)


def ensemble_table(results: Results) -> Table | None:
    """Return the scores of the ensembles with intervals, and whether each rank histogram is flat; None without any."""
    methods = ensemble_methods(results)
    if not methods or results.ensembles is None:
        return None
    by_key = results.ensembles.set_index(["method", "lead_time", "score"])
    rows = []
    for lead in results.lead_times:
        for place, method in enumerate(methods):
            scores = by_key.loc[(method, lead)]
            cells = [_cell(scores.loc[score]) for score in _COLUMNS]
            cells += [Cell(_flat(scores)), *(Cell(number(scores.loc[score, "value"], 3)) for score in _PLAIN_COLUMNS)]
            cells += [Cell(f"{scores[size].iloc[0]:.0f}") for size in ("members", "cases")]
            spans = 0 if place else len(methods)
            rows.append(Row(results.lead_unit.label(lead), method_label(method), cells, spans))
    columns = [*_COLUMNS.values(), "Flat histogram", *_PLAIN_COLUMNS.values(), "Members", "Cases"]
    return Table(f"Ensembles{results.evaluation.bracketed_units}", [], columns, rows)


def roc_table(results: Results) -> Table | None:
    """Return the areas under the ROC curves of methods with probabilities; None without the table."""
    if results.roc is None or results.roc.empty:
        return None
    with_curve = set(results.reliability["method"]) if results.reliability is not None else set()
    methods = [method for method in results.methods if method in with_curve]
    thresholds = np.unique(results.roc["threshold"]).tolist()
    keys = results.roc[["method", "lead_time", "threshold"]].itertuples(index=False, name=None)
    by_key = dict(zip(keys, (_cell(row) for _, row in results.roc.iterrows()), strict=True))
    rows = []
    for lead in results.lead_times:
        places = [(method, float(lead), threshold) for threshold in thresholds for method in methods]
        cells = [by_key.get(place, Cell("–")) for place in places]
        rows.append(Row(results.lead_unit.label(lead), "", cells))
    groups = [(results.evaluation.amount(threshold), len(methods)) for threshold in thresholds]
    return Table("ROC area", groups, [method_label(method) for method in methods] * len(thresholds), rows)


def _by_lead(results: Results, score: str, title: str, *, reference: float | None = None) -> Chart:
    assert results.ensembles is not None
    table, unit = results.ensembles[results.ensembles["score"] == score], results.lead_unit
    series = []
    for method in ensemble_methods(results):
        part = table[table["method"] == method].sort_values("lead_time")
        x, y, lower, upper = (
            part[name].to_numpy(dtype=np.float64) for name in ("lead_time", "value", "lower", "upper")
        )
        notes = tuple(
            f"{method_label(method)}, {unit.label(lead)}: {interval_text(value, low, high, 3)}"
            for lead, value, low, high in zip(x, y, lower, upper, strict=True)
        )
        series.append(Series(method_label(method), method_slot(method, results.methods), x, y, lower, upper, notes))
    leads = results.lead_times
    x_axis = counting_axis(
        min(0.0, leads[0]), leads[-1], f"Lead time ({unit.short})", unit=unit.minutes, steps=unit.steps
    )
    ends = np.concatenate([end for s in series for end in (s.y, s.upper)])
    known = ends[np.isfinite(ends)]
    highest = max([float(known.max()) if known.size else 1.0, reference or 0.0])
    summary = " ".join(f"{s.notes[0]}; {s.notes[-1]}." for s in series)
    y_axis = value_axis(0.0, highest if highest > 0 else 1.0)
    return draw_chart(title, f"{title}. {summary}", series, x_axis, y_axis, reference=reference)


def _cell(row: pd.Series) -> Cell:
    return Cell(interval_text(row["value"], row["lower"], row["upper"], 3))


def _flat(scores: pd.DataFrame) -> str:
    """Return whether the histogram is called flat; a dash without intervals, and for folders of earlier versions."""
    value = float(scores["value"].get(FLAT_SCORE, np.nan))
    if np.isnan(value):
        return "–"
    return "yes" if value else "no"
