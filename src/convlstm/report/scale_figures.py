"""The figures by scale: the fractions skill score by window, power by wavelength, and two measures of fine scales."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from convlstm.report.charts import (
    Axis,
    Chart,
    Series,
    counting_axis,
    doubling_axis,
    draw_chart,
    value_axis,
    wavelength_axis,
)
from convlstm.report.figures import ChartGroup, method_slot
from convlstm.report.glossary import (
    FINE_SCALE_NOTES,
    SPECTRUM_NOTE,
    WINDOW_NOTE,
    interval_text,
    method_label,
    number,
)
from convlstm.report.results import Results
from convlstm.verification.spectra import OBSERVATION

OBSERVATION_SLOT = 6
"""Number of the colour and marker of the observation."""

_SPECTRUM_RANGE = 60.0  # dB below the strongest power: rounding errors of a smooth forecast are far below


def few_leads(results: Results) -> list[float]:
    """Return the first, the headline's and the last lead time in minutes, without repetition."""
    leads = results.lead_times
    return sorted({float(leads[0]), results.main_lead, float(leads[-1])})


def window_group(results: Results) -> ChartGroup | None:
    """Return charts of the fractions skill score by width of the window, one per threshold; None without a table."""
    if results.fss is None or results.fss.empty:
        return None
    lead = results.main_lead
    table = results.fss[np.isclose(results.fss["lead_time"], lead)]
    widths = np.log2(table["window"].to_numpy())
    low, high = float(widths.min()), float(widths.max())
    x = doubling_axis(low, max(high, low + 1), "Width of the window (cells)")
    y = value_axis(0.0, 1.0)
    charts = []
    for threshold in results.thresholds:
        title = results.evaluation.amount(threshold)
        rows = table[np.isclose(table["threshold"], threshold)]
        series = _series(results, rows, "window", np.log2, lambda width: f"{width:g} cells", results.methods)
        charts.append(draw_chart(title, f"FSS at {title} by width of the window. {_ends(series)}", series, x, y))
    return ChartGroup(f"FSS by window, {results.lead_unit.words(lead)} ahead", WINDOW_NOTE, charts)


def spectrum_groups(results: Results) -> list[ChartGroup]:
    """Return the charts of power by wavelength and of both measures of fine scales; empty without the tables."""
    groups = []
    if results.spectra is not None and results.spectra["power"].notna().any():
        unit = f", in {results.evaluation.bracketed_units.strip()}²" if results.evaluation.bracketed_units else ""
        note = f"{SPECTRUM_NOTE} Power is in dB: 10 · log10 of the mean square{unit}."
        groups.append(ChartGroup("Power spectra", note, _spectrum_charts(results, results.spectra)))
    if results.fine_scales is not None:
        for score, (title, note) in FINE_SCALE_NOTES.items():
            rows = results.fine_scales[results.fine_scales["score"] == score]
            if rows["value"].notna().any():
                text = note.format(patch=results.evaluation.patch_size)
                groups.append(ChartGroup(title, text, [_fine_scale_chart(results, title, rows)]))
    return groups


def spectrum_legend(results: Results) -> list[tuple[str, int]]:
    """Return labels and slots of the observation and the methods."""
    return [(_label(method), _slot(method, results)) for method in _with_observation(results)]


def _spectrum_charts(results: Results, table: pd.DataFrame) -> list[Chart]:
    known = table.dropna(subset="power")
    x = wavelength_axis(float(known["wavelength"].max()), float(known["wavelength"].min()), "Wavelength (cells)")
    high = float(known["power"].max())
    y = value_axis(max(float(known["power"].min()), high - _SPECTRUM_RANGE), high)
    charts = []
    for lead in few_leads(results):
        rows = known[np.isclose(known["lead_time"], lead)].rename(columns={"power": "value"})
        rows = rows.assign(lower=np.nan, upper=np.nan)
        series = _series(
            results,
            rows,
            "wavelength",
            lambda lengths: -np.log2(lengths),
            lambda length: f"{length:.3g} cells",
            _with_observation(results),
        )
        title = f"{results.lead_unit.words(lead)} ahead"
        drawn = [Series(s.label, s.slot, s.x, s.y, s.lower, s.upper) for s in series]  # too many points for markers
        charts.append(draw_chart(title, f"Power spectra {title}, in dB. {_ends(series)}", drawn, x, y))
    return charts


def _fine_scale_chart(results: Results, title: str, rows: pd.DataFrame) -> Chart:
    leads, unit = results.lead_times, results.lead_unit
    x = counting_axis(min(0.0, leads[0]), leads[-1], f"Lead time ({unit.short})", unit=unit.minutes, steps=unit.steps)
    series = _series(results, rows, "lead_time", np.asarray, unit.label, _with_observation(results))
    y = _axis_with_zero(rows["value"].to_numpy())
    return draw_chart("By lead time", f"{title}. {_ends(series)}", series, x, y)


def _series(
    results: Results,
    rows: pd.DataFrame,
    column: str,
    scale: Callable[[np.ndarray], np.ndarray],
    place_text: Callable[[float], str],
    methods: list[str],
) -> list[Series]:
    """Return one series per method with its values by a column; methods without rows are left out."""
    series = []
    for method in methods:
        x, y, lower, upper = (
            rows[rows["method"] == method]
            .sort_values(column)[[column, "value", "lower", "upper"]]
            .to_numpy(dtype=np.float64)
            .T
        )
        notes = tuple(
            f"{_label(method)}, {place_text(place)}: {interval_text(value, low, high, 2)}"
            for place, value, low, high in zip(x, y, lower, upper, strict=True)
        )
        if len(x):
            series.append(Series(_label(method), _slot(method, results), scale(x), y, lower, upper, notes))
    return series


def _with_observation(results: Results) -> list[str]:
    return [*results.methods, OBSERVATION]


def _label(method: str) -> str:
    return "Observation" if method == OBSERVATION else method_label(method)


def _slot(method: str, results: Results) -> int:
    return OBSERVATION_SLOT if method == OBSERVATION else method_slot(method, results.methods)


def _axis_with_zero(values: np.ndarray) -> Axis:
    finite = values[np.isfinite(values)]
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    return value_axis(low, high if high > low else low + 1)


def _ends(series: list[Series]) -> str:
    """Return the first and last value of each series, for screen readers."""
    return " ".join(f"{s.label}: from {number(s.y[0], 2)} to {number(s.y[-1], 2)}." for s in series)
