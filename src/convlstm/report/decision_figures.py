"""The figures of events at each probability: ROC, performance diagram and economic value, and maps of probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convlstm.report.charts import Axis, Chart, Guide, Series, counting_axis, draw_chart, ratio_axis, value_axis
from convlstm.report.figures import ChartGroup, method_slot
from convlstm.report.glossary import (
    PERFORMANCE_NOTE,
    PROBABILITY_MAP_NOTE,
    ROC_NOTE,
    VALUE_NOTE,
    interval_text,
    method_label,
    number,
)
from convlstm.report.images import draw_map
from convlstm.report.maps import Still
from convlstm.report.probability_figures import MIN_CELLS
from convlstm.report.results import Results
from convlstm.report.scales import Scale, probability_scale

_MARKED_CUTS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Cuts with a marker; a marker for each would hide the line."""

_EQUAL_CSI = (0.1, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class ProbabilityMaps:
    """Maps of the probability of each threshold for the first case."""

    title: str
    note: str  # how to read them
    scale: Scale
    columns: list[str]  # the thresholds
    rows: dict[str, list[Still]]  # the observation, then the methods with probabilities


def decision_groups(results: Results) -> list[ChartGroup]:
    """Return ROC curves, performance diagrams and economic values, one chart per threshold; empty without the tables.

    All are at the lead time of the headline.
    """
    lead = results.main_lead
    when = f"{results.lead_unit.words(lead)} ahead"
    groups = []
    if results.cuts is not None and not results.cuts.empty:
        rows = results.cuts[np.isclose(results.cuts["lead_time"], lead)]
        share = value_axis(0.0, 1.0)
        x = counting_axis(0.0, 1.0, "False alarm rate (POFD)")
        roc = _charts(results, rows, lambda title, part: _curve(results, part, title, x, share, "pofd"))
        groups.append(ChartGroup(f"ROC curves, {when} (upwards: POD)", ROC_NOTE, roc))
        x = counting_axis(0.0, 1.0, "Success ratio (1 − FAR)")
        rows = rows[rows["hits"] + rows["false_alarms"] >= MIN_CELLS]
        diagram = _charts(results, rows, lambda title, part: _curve(results, part, title, x, share, "success_ratio"))
        groups.append(ChartGroup(f"Performance diagrams, {when} (upwards: POD)", PERFORMANCE_NOTE, diagram))
    if results.economic_value is not None and not results.economic_value.empty:
        rows = results.economic_value[np.isclose(results.economic_value["lead_time"], lead)]
        charts = _charts(results, rows, lambda title, part: _value_chart(results, part, title))
        groups.append(ChartGroup(f"Economic value, {when}", VALUE_NOTE, charts))
    return groups


def probability_maps(results: Results) -> ProbabilityMaps | None:
    """Return the maps of the first case; None if no method has probabilities."""
    if "probability" not in results.cases:
        return None
    cases = results.cases
    lead = float(cases["probability_lead_time"])
    observed = cases["observation"].isel(case=0).sel(lead_time=lead).values
    thresholds = cases["threshold"].values.tolist()
    scale, when = probability_scale(), results.lead_unit.words(lead)
    labels = [f"{results.evaluation.amount(threshold)} or more" for threshold in thresholds]
    events = [np.where(np.isnan(observed), np.nan, observed >= threshold) for threshold in thresholds]
    rows = {
        "Observation": [
            Still(draw_map(event, scale), f"Observed: {label}, {when} ahead")
            for event, label in zip(events, labels, strict=True)
        ]
    }
    for method in cases["probability_method"].values.tolist():
        rows[method_label(method)] = [
            Still(
                draw_map(cases["probability"].sel(probability_method=method).isel(threshold=place).values, scale),
                f"{method_label(method)}: probability of {label}, {when} ahead",
            )
            for place, label in enumerate(labels)
        ]
    start = cases["init_time"].to_index()[0].strftime("%Y-%m-%d %H:%M")
    title = f"Case 1: start {start} UTC, {when} ahead"
    return ProbabilityMaps(title, PROBABILITY_MAP_NOTE, scale, labels, rows)


def _charts(results: Results, rows: pd.DataFrame, draw: Callable[[str, pd.DataFrame], Chart]) -> list[Chart]:
    """Return a chart for each threshold of a table."""
    return [
        draw(results.evaluation.amount(threshold), rows[rows["threshold"] == threshold])
        for threshold in np.unique(rows["threshold"])
    ]


def _curve(results: Results, rows: pd.DataFrame, title: str, x: Axis, y: Axis, column: str) -> Chart:
    """Return the chart of POD by another rate, with one line per method."""
    series = []
    for method in results.methods:
        part = rows[rows["method"] == method].sort_values("cut")
        if part.empty:
            continue
        across, pod, cuts = (part[name].to_numpy(dtype=np.float64) for name in (column, "pod", "cut"))
        notes = _curve_notes(method, cuts, across, pod, x.title)
        if column == "pofd" and len(cuts) > 1:  # the curve begins at "always" and ends at "never"
            across, pod, notes = np.r_[1.0, across, 0.0], np.r_[1.0, pod, 0.0], ("", *notes, "")
        none = np.full(len(across), np.nan)
        slot = method_slot(method, results.methods)
        series.append(Series(method_label(method), slot, across, pod, none, none, notes))
    summary = f"POD by {x.title}, {title}. {_middles(series)}"
    guides = [_equal_csi(csi) for csi in _EQUAL_CSI] if column == "success_ratio" else []
    return draw_chart(title, summary, series, x, y, diagonal=column == "pofd", guides=guides)


def _curve_notes(
    method: str, cuts: NDArray[np.float64], across: NDArray[np.float64], pod: NDArray[np.float64], title: str
) -> tuple[str, ...]:
    """Return the text of each point, empty for points without a marker."""
    marked = {int(np.abs(cuts - mark).argmin()) for mark in _MARKED_CUTS}
    notes = []
    for place, (cut, x, y) in enumerate(zip(cuts, across, pod, strict=True)):
        rule = "event forecast" if len(cuts) == 1 else f"probability of {cut:.2g} or more"
        text = f"{method_label(method)}, {rule}: POD {number(y, 2)}, {title} {number(x, 2)}"
        notes.append(text if place in marked else "")
    return tuple(notes)


def _middles(series: list[Series]) -> str:
    """Return the middle point of each series, for screen readers."""
    return " ".join(note for s in series for note in [next((n for n in s.notes if " 0.5 " in n or "event" in n), "")])


def _equal_csi(csi: float) -> Guide:
    """Return the line of equal CSI in a performance diagram: 1 / CSI = 1 / success ratio + 1 / POD − 1."""
    ratio = np.linspace(1.0, csi, 40)
    return Guide(f"{csi:g}", ratio, 1.0 / (1.0 / csi + 1.0 - 1.0 / ratio))


def _value_chart(results: Results, rows: pd.DataFrame, title: str) -> Chart:
    x = ratio_axis(float(np.log10(rows["cost_loss_ratio"].min())), "Cost/loss ratio")
    y = value_axis(0.0, 1.0)
    with_cuts = set(results.reliability["method"]) if results.reliability is not None else set()
    series = []
    for method in results.methods:
        part = rows[rows["method"] == method].sort_values("cost_loss_ratio")
        if part["value"].notna().sum() == 0:
            continue
        values, lower, upper = (part[name].to_numpy(dtype=np.float64) for name in ("value", "lower", "upper"))
        notes = tuple(_value_note(method, row, has_cuts=method in with_cuts) for _, row in part.iterrows())
        slot = method_slot(method, results.methods)
        place = np.log10(part["cost_loss_ratio"].to_numpy(dtype=np.float64))
        series.append(Series(method_label(method), slot, place, values, lower, upper, notes))
    best = " ".join(f"{s.label}: at most {number(float(np.nanmax(s.y)), 2)}." for s in series)
    return draw_chart(title, f"Economic value by cost/loss ratio, {title}. {best}", series, x, y)


def _value_note(method: str, row: pd.Series, *, has_cuts: bool) -> str:
    """Return the text of a point; a method without probabilities has one cut, which says nothing."""
    value = interval_text(row["value"], row["lower"], row["upper"], 2)
    text = f"{method_label(method)}, cost/loss ratio {row['cost_loss_ratio']:g}: {value}"
    if not has_cuts:
        return text
    return f"{text}; with warnings from a probability of {row['cut']:.2g} {number(row['value_at_ratio'], 2)}"
