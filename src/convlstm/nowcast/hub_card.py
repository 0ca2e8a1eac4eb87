"""The texts of a folder of the Hugging Face Hub: its `config.json`, and its card with a YAML block in front."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from convlstm import __version__
from convlstm.nowcast.model_card import THIS_MODEL, CardNotes, card_notes, card_of
from convlstm.nowcast.pipeline import Pipeline
from convlstm.weights.canonical import parameter_count
from convlstm.weights.checkpoint import Model, kind_of

_NUMBER = re.compile(r"[+−-]?\d+(\.\d+)?(e[+-]?\d+)?(?=$| [\[(])", re.IGNORECASE)
_TASK = "time-series-forecasting"  # the nearest one in the Hub's list of tasks


def hub_config(model: Model) -> dict[str, Any]:
    """Return the content of `config.json`: options of the model, digest, and data pipeline of a training."""
    content: dict[str, Any] = {
        "library_name": "convlstm",
        "convlstm_version": __version__,
        "kind": kind_of(model.spec),
        "spec": model.spec.to_dict(),
        "digest": model.digest,
    }
    if "pipeline" in model.extra:
        content["pipeline"] = model.extra["pipeline"]
    return content


def hub_card(model: Model, path: object, repository: str, license: str | None) -> str:
    """Return the card of a model whose file has this path, with licence, tags and scores as YAML in front.

    `repository` is its name in the example. A model without a data pipeline has a short card.
    """
    if "pipeline" in model.extra:
        fields = _forecaster_fields(Pipeline.of_model(model, path), card_notes(model))
        text = card_of(model, path)
        lines = ["from convlstm.hub import from_pretrained", "", f'nowcaster = from_pretrained("{repository}")']
    else:
        fields = {"tags": ["convlstm"]}
        text = _short_card(model)
        imports = ["from convlstm.hub import snapshot", "from convlstm.torch import load"]
        lines = [*imports, "", f'{kind_of(model.spec)} = load(snapshot("{repository}"))']
    front: dict[str, Any] = {} if license is None else {"license": license}
    front |= {"library_name": "convlstm", **fields}
    block = yaml.safe_dump(front, allow_unicode=True, sort_keys=False, width=1000)
    example = "\n".join(["", "## In Python", "", "```python", *lines, "```", ""])
    return f"---\n{block}---\n\n{text}{example}"


def _short_card(model: Model) -> str:
    kind = kind_of(model.spec)
    facts = f"A {kind} of `convlstm` with {parameter_count(model.spec):,} parameters."
    return f"# ConvLSTM {kind}\n\n{facts}\n\nDigest of the weights: {model.digest}\n"


def _forecaster_fields(pipeline: Pipeline, notes: CardNotes) -> dict[str, Any]:
    """Return tags and scores of a trained forecaster, as the Hub names them."""
    fields: dict[str, Any] = {
        "pipeline_tag": _TASK,
        "tags": ["convlstm", "nowcasting", *pipeline.variables],
    }
    metrics = list(_metrics(notes))
    if metrics:
        data = {"name": notes.attribution or "test days", "type": "custom"}
        result = {"task": {"type": _TASK}, "dataset": data, "metrics": metrics}
        fields["model-index"] = [{"name": notes.title or "ConvLSTM", "results": [result]}]
    return fields


def _metrics(notes: CardNotes) -> Iterator[dict[str, Any]]:
    """Yield the scores of the model in the tables of its card, by table and column."""
    for table in notes.tables:
        if not table.title:
            continue
        scores = [row[1:] for row in table.rows if row[:1] == [THIS_MODEL]]
        for cells in scores:
            for column, cell in zip(table.columns[1:], cells, strict=False):
                number = _NUMBER.match(str(cell))
                if number is not None:
                    score = table.title.split()[0].lower()
                    yield {
                        "type": score,
                        "name": f"{table.title}, {column}",
                        "value": float(number[0].replace("−", "-")),
                    }
