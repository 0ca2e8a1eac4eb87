"""The figures of a page: every score by lead time, and the training curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from convlstm.report.charts import Axis, Chart, Series, counting_axis, draw_chart, log_axis, value_axis
from convlstm.report.description import TrainingStep
from convlstm.report.glossary import SCORES, Score, decimals, interval_text, method_label
from convlstm.report.results import Results
from convlstm.verification.evaluation_folder import BASELINES

MOST_POINTS = 300  # of a training curve: about one per pixel

# A baseline has the same colour on every page.
_BASELINE_SLOTS = dict(zip(BASELINES, (1, 2), strict=True))
_FREE_SLOTS = (0, 3, 4, 5)


@dataclass(frozen=True)
class ChartGroup:
    """A group of charts of one kind."""

    title: str
    note: str  # one line on how to read them
    charts: list[Chart]


def method_slot(method: str, methods: Sequence[str]) -> int:
    """Return the number of the colour and marker of a method, from 0 to 5, the same in every figure."""
    if method in _BASELINE_SLOTS:
        return _BASELINE_SLOTS[method]
    return _FREE_SLOTS[[m for m in methods if m not in BASELINES].index(method) % len(_FREE_SLOTS)]


def score_groups(results: Results) -> list[ChartGroup]:
    """Return the charts by lead time in reading order: one group per score in the table, and one for all errors."""
    evaluation = results.evaluation
    groups, errors = [], []
    for score in SCORES:
        if not score.charted:
            continue
        if score.by_threshold:
            sets = {evaluation.amount(t): _series(results, score, t) for t in results.thresholds}
            note = score.definition.format(window=evaluation.fss_window)
            groups.append(ChartGroup(score.label, note, _score_charts(results, score, sets)))
        else:
            errors += _score_charts(results, score, {score.label: _series(results, score, None)})
    note = "RMSE and mean absolute error are best at 0; a mean error above 0 is a forecast too high."
    groups.insert(1, ChartGroup(f"Error{evaluation.bracketed_units}", note, errors))
    return [group for group in groups if group.charts]


def training_chart(training: Sequence[TrainingStep]) -> Chart | None:
    """Return the chart of loss and validation loss over the training steps; None without a log.

    The axis is logarithmic if the loss spans more than a factor of twenty.
    """
    log = pd.DataFrame([step.model_dump() for step in training], columns=list(TrainingStep.model_fields))
    log = log.astype("float64")
    curves = [_loss(log, "validation_loss", "Validation loss", 0), _loss(log, "loss", "Training loss", 2)]
    series = [curve for curve in curves if len(curve.x)]
    if not series:
        return None
    summary = " ".join(
        f"{s.label}: {s.y[0]:.3g} at first, {s.y[-1]:.3g} at last, lowest {s.y.min():.3g} at step "
        f"{s.x[s.y.argmin()]:.0f}."
        for s in series
    )
    values = np.concatenate([s.y for s in series])
    steps = counting_axis(float(log["step"].min()), float(log["step"].max()), "Training step")
    axis = value_axis(min(0.0, float(values.min())), float(values.max()))
    if values.min() > 0 and values.max() > 20 * values.min():
        series = [Series(s.label, s.slot, s.x, np.log10(s.y), s.lower, s.upper) for s in series]
        axis = log_axis(float(np.log10(values.min())), float(np.log10(values.max())))
    return draw_chart("Loss", summary, series, steps, axis)


def _series(results: Results, score: Score, threshold: float | None) -> list[Series]:
    """Return one series per method in the table."""
    unit = results.lead_unit
    series = []
    for method in results.methods:
        rows = results.select(score.name, threshold, method)
        x, y, lower, upper = rows[["lead_time", "value", "lower", "upper"]].to_numpy(dtype=np.float64).T
        places = decimals(score, y)
        notes = tuple(
            f"{method_label(method)}, {unit.label(lead)}: {interval_text(value, low, high, places)}"
            for lead, value, low, high in zip(x, y, lower, upper, strict=True)
        )
        slot = method_slot(method, results.methods)
        series.append(Series(method_label(method), slot, x, y, lower, upper, notes))
    return [s for s in series if len(s.x)]


def _score_charts(results: Results, score: Score, sets: dict[str, list[Series]]) -> list[Chart]:
    """Return charts with one common vertical axis, so that thresholds can be compared."""
    sets = {title: series for title, series in sets.items() if series}
    if not sets:
        return []
    leads, unit = results.lead_times, results.lead_unit
    title = f"Lead time ({unit.short})"
    x = counting_axis(min(0.0, leads[0]), leads[-1], title, unit=unit.minutes, steps=unit.steps)
    y = _score_axis(score, [s for series in sets.values() for s in series])
    reference = score.perfect if y.start < score.perfect < y.stop else None
    charts = []
    for title, series in sets.items():
        name = f"{score.label} at {title}" if score.by_threshold else title
        ends = ". ".join(f"{s.notes[0]}; {s.notes[-1]}" for s in series)
        charts.append(draw_chart(title, f"{name}. {ends}.", series, x, y, reference=reference))
    return charts


def _score_axis(score: Score, series: list[Series]) -> Axis:
    """Return the axis from zero to the largest value; it includes 1 if 1 is not an end of the range of the score."""
    values = np.concatenate([s.y for s in series])
    ends = np.concatenate([end for s in series for end in (s.lower, s.upper)])
    values, ends = values[np.isfinite(values)], ends[np.isfinite(ends)]
    if values.size == 0:
        return value_axis(0.0, 1.0)
    reach = 1.5 * float(np.abs(values).max())  # one extreme interval must not flatten every line
    shown = np.concatenate([values, np.clip(ends, -reach, reach), [0.0]])
    if score.name == "bias":
        shown = np.append(shown, 1.0)
    low, high = float(shown.min()), float(shown.max())
    return value_axis(low, high if high > low else low + 1)


def _loss(log: pd.DataFrame, column: str, label: str, slot: int) -> Series:
    known = log.loc[np.isfinite(log[column]), ["step", column]]
    block = max(1, -(-len(known) // MOST_POINTS))
    x, y = known.groupby(np.arange(len(known)) // block).mean().to_numpy(dtype=np.float64).T
    none = np.full(len(x), np.nan)
    return Series(label, slot, x, y, none, none)
