"""Render the results with the template and write the page."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from convlstm.files import check_not_input, check_writable, write_atomic
from convlstm.report.case_tables import PartTable, case_table, day_table
from convlstm.report.charts import GEOMETRY, Chart, Geometry
from convlstm.report.decision_figures import ProbabilityMaps, decision_groups, probability_maps
from convlstm.report.description import Evaluation
from convlstm.report.ensemble_figures import ensemble_groups, ensemble_methods, ensemble_table, rank_group, roc_table
from convlstm.report.figures import ChartGroup, method_slot, score_groups, training_chart
from convlstm.report.glossary import DECISION_TERMS, ENSEMBLE_TERMS, SCORES, Score, method_label
from convlstm.report.headline import Headline, make_headline
from convlstm.report.maps import Atlas, CaseMaps
from convlstm.report.player import Player
from convlstm.report.probability_figures import lead_legend, reliability_groups
from convlstm.report.results import Results, read_results
from convlstm.report.scale_figures import spectrum_groups, spectrum_legend, window_group
from convlstm.report.score_map_player import score_player
from convlstm.report.tables import Table, details, differences, overview, uneven_samples
from convlstm.verification.evaluation_folder import FILES

_DATE = re.compile(r"(\d{4}-\d\d-\d\d)")

# Centred on a point; the first is for the method under test. Shapes differ so that colour is never needed.
_MARKERS = (
    "M-3.2,0a3.2,3.2 0 1 0 6.4,0a3.2,3.2 0 1 0 -6.4,0Z",
    "M-2.8,-2.8H2.8V2.8H-2.8Z",
    "M0,-3.6L3.4,2.6H-3.4Z",
    "M0,-3.9L3.9,0L0,3.9L-3.9,0Z",
    "M0,3.6L3.4,-2.6H-3.4Z",
    "M-1.1,-3.3H1.1V-1.1H3.3V1.1H1.1V3.3H-1.1V1.1H-3.3V-1.1H-1.1Z",
    "M-3.4,-1H3.4V1H-3.4Z",  # the observation
)


@dataclass(frozen=True)
class Page:
    """Everything that the template shows."""

    evaluation: Evaluation
    methods: list[tuple[str, int]]  # label, and number of the colour and marker
    headline: Headline
    atlas: Atlas
    player: Player
    score_player: Player | None
    case_maps: list[CaseMaps]
    groups: list[ChartGroup]
    window_group: ChartGroup | None
    spectrum_groups: list[ChartGroup]
    spectrum_legend: list[tuple[str, int]]
    reliability_groups: list[ChartGroup]
    lead_legend: list[tuple[str, int]]
    probability_maps: ProbabilityMaps | None
    decision_groups: list[ChartGroup]
    roc_table: Table | None
    ensemble_legend: list[tuple[str, int]]
    ensemble_groups: list[ChartGroup]
    rank_group: ChartGroup | None
    ensemble_table: Table | None
    terms: list[tuple[str, str]]  # further entries of the notes
    training: Chart | None
    overview: Table
    case_table: PartTable | None
    day_table: PartTable | None
    details: list[Table]
    differences: list[Table]
    uneven_samples: bool
    scores: list[Score]
    cells_per_pixel: int
    script: str
    style: str
    markers: tuple[str, ...] = _MARKERS
    geometry: Geometry = GEOMETRY

    @property
    def script_digest(self) -> str:
        """The SHA-256 of the script, for the content security policy."""
        return base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode()


def write_report(evaluation_folder: str | Path, output: str | Path) -> Path:
    """Write one self-contained HTML page of an evaluation folder, and return its path.

    Images, style and script are inside the page, and its content security policy forbids everything else. A file that
    is missing, cannot be read or does not fit the others is a `DataError`.
    """
    check_writable(output)
    check_not_input(output, *(Path(evaluation_folder) / name for name in FILES))
    page = _make_page(read_results(evaluation_folder))
    html = _environment().get_template("page.html.j2").render(page=page)
    return write_atomic(output, lambda path: path.write_text(html, encoding="utf-8"))


def _make_page(results: Results) -> Page:
    lead = results.main_lead
    atlas = Atlas(results)
    return Page(
        evaluation=results.evaluation,
        methods=[(method_label(m), method_slot(m, results.methods)) for m in results.methods],
        headline=make_headline(results),
        atlas=atlas,
        player=atlas.player(lead),
        score_player=score_player(results, lead),
        case_maps=atlas.case_maps(),
        groups=score_groups(results),
        window_group=window_group(results),
        spectrum_groups=spectrum_groups(results),
        spectrum_legend=spectrum_legend(results),
        reliability_groups=reliability_groups(results),
        lead_legend=lead_legend(results),
        probability_maps=probability_maps(results),
        decision_groups=decision_groups(results),
        roc_table=roc_table(results),
        ensemble_legend=[(method_label(m), method_slot(m, results.methods)) for m in ensemble_methods(results)],
        ensemble_groups=ensemble_groups(results),
        rank_group=rank_group(results),
        ensemble_table=ensemble_table(results),
        terms=_terms(results),
        training=training_chart(results.evaluation.training),
        overview=overview(results),
        case_table=case_table(results),
        day_table=day_table(results),
        details=details(results),
        differences=differences(results),
        uneven_samples=uneven_samples(results),
        scores=[s for s in SCORES if s.name in results.known_scores],
        cells_per_pixel=results.cells_per_pixel,
        script=_template_text("player.js"),
        style=_template_text("report.css"),
    )


def _terms(results: Results) -> list[tuple[str, str]]:
    """Return the entries of the notes on probabilities and ensembles, as far as the page has them."""
    terms = list(DECISION_TERMS) if results.roc is not None and not results.roc.empty else []
    return [*terms, *(ENSEMBLE_TERMS if ensemble_methods(results) else [])]


def _keep_dates(text: str) -> Markup:
    """Return a text as HTML in which no date breaks at its hyphens."""
    parts = _DATE.split(text)
    marked = [Markup('<span class="date">{}</span>').format(part) for part in parts[1::2]]
    return Markup("").join(part for pair in zip_longest(parts[::2], marked, fillvalue="") for part in pair)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("convlstm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["keep_dates"] = _keep_dates
    return environment


def _template_text(name: str) -> str:
    return (files("convlstm.report") / "templates" / name).read_text(encoding="utf-8")
