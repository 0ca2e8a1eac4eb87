"""The maps of the page: the frames of the player, and still maps with their errors."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.report.embedding import Rounding, even_rounding, rain_rounding
from convlstm.report.figures import method_slot
from convlstm.report.georeference import Georeference, georeference
from convlstm.report.glossary import method_label
from convlstm.report.images import MapImage, draw_map
from convlstm.report.player import Choice, Panel, Player
from convlstm.report.results import Results
from convlstm.report.scales import Scale, error_scale, field_scale, rain_scale


@dataclass(frozen=True)
class Still:
    """One small map, with its description."""

    image: MapImage
    alt: str


@dataclass(frozen=True)
class CaseMaps:
    """The still maps of one case."""

    label: str  # number of the case, and its start
    leads: list[str]  # column headings
    fields: dict[str, list[Still]]  # rows of maps by field, observation first
    errors: dict[str, list[Still]]  # rows of error maps by method


class Atlas:
    """All maps of one evaluation, under two common colour scales."""

    def __init__(self, results: Results) -> None:
        self.results = results
        cases = results.cases
        self.scale: Scale = _field_scale(results)
        self._errors = (cases["forecast"] - cases["observation"]).transpose(*cases["forecast"].dims)
        self.error_scale: Scale = error_scale(
            self._errors.values, results.evaluation.units, rain=results.evaluation.is_rain_rate
        )
        self.places: Georeference = georeference(cases)

    @property
    def error_words(self) -> str:
        """The meaning of the colours of an error map."""
        if self.results.evaluation.is_rain_rate:
            return "brown where the forecast is too dry, green where it is too wet"
        return "blue where the forecast is too low, red where it is too high"

    @property
    def rounding_words(self) -> str:
        """How exact the values are that the player shows."""
        evaluation = self.results.evaluation
        if evaluation.is_rain_rate:
            return "Values are rounded to 0.01 mm/h, from 10 mm/h to 0.1 and from 100 mm/h to 1."
        return f"Values are rounded to {evaluation.amount(self._rounding().runs[0].step)}."

    def player(self, lead_time: float) -> Player:
        """Return the player of all cases, which starts at the lead time (minutes)."""
        cases, methods = self.results.cases, self.results.methods
        leads = [*cases["input_time"].values.tolist(), *cases["lead_time"].values.tolist()]
        inputs = cases.sizes["input_time"]
        first = inputs + int(np.abs(cases["lead_time"].values - lead_time).argmin())
        rounding = self._rounding()
        panels = [Panel("Observation", None)]
        panels += [Panel(method_label(m), method_slot(m, methods)) for m in methods]
        return Player(
            name="cases",
            choice_title="Case",
            shape=(cases.sizes["y"], cases.sizes["x"]),
            panels=panels,
            inputs=inputs,
            first=first,
            leads=leads,
            labels=[self._frame_label(lead) for lead in leads],
            roundings=[(rounding, self.results.evaluation.label)],
            choices=[self._choice(k, leads, rounding) for k in range(cases.sizes["case"])],
            stills=[still.image for still in self.stills(lead_time)],
            alts=[still.alt for still in self.stills(lead_time)],
        )

    def stills(self, lead_time: float) -> list[Still]:
        """Return the maps of the first case at the nearest lead time (minutes), for browsers without scripts.

        One map per panel, observation first.
        """
        lead = float(self.results.cases["lead_time"].sel(lead_time=lead_time, method="nearest"))
        return [row[0] for row in self._fields(0, np.array([lead])).values()]

    def case_maps(self) -> list[CaseMaps]:
        """Return observation, forecasts and errors of every case at up to four lead times."""
        leads = pick_leads(self.results.cases["lead_time"].values)
        labels = [self.results.lead_unit.label(lead) for lead in leads]
        return [
            CaseMaps(self.case_label(k), labels, self._fields(k, leads), self._error_rows(k, leads))
            for k in range(self.results.cases.sizes["case"])
        ]

    def case_label(self, case: int) -> str:
        """Return the name of a case, such as `Case 1: start 2018-05-18 14:05 UTC (best CSI)`."""
        reason = self.results.reasons[case]
        return f"Case {case + 1}: start {self._time(case, 0)}" + (f" ({reason})" if reason else "")

    def _rounding(self) -> Rounding:
        if self.results.evaluation.is_rain_rate:
            return rain_rounding(self.scale)
        cases = self.results.cases
        values = [cases[name].values.ravel() for name in ("inputs", "observation", "forecast")]
        return even_rounding(self.scale, np.concatenate(values))

    def _time(self, case: int, lead_time: float) -> str:
        start = self.results.cases["init_time"].to_index()[case]
        return str((start + timedelta(minutes=lead_time)).strftime("%Y-%m-%d %H:%M")) + " UTC"

    def _frame_label(self, lead_time: float) -> str:
        return ("+" if lead_time > 0 else "") + self.results.lead_unit.label(lead_time)

    def _choice(self, case: int, leads: list[float], rounding: Rounding) -> Choice:
        cases = self.results.cases.isel(case=case)
        observed = np.concatenate([cases["inputs"].values, cases["observation"].values])
        forecasts = (cases["forecast"].sel({"method": m}).values for m in self.results.methods)
        sheets = [rounding.encode(frames) for frames in (observed, *forecasts)]
        return Choice(self.case_label(case), 0, [self._time(case, lead) for lead in leads], sheets)

    def _fields(self, case: int, leads: NDArray[np.float64]) -> dict[str, list[Still]]:
        cases = self.results.cases.isel(case=case)
        rows = {"Observation": cases["observation"]}
        rows |= {method_label(m): cases["forecast"].sel({"method": m}) for m in self.results.methods}
        return {name: self._row(name, field, leads, self.scale) for name, field in rows.items()}

    def _error_rows(self, case: int, leads: NDArray[np.float64]) -> dict[str, list[Still]]:
        errors = self._errors.isel(case=case)
        return {
            method_label(m): self._row(
                f"{method_label(m)} minus observation", errors.sel({"method": m}), leads, self.error_scale
            )
            for m in self.results.methods
        }

    def _row(self, name: str, field: xr.DataArray, leads: NDArray[np.float64], scale: Scale) -> list[Still]:
        variable = self.results.evaluation.name
        return [
            Still(
                draw_map(field.sel(lead_time=lead).values, scale),
                f"{name}: map of {variable}, lead time {self.results.lead_unit.words(lead)}",
            )
            for lead in leads
        ]


def pick_leads(lead_times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return up to four lead times: all of them, or the last and those near 1/2, 1/4 and 1/12 of it."""
    if len(lead_times) <= 4:
        return lead_times
    targets = lead_times[-1] * np.array([1 / 12, 1 / 4, 1 / 2, 1])
    return np.unique([lead_times[np.abs(lead_times - target).argmin()] for target in targets])


def _field_scale(results: Results) -> Scale:
    if results.evaluation.is_rain_rate:
        return rain_scale(results.evaluation.units)
    observed = [results.cases["inputs"].values, results.cases["observation"].values]
    return field_scale(observed, results.evaluation.units)
