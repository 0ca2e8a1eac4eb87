"""The main result in one sentence, computed from the table of scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from convlstm.verification.lead_times import lead_unit, signed

from .figures import method_slot
from .glossary import SCORES, Score, decimals, interval_text, method_label
from .results import BASELINES, Results
from .scales import round_ticks

_PREFERRED_THRESHOLD = 1.0  # mm/h: rain that people notice, and what nowcasting papers report


@dataclass(frozen=True)
class Bar:
    """One bar of the headline chart; positions are from 0 to 100 along its axis.

    Args:
        label: Name of the method.
        slot: Number of its colour and marker.
        text: Value with interval.
        value: Position of the value, or None where it is undefined.
        lower: Position of the lower end, or None.
        upper: Position of the upper end, or None.
    """

    label: str
    slot: int
    text: str
    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True)
class Headline:
    """The result.

    Args:
        sentence: The result in one sentence.
        caveat: Limitation of the result, or an empty text.
        title: Title of the bars.
        note: Meaning of the score.
        ticks: Positions and texts along the axis of the bars.
        bars: One per method.
    """

    sentence: str
    caveat: str
    title: str
    note: str
    ticks: list[tuple[float, str]]
    bars: list[Bar]


@dataclass(frozen=True)
class _Figure:
    method: str
    value: float
    lower: float
    upper: float
    cases: float
    text: str
    distance: float  # from perfect, after rounding: what reads the same is called level

    @property
    def label(self) -> str:
        return method_label(self.method)

    @property
    def name(self) -> str:
        """The method within a sentence: a baseline is a common noun, anything else a name."""
        return self.method if self.method in BASELINES else self.label


def headline_lead(results: Results) -> float:
    """Return the lead time of the headline: the nearest to half the horizon.

    Args:
        results: The evaluation.

    Returns:
        Lead time in minutes.
    """
    leads = results.lead_times
    return float(min(leads, key=lambda lead: abs(lead - leads[-1] / 2)))


def make_headline(results: Results) -> Headline:
    """Return the result as a sentence: CSI at 1 mm/h or the middle threshold, or RMSE without thresholds.

    Args:
        results: The evaluation.

    Returns:
        The sentence, its caveat, and the bars.
    """
    score, threshold = _choose(results)
    lead = headline_lead(results)
    figures = _figures(results, score, threshold, lead)
    when = lead_unit(results.lead_times).words(lead)
    event = "" if threshold is None else f" at {threshold:g}\N{NO-BREAK SPACE}{results.evaluation.units}"
    subject = score.label + event
    ticks = _axis(figures)
    return Headline(
        sentence=f"{when[0].upper()}{when[1:]} ahead, {_verdict(subject, figures[0], figures[1:])}",
        caveat=_caveat(figures),
        title=f"{subject}, {when} ahead",
        note=f"{score.definition} A perfect forecast has {score.perfect:g}.",
        ticks=[(_place(tick, ticks), signed(f"{tick:g}")) for tick in ticks],
        bars=[_bar(figure, method_slot(figure.method, results.methods), ticks) for figure in figures],
    )


def _choose(results: Results) -> tuple[Score, float | None]:
    evaluation, thresholds = results.evaluation, results.thresholds
    by_name = {score.name: score for score in SCORES}
    if not thresholds:
        return by_name["rmse"], None
    rates = evaluation.rain and evaluation.units == "mm/h"
    preferred = rates and _PREFERRED_THRESHOLD in thresholds
    return by_name["csi"], _PREFERRED_THRESHOLD if preferred else thresholds[len(thresholds) // 2]


def _figures(results: Results, score: Score, threshold: float | None, lead: float) -> list[_Figure]:
    rows = {m: results.numbers(score.name, threshold, m, lead) for m in results.methods}
    places = decimals(score, [row["value"] for row in rows.values()])
    unit = f"\N{NO-BREAK SPACE}{results.evaluation.units}" if threshold is None else ""
    return [
        _Figure(
            method=method,
            value=row["value"],
            lower=row["lower"],
            upper=row["upper"],
            cases=row["cases"],
            text=interval_text(row["value"], row["lower"], row["upper"], places) + unit,
            distance=score.distance(round(row["value"], places)),
        )
        for method, row in rows.items()
    ]


def _verdict(subject: str, model: _Figure, rivals: Sequence[_Figure]) -> str:
    if math.isnan(model.value):
        return f"{model.label}’s {subject} is undefined: the event was neither observed nor forecast."
    told = [(rival, _relation(model, rival)) for rival in rivals if math.isfinite(rival.value)]
    parts = []
    for relation in ("better than", "level with", "worse than"):
        group = [f"{rival.name} ({rival.text})" for rival, word in told if word == relation]
        if group:
            parts.append(f"{relation} {_list(group)}")
    return f"{model.label}’s {subject} is {', '.join([model.text, ' but '.join(parts)] if parts else [model.text])}."


def _relation(model: _Figure, rival: _Figure) -> str:
    if math.isclose(model.distance, rival.distance, abs_tol=1e-12):
        return "level with"
    return "better than" if model.distance < rival.distance else "worse than"


def _list(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


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
