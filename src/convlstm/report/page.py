"""Render the results with the template and write the page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from convlstm.files import check_not_input, check_writable, write_atomic

from . import charts
from .figures import method_slot, score_groups, training_chart
from .glossary import SCORES, method_label
from .headline import headline_lead, make_headline
from .maps import Atlas
from .results import Results, read_results
from .tables import details, overview, uneven_samples

# Centred on a point; the first is for the method under test. Shapes differ so that colour is never needed.
_MARKERS = (
    "M-3.2,0a3.2,3.2 0 1 0 6.4,0a3.2,3.2 0 1 0 -6.4,0Z",
    "M-2.8,-2.8H2.8V2.8H-2.8Z",
    "M0,-3.6L3.4,2.6H-3.4Z",
    "M0,-3.9L3.9,0L0,3.9L-3.9,0Z",
    "M0,3.6L3.4,-2.6H-3.4Z",
    "M-1.1,-3.3H1.1V-1.1H3.3V1.1H1.1V3.3H-1.1V1.1H-3.3V-1.1H-1.1Z",
)


def write_report(evaluation_folder: str | Path, output: str | Path) -> Path:
    """Write one self-contained HTML page of an evaluation.

    Images, style and script are inside the page, and its content security policy forbids everything else.
    No score is computed here.

    Args:
        evaluation_folder: Folder with `scores.csv`, `cases.nc` and `evaluation.json`, as `evaluate` writes it.
        output: The file to write; an existing page is replaced atomically.

    Returns:
        The path written.

    Raises:
        DataError: if one of the three files is missing, cannot be read, or does not fit the others.
        OutputError: if the page cannot be written.

    Example:
        >>> write_report("no/such/folder", "report.html")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        convlstm.errors.DataError: no/such/folder/evaluation.json: expected a readable JSON file, got ...
    """
    check_writable(output)
    check_not_input(output, *(Path(evaluation_folder) / name for name in ("scores.csv", "cases.nc", "evaluation.json")))
    page = _render(read_results(evaluation_folder))
    return write_atomic(output, lambda path: path.write_text(page, encoding="utf-8"))


def _render(results: Results) -> str:
    lead = headline_lead(results)
    atlas = Atlas(results)
    script = _template_text("player.js")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            evaluation=results.evaluation,
            methods=[(method_label(m), method_slot(m, results.methods)) for m in results.methods],
            headline=make_headline(results),
            atlas=atlas,
            player=atlas.player(lead),
            stills=atlas.stills(lead),
            case_maps=atlas.case_maps(),
            groups=score_groups(results),
            training=training_chart(results.evaluation.training),
            overview=overview(results),
            details=details(results),
            uneven_samples=uneven_samples(results),
            scores=[s for s in SCORES if not s.by_threshold or results.thresholds],
            cells_per_pixel=results.cells_per_pixel,
            geometry=charts,
            markers=_MARKERS,
            style=_template_text("report.css"),
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("convlstm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template_text(name: str) -> str:
    return (files("convlstm.report") / "templates" / name).read_text(encoding="utf-8")
