"""The card of a model: what it forecasts, from which data, how well, and where its limits are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from convlstm.errors import WeightsError
from convlstm.nowcast.nowcaster import event_rules
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.provenance import Provenance
from convlstm.spec.forecaster import ForecasterSpec
from convlstm.weights.canonical import parameter_count
from convlstm.weights.checkpoint import Model, load_model

CARD = "card"
"""Name of the entry in a model file with what its metadata cannot tell: scores, limits, and the source of the data."""

THIS_MODEL = "this model"
"""First cell of the row of a score table that has the scores of the model itself."""


class ScoreTable(BaseModel):
    """A table of the card."""

    title: str
    columns: list[str]
    rows: list[list[str | float]]
    note: str = ""


class CardNotes(BaseModel):
    """The entry `card` of a model file."""

    title: str = ""
    attribution: str = ""
    sections: dict[str, str] = {}
    tables: list[ScoreTable] = []


def card_notes(model: Model) -> CardNotes:
    """Return the entry `card` of a model file, or raise an error if it is damaged."""
    try:
        return CardNotes.model_validate(model.extra.get(CARD, {}))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (CARD, *first["loc"])))
        raise WeightsError(
            f"the entry {place} of the model file",
            expected=first["msg"][0].lower() + first["msg"][1:],
            received=type(first["input"]).__name__,
            hint="Use an undamaged copy of the file. Forecasts do not read this entry.",
        ) from error


def model_card(path: object) -> str:
    """Return the card of a model file as Markdown."""
    return card_of(load_model(str(path)), path)


def card_of(model: Model, path: object) -> str:
    """Return the card of a model whose file has this path, as Markdown."""
    pipeline = Pipeline.of_model(model, path)
    notes = card_notes(model)
    lines = [f"# {notes.title or 'Forecaster of ' + ', '.join(pipeline.variables)}", ""]
    lines += _table(("property", "value"), _facts(model, pipeline, notes))
    for heading, text in notes.sections.items():
        lines += ["", f"## {heading}", "", text]
    for table in notes.tables:
        lines += ["", f"## {table.title}", "", *_table(table.columns, table.rows)]
        if table.note:
            lines += ["", table.note]
    if model.extra.get("events"):
        lines += ["", "## Cuts", "", *_cuts(model, pipeline)]
    return "\n".join(lines) + "\n"


def _facts(model: Model, pipeline: Pipeline, notes: CardNotes) -> Iterator[tuple[str, str]]:
    assert isinstance(model.spec, ForecasterSpec)
    provenance = Provenance.of_model(model)
    step = f"{pipeline.time_step / 60:g} min"
    yield "forecasts", f"{', '.join(pipeline.variables)} in {pipeline.units}"
    if model.spec.thresholds:
        thresholds = ", ".join(f"{value:g}" for value in model.spec.thresholds)
        yield "output", f"probability of {thresholds} {pipeline.units} or more; fields follow from these"
    yield "input", f"{pipeline.input_length} frames, {step} apart"
    if pipeline.grid_spacing is not None:
        yield "grid", f"spacing of about {pipeline.grid_spacing / 1000:g} km, any size"
    yield (
        "lead times",
        f"{step} to {pipeline.horizon * pipeline.time_step / 60:g} min in training; later ones on request",
    )
    if pipeline.frame == "moving":
        yield "frame", "moves with the rain along the optical flow at the start"
    yield "parameters", f"{parameter_count(model.spec):,}"
    for name, days in pipeline.days.items():
        if days:
            yield f"{name} days", ", ".join(days)
    if notes.attribution:
        yield "source of the data", notes.attribution
    yield "trained with", f"convlstm {provenance.version}, seed {provenance.seed}"
    if provenance.started_from:
        yield "training started from the weights", provenance.started_from
    yield "digest of the weights", model.digest


def _cuts(model: Model, pipeline: Pipeline) -> list[str]:
    """Return the table of the probabilities from which on an event is forecast."""
    rules = event_rules(model)
    columns = ["lead time", *(f"≥ {threshold:g} {pipeline.units}" for threshold in rules.thresholds)]
    minutes = pipeline.time_step / 60
    rows = [(f"{minutes * step:g} min", *(f"{cut:g}" for cut in cuts)) for step, cuts in enumerate(rules.cuts, start=1)]
    return list(_table(columns, rows))


def _table(columns: Sequence[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
