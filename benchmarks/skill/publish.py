"""Put a trained model and its scores into the package, as the model that `convlstm forecast` uses without a run.

    python -m benchmarks.skill.publish RUN SCORES.json

RUN is the folder of `convlstm train --config benchmarks/skill/second_stage.yaml`, and SCORES.json the result of
benchmarks/skill/score.py on its model. The reading options of the training data are left out: other files have others.

Rivals that SCORES.json does not have keep their rows of the card before, if every rival of both has the same numbers
there: the starts, the observations and the cuts of the rivals are then the same. Their differences are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

from convlstm.nowcast.model_card import CARD, THIS_MODEL
from convlstm.nowcast.models import shipped_model
from convlstm.weights.checkpoint import load_model, save_model

TITLE = "Radar rain up to one hour ahead"
ATTRIBUTION = (
    "Datenbasis: Deutscher Wetterdienst (DWD), RADOLAN YW; eigene Bearbeitung. "
    "DWD open data (GeoNutzV, attribution required), taken from pycomlink 0.6.0 (BSD-3-Clause)"
)
USE = (
    "`convlstm forecast rain.nc -o forecast.nc` reads rain in any unit of rain, at 5-minute steps on a grid of about "
    "1 km, and at least six frames. It writes the probability of each threshold, a field, the mean and quantiles."
)
LIMITS = (
    "- Trained on seven days of May 2018 in one region of Germany. Snow, hail, other seasons, other regions and "
    "other radars are untested.\n"
    "- The motion is constant over the hour. Rain that forms outside the grid is forecast from what is near its edge.\n"
    "- Cells of 10 mm/h or more are rare in the training. Their probabilities are less certain than those of light "
    "rain.\n"
    "- It knows nothing of satellites, of terrain, or of a weather model. Beyond one hour it was never scored."
)
LABELS = {
    "model": THIS_MODEL,
    "persistence": "persistence",
    "optical_flow": "optical flow",
    "lk_extrapolation": "LK extrapolation",
    "sprog": "S-PROG",
    "anvil": "ANVIL",
    "linda": "LINDA-D",
    "steps_exceedance": "STEPS, 24 members",
    "lagrangian_probability": "Lagrangian probability",
}


def main() -> None:
    """Write the model file of the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("scores", type=Path)
    options = parser.parse_args()
    model = load_model(options.run)
    scores = json.loads(options.scores.read_text())
    if scores["digest"] != model.digest:
        raise SystemExit(f"the scores are of the weights {scores['digest']}, not of {model.digest}")
    extra = copy.deepcopy(model.extra)
    extra["pipeline"] |= {"variables": ["rainfall_rate"], "grid_spacing": 1000.0}
    extra["provenance"]["config"]["data"]["units"] = None
    path = shipped_model()
    extra[CARD] = with_other_rivals(card(scores), load_model(path).extra[CARD])
    save_model(path, model.spec, model.weights, extra)
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


def card(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of the model file that `convlstm model card` prints."""
    note = (
        f"{scores['starts']} forecasts from frames with rain on over 5 % of the cells, on days that nothing was "
        "chosen on. Intervals hold 90 % of the draws of a bootstrap over cases. Missing cells are left out."
    )
    tables = [
        csi_table(scores, threshold, f"{note} The cut of every method was tuned on 17 May." if threshold == 1 else "")
        for threshold in (0.1, 1.0, 5.0)
    ]
    tables.append(rmse_table(scores))
    tables.append(difference_table(scores))
    tables.append(reliability_table(scores))
    return {"title": TITLE, "attribution": ATTRIBUTION, "sections": {"Use": USE, "Limits": LIMITS}, "tables": tables}


def with_other_rivals(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Return the new card with the rows of CSI and RMSE of the rivals that only the old one has."""
    before = {table["title"]: table for table in old["tables"]}
    tables = []
    for table in new["tables"]:
        if not table["title"].startswith(("CSI ≥", "RMSE")) or "minus" in table["title"]:
            tables.append(table)
            continue
        rows = {row[0]: row for row in table["rows"]}
        kept = {row[0]: row for row in before[table["title"]]["rows"] if row[0] != LABELS["model"]}
        changed = [name for name in kept.keys() & rows.keys() if kept[name] != rows[name]]
        if changed:
            raise SystemExit(f"{table['title']}: other numbers than before for {', '.join(sorted(changed))}")
        both = kept | rows
        tables.append(table | {"rows": [both[name] for name in LABELS.values() if name in both]})
    return new | {"tables": tables}


def csi_table(scores: dict[str, Any], threshold: float, note: str) -> dict[str, Any]:
    """Return CSI by method and lead time, with intervals for this model."""
    rows = [row for row in scores["tuned"] if row["score"] == "csi" and row["threshold"] == threshold]
    return {"title": f"CSI ≥ {threshold:g} mm/h", "note": note} | by_lead(rows)


def rmse_table(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the error of the mean by method and lead time."""
    rows = [row for row in scores["plain"] if row["score"] == "rmse"]
    return {"title": "RMSE in mm/h", "note": "Of the mean field of this model."} | by_lead(rows)


def by_lead(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return columns and rows of a table: one row per method, one column per lead time."""
    leads = sorted({row["lead_time"] for row in rows})
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = {row["lead_time"]: row for row in rows if row["method"] == method}
        table.append([LABELS[method], *(cell(of_method[lead], interval=method == "model") for lead in leads)])
    return {"columns": ["method", *(f"{lead:g} min" for lead in leads)], "rows": table}


def cell(row: dict[str, Any], *, interval: bool) -> str:
    """Return a value, with its interval if asked for."""
    text = f"{row['value']:.3f}"
    return f"{text} ({row['lower']:.3f} to {row['upper']:.3f})" if interval else text


def difference_table(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the differences of CSI at 1 mm/h between this model and each rival, with intervals."""
    chosen = [row for row in scores["differences"] if row["threshold"] == 1.0]
    leads = sorted({row["lead_time"] for row in chosen})
    rows = []
    for other in dict.fromkeys(row["other"] for row in chosen):
        of_other = {row["lead_time"]: row for row in chosen if row["other"] == other}
        cells = [of_other[lead] for lead in leads]
        texts = [f"{c['difference']:+.3f} ({c['lower']:+.3f} to {c['upper']:+.3f})" for c in cells]
        rows.append([LABELS[other], *texts])
    return {
        "title": "CSI ≥ 1 mm/h: this model minus a rival",
        "columns": ["rival", *(f"{lead:g} min" for lead in leads)],
        "rows": rows,
    }


def reliability_table(scores: dict[str, Any]) -> dict[str, Any]:
    """Return forecast probability and observed frequency at 30 minutes, by threshold."""
    rows = [row for row in scores["reliability"] if row["lead_time"] == 30 and row["pixels"]]
    table = []
    for row in rows:
        total = sum(r["pixels"] for r in rows if r["threshold"] == row["threshold"])
        share = f"{100 * row['pixels'] / total:.1f} %"
        table.append([f"{row['threshold']:g}", f"{row['probability']:.2f}", f"{row['frequency']:.2f}", share])
    return {
        "title": "Reliability at 30 minutes",
        "columns": ["threshold in mm/h", "forecast probability", "observed frequency", "share of cells"],
        "rows": table,
    }


if __name__ == "__main__":
    main()
