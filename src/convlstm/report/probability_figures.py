"""The reliability diagrams of forecasts that are probabilities, with their sharpness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from convlstm.report.charts import Chart, Series, counting_axis, draw_chart, log_axis, value_axis
from convlstm.report.figures import ChartGroup
from convlstm.report.glossary import RELIABILITY_NOTE, SHARPNESS_NOTE, count, interval_text, method_label, number
from convlstm.report.results import Results
from convlstm.report.scale_figures import few_leads

_LEAD_SLOTS = (0, 3, 4)  # colours that no baseline has
MIN_CELLS = 30  # the frequency of an event in fewer cells says nothing


def reliability_groups(results: Results) -> list[ChartGroup]:
    """Return the diagrams of each method with probabilities, one chart per threshold; empty if there is none."""
    table = results.reliability
    if table is None or table.empty:
        return []
    groups = []
    for method, rows in table.groupby("method", sort=False):
        name = method_label(str(method))
        parts = {float(t): rows[rows["threshold"] == t] for t in np.unique(rows["threshold"])}
        reliability = [_reliability_chart(results, threshold, part) for threshold, part in parts.items()]
        sharpness = [_sharpness_chart(results, threshold, part) for threshold, part in parts.items()]
        groups.append(ChartGroup(f"Reliability of {name}", RELIABILITY_NOTE, reliability))
        groups.append(ChartGroup(f"Sharpness of {name}", SHARPNESS_NOTE, sharpness))
    return groups


def lead_legend(results: Results) -> list[tuple[str, int]]:
    """Return labels and slots of the lead times in the diagrams."""
    words = [f"{results.lead_unit.words(lead)} ahead" for lead in few_leads(results)]
    return list(zip(words, _LEAD_SLOTS, strict=False))


def _reliability_chart(results: Results, threshold: float, rows: pd.DataFrame) -> Chart:
    title = _title(results, threshold)

    def note(row: pd.Series) -> str:
        frequency = interval_text(row["frequency"], row["lower"], row["upper"], 2)
        return f"forecast {number(row['probability'], 2)}, observed {frequency}, {count(row['pixels'])} cells"

    filled = rows[rows["pixels"] >= MIN_CELLS]
    series = _series(results, filled, ("probability", "frequency", "lower", "upper"), note)
    x, y = counting_axis(0.0, 1.0, "Forecast probability"), value_axis(0.0, 1.0)
    return draw_chart(title, f"Observed frequency by forecast probability, {title}.", series, x, y, diagonal=True)


def _sharpness_chart(results: Results, threshold: float, rows: pd.DataFrame) -> Chart:
    title = _title(results, threshold)
    cells = rows.groupby("lead_time")["pixels"].transform("sum")
    share = rows["pixels"] / cells
    rows = rows.assign(
        share=np.log10(share.where(share > 0)),
        percent=100 * share,
        centre=(rows["bin_start"] + rows["bin_end"]) / 2,
        none=np.nan,
    )

    def note(row: pd.Series) -> str:
        percent = f"{row['percent']:.3g}\N{NO-BREAK SPACE}% of the cells"
        return f"forecast {row['bin_start']:.1f} to {row['bin_end']:.1f}: {percent}"

    series = _series(results, rows, ("centre", "share", "none", "none"), note)
    known = rows["share"].dropna()
    y = log_axis(min(float(known.min()), -1.0) if len(known) else -1.0, 0.0)  # all cells may have one probability
    x = counting_axis(0.0, 1.0, "Forecast probability")
    return draw_chart(title, f"Share of cells by forecast probability, {title}.", series, x, y)


def _series(
    results: Results, rows: pd.DataFrame, columns: tuple[str, str, str, str], note: Callable[[pd.Series], str]
) -> list[Series]:
    """Return one series per lead time with the columns of position, value and both bounds."""
    series = []
    for (label, slot), lead in zip(lead_legend(results), few_leads(results), strict=True):
        part = rows[np.isclose(rows["lead_time"], lead)].sort_values("bin_start")
        x, y, lower, upper = (part[column].to_numpy(dtype=np.float64) for column in columns)
        notes = tuple(f"{label}: {note(row)}" for _, row in part.iterrows())
        if len(x):
            series.append(Series(label, slot, x, y, lower, upper, notes))
    return series


def _title(results: Results, threshold: float) -> str:
    return results.evaluation.amount(threshold)
