"""The player of the maps of scores: one panel for each method, with a choice of scores."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.report.embedding import Rounding, even_rounding
from convlstm.report.figures import method_slot
from convlstm.report.glossary import method_label
from convlstm.report.images import draw_map
from convlstm.report.player import Choice, Panel, Player
from convlstm.report.results import Results
from convlstm.report.scales import Scale, error_scale, field_scale, ratio_scale


def score_player(results: Results, lead_time: float) -> Player | None:
    """Return the player of the score maps, which starts at the lead time (minutes); None without maps."""
    maps = results.score_maps
    if maps is None:
        return None
    leads = maps["lead_time"].values.tolist()
    first = int(np.abs(maps["lead_time"].values - lead_time).argmin())
    roundings: list[tuple[Rounding, str]] = []
    choices = []
    for label, title, field, scale in _fields(results, maps):
        roundings.append((even_rounding(scale, field.values), title))
        sheets = [roundings[-1][0].encode(_on_pixels(results, field.sel({"method": m}))) for m in results.methods]
        choices.append(Choice(label, len(roundings) - 1, [], sheets))
    label, _, field, scale = _fields(results, maps)[0]
    when = results.lead_unit.words(leads[first])
    return Player(
        name="scores",
        choice_title="Score",
        shape=(results.cases.sizes["y"], results.cases.sizes["x"]),
        panels=[Panel(method_label(m), method_slot(m, results.methods)) for m in results.methods],
        inputs=0,
        first=first,
        leads=leads,
        labels=[f"+{results.lead_unit.label(lead)}" for lead in leads],
        roundings=roundings,
        choices=choices,
        stills=[
            draw_map(_on_pixels(results, field.sel({"method": m}).isel(lead_time=first)), scale)
            for m in results.methods
        ],
        alts=[f"{method_label(m)}: map of {label}, lead time {when}" for m in results.methods],
    )


def _on_pixels(results: Results, field: xr.DataArray) -> NDArray[np.float64]:
    """Return the values of blocks on the map pixels of the cases, which the coordinates and lines belong to."""
    values: NDArray[np.float64] = field.isel(results.blocks).values
    return values


def _fields(results: Results, maps: xr.Dataset) -> list[tuple[str, str, xr.DataArray, Scale]]:
    """Return the name of each choice, the title of its colour bar, its values and their colours; main score first."""
    evaluation = results.evaluation
    fields = []
    for place, threshold in enumerate(maps["threshold"].values.tolist()):
        at = f"at {evaluation.amount(threshold)}"
        csi = maps["csi"].isel(threshold=place)
        fields.append((f"CSI {at}", f"CSI {at} (1 is perfect)", csi, _from_zero(csi, "")))
        bias = maps["bias"].isel(threshold=place)
        title = f"Frequency bias {at} (1 is perfect; below 1 the event is forecast too rarely)"
        fields.append((f"Frequency bias {at}", title, bias, ratio_scale()))
    unit = evaluation.bracketed_units
    fields.append(
        (f"RMSE{unit}", f"RMSE{unit} (0 is perfect)", maps["rmse"], _from_zero(maps["rmse"], evaluation.units))
    )
    error = maps["mean_error"]
    title = f"Mean error{unit} (0 is perfect; above 0 the forecast is too high)"
    scale = error_scale(error.values, evaluation.units, rain=False)
    fields.append((f"Mean error{unit}", title, error, scale))
    main = f"RMSE{unit}" if results.main_threshold is None else f"CSI at {evaluation.amount(results.main_threshold)}"
    return sorted(fields, key=lambda entry: entry[0] != main)


def _from_zero(values: xr.DataArray, units: str) -> Scale:
    """Return a continuous scale from 0 to the largest values."""
    shown = values.values.ravel()
    return field_scale([np.append(shown, np.zeros(1 + shown.size // 50))], units)
