"""The main result in one sentence, computed from the table of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convlstm.report.figures import method_slot
from convlstm.report.glossary import SCORES, Score, decimals, interval_text, method_label, number
from convlstm.report.results import Results
from convlstm.report.scales import round_ticks
from convlstm.verification.evaluation_folder import BASELINES
from convlstm.verification.lead_times import signed

_MOST_LISTED = 4
_SPACE = "\N{NO-BREAK SPACE}"
_SKILL_NOTE = "Skill is 1 − RMSE / RMSE of the best baseline: 1 is perfect, 0 is no better, below 0 is worse."


@dataclass(frozen=True)
class Bar:
    """One bar of the headline chart; positions are from 0 to 100 along its axis, None where undefined."""

    label: str  # name of the method
    slot: int  # number of its colour and marker
    text: str  # value with interval
    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Headline:
    """The main result: one sentence, and a bar per method."""

    sentence: str
    caveat: str  # limitation of the result, or an empty text
    title: str  # title of the bars
    note: str  # meaning of the score
    ticks: list[tuple[float, str]]  # positions and texts along the axis of the bars
    bars: list[Bar]


@dataclass(frozen=True)
class _Figure:
    method: str
    value: float
    lower: float
    upper: float
    cases: float
    text: str
    distance: float  # from perfect, after rounding: values that print the same are called level

    @property
    def label(self) -> str:
        return method_label(self.method)

    @property
    def name(self) -> str:
        """The method within a sentence: a baseline is a common noun, anything else a name."""
        return self.method if self.method in BASELINES else self.label


def make_headline(results: Results) -> Headline:
    """Return the result as a sentence: CSI for rain, else RMSE and the skill that follows from it."""
    by_name = {score.name: score for score in SCORES}
    threshold, lead = results.main_threshold, results.main_lead
    score = by_name["rmse" if threshold is None else "csi"]
    figures = _figures(results, score, threshold, lead)
    when = results.lead_unit.words(lead)
    event = "" if threshold is None else f" at {results.evaluation.amount(threshold).replace(' ', _SPACE)}"
    subject = score.label + event
    ticks = _axis(figures)
    verdict = _verdict(subject, figures[0], figures[1:]) if threshold is not None else _skill(figures)
    note = f"{score.definition} A perfect forecast has {score.perfect:g}."
    return Headline(
        sentence=f"{when[0].upper()}{when[1:]} ahead, {verdict}",
        caveat=" ".join(filter(None, (_seen_days(results.evaluation.training_days), _caveat(figures)))),
        title=f"{subject}, {when} ahead",
        note=note if threshold is not None else f"{note} {_SKILL_NOTE}",
        ticks=[(_place(tick, ticks), signed(f"{tick:g}")) for tick in ticks],
        bars=[_bar(figure, method_slot(figure.method, results.methods), ticks) for figure in figures],
    )


def _seen_days(days: Sequence[str]) -> str:
    """Return the warning for days of the training, or an empty text."""
    if not days:
        return ""
    listed = ", ".join(days) if len(days) <= _MOST_LISTED else f"{len(days)} days from {days[0]} to {days[-1]}"
    return f"The model was trained or validated on {listed}, so that its scores are too good."


def _figures(results: Results, score: Score, threshold: float | None, lead: float) -> list[_Figure]:
    rows = {m: results.numbers(score.name, threshold, m, lead) for m in results.methods}
    places = decimals(score, [row["value"] for row in rows.values()])
    unit = results.evaluation.units if threshold is None and results.evaluation.bracketed_units else ""
    return [
        _Figure(
            method=method,
            value=row["value"],
            lower=row["lower"],
            upper=row["upper"],
            cases=row["cases"],
            text=interval_text(row["value"], row["lower"], row["upper"], places) + (_SPACE + unit if unit else ""),
            distance=score.distance(round(row["value"], places)),
        )
        for method, row in rows.items()
    ]


def _verdict(subject: str, model: _Figure, rivals: Sequence[_Figure]) -> str:
    if math.isnan(model.value):
        return f"{model.label}’s {subject} is undefined: the event was neither observed nor forecast."
    relations = [(rival, _relation(model, rival)) for rival in rivals if math.isfinite(rival.value)]
    comparisons = []
    for relation in ("better than", "level with", "worse than"):
        group = [f"{rival.name} ({rival.text})" for rival, other in relations if other == relation]
        if group:
            comparisons.append(f"{relation} {_list(group)}")
    comparison = f", {' but '.join(comparisons)}" if comparisons else ""
    return f"{model.label}’s {subject} is {model.text}{comparison}."


def _skill(figures: Sequence[_Figure]) -> str:
    """Return the RMSE of the model and its skill against the best baseline, then the other methods."""
    model, *rivals = figures
    baselines = [rival for rival in rivals if rival.method in BASELINES and rival.value > 0]
    if math.isnan(model.value) or not baselines:
        return _verdict("RMSE", model, rivals)
    best = min(baselines, key=lambda rival: rival.value)
    skill = 1.0 - model.value / best.value
    change = f"{abs(skill):.0%}".replace("%", f"{_SPACE}%")
    than = (
        "level with"
        if _relation(model, best) == "level with"
        else f"{change} {'below' if skill > 0 else 'above'} that of"
    )
    others = [rival for rival in rivals if rival is not best and math.isfinite(rival.value)]
    rest = f" The others: {_list([f'{rival.name} {rival.text}' for rival in others])}." if others else ""
    return (
        f"{model.label}’s typical error (RMSE) is {model.text}, {than} {best.name} ({best.text}), the best baseline: "
        f"a skill of {number(skill, 2)}.{rest}"
    )


def _relation(model: _Figure, rival: _Figure) -> str:
    if math.isclose(model.distance, rival.distance, abs_tol=1e-12):
        return "level with"
    return "better than" if model.distance < rival.distance else "worse than"


def _list(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _caveat(figures: Sequence[_Figure]) -> str:
    model, *rivals = figures
    parts = [f"{model.cases:.0f} forecasts were scored."] if math.isfinite(model.cases) else []
    close = [r.name for r in rivals if r.lower <= model.upper and model.lower <= r.upper]
    if close:
        parts.append(f"Its interval overlaps that of {_list(close)}: read the difference with care.")
    return " ".join(parts)


def _axis(figures: Sequence[_Figure]) -> tuple[float, ...]:
    ends = [x for f in figures for x in (f.value, f.lower, f.upper) if math.isfinite(x)]
    return round_ticks(min([0.0, *ends]), max(ends, default=1.0) or 1.0, most=4)


def _place(value: float, ticks: Sequence[float]) -> float:
    return round(100 * (value - ticks[0]) / (ticks[-1] - ticks[0]), 2)


def _bar(figure: _Figure, slot: int, ticks: Sequence[float]) -> Bar:
    value, lower, upper = (
        _place(x, ticks) if math.isfinite(x) else None for x in (figure.value, figure.lower, figure.upper)
    )
    return Bar(figure.label, slot, figure.text, value, lower, upper)
