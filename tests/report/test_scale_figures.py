"""Figures by scale and of probabilities, from the tables that a scored forecast gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.errors import DataError
from convlstm.report import write_report
from convlstm.report.charts import wavelength_axis
from convlstm.report.probability_figures import lead_legend, reliability_groups
from convlstm.report.results import read_results
from convlstm.report.scale_figures import few_leads, spectrum_groups, spectrum_legend, window_group
from convlstm.report.tables import details
from convlstm.verification import case_sums, fss_table, reliability_table, score_forecasts, spectrum_tables

METHODS = ["convlstm", "optical flow", "persistence"]
LEADS = [5.0, 15.0, 30.0, 60.0]
THRESHOLDS = [0.1, 1.0, 5.0]


@pytest.fixture
def scored(make_evaluation):
    """An evaluation folder whose tables are scores of random fields, with probabilities of the model."""
    rng = np.random.default_rng(0)
    shape = (6, 4, 24, 24)
    coords = {"init_time": np.arange(6), "lead_time": LEADS}
    dims = ("init_time", "lead_time", "y", "x")
    observation = xr.DataArray(rng.gamma(0.5, 3.0, shape), dims=dims, coords=coords)
    forecast = xr.concat([observation * rng.gamma(k, 1 / k, shape) for k in (9.0, 3.0, 1.0)], "method")
    forecast = forecast.assign_coords(method=METHODS)
    chance = xr.concat([(observation >= t) * 0.6 + 0.2 for t in THRESHOLDS], "threshold")
    chance = chance.assign_coords(threshold=THRESHOLDS).transpose("init_time", "lead_time", "threshold", "y", "x")
    options = {"thresholds": THRESHOLDS, "probabilities": {"convlstm": chance}}
    folder = make_evaluation(scores=score_forecasts(forecast, observation, **options), patch_size=4)
    spectra, fine = spectrum_tables(forecast, observation, observation[:, 0], patch_size=4)
    tables = {
        "fss": fss_table(case_sums(forecast, observation, **options)),
        "spectra": spectra,
        "fine_scales": fine,
        "reliability": reliability_table({"convlstm": chance}, observation),
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder, tables


def test_fss_by_window_has_a_chart_per_threshold_with_the_values_of_the_table(scored):
    folder, tables = scored
    group = window_group(read_results(folder))
    assert group.title == "FSS by window, 30 minutes ahead"
    assert [chart.title for chart in group.charts] == ["0.1 mm/h", "1 mm/h", "5 mm/h"]
    (line,) = [line for line in group.charts[1].lines if line.label == "Optical flow"]
    rows = tables["fss"].query("lead_time == 30 and threshold == 1 and method == 'optical flow'")
    assert rows["window"].tolist() == [1, 5, 10, 20]
    heights = [172 - 162 * value for value in rows["value"]]
    assert [point[1] for point in line.points] == pytest.approx(heights, abs=0.051)
    assert line.points[1][2].startswith(f"Optical flow, 5 cells: {rows['value'].iloc[1]:.2f} [")


def test_spectra_of_the_observation_and_each_method(scored):
    results = read_results(scored[0])
    spectra, last_frame, patch = spectrum_groups(results)
    assert [chart.title for chart in spectra.charts] == ["5 minutes ahead", "30 minutes ahead", "60 minutes ahead"]
    labels = ["Observation", "Persistence", "Optical flow", "ConvLSTM"]
    assert [line.label for line in spectra.charts[0].lines] == labels
    assert [label for label, _ in spectrum_legend(results)] == labels[::-1]
    assert all(line.path.count("L") == 10 for line in spectra.charts[0].lines)  # eleven rings of 24 cells
    assert [line.label for line in last_frame.charts[0].lines] == labels
    assert "4 × 4 patches" in patch.note
    first = last_frame.charts[0].lines[0].points[0]
    assert first[2].startswith("Observation, 5 min: 1.00")  # the last frame of this fixture is the first observation


def test_reliability_is_drawn_over_the_diagonal(scored):
    results = read_results(scored[0])
    reliability, sharpness = reliability_groups(results)
    assert [label for label, _ in lead_legend(results)] == ["5 minutes ahead", "30 minutes ahead", "60 minutes ahead"]
    assert few_leads(results) == [5.0, 30.0, 60.0]
    chart = reliability.charts[0]
    assert chart.diagonal == "M44,172L328,10"
    # 0.2 never and 0.8 always
    assert [point[:2] for point in chart.lines[0].points] == [(100.8, 172.0), (271.2, 10.0)]
    assert len(sharpness.charts) == 3
    notes = [note for *_, note in sharpness.charts[0].lines[0].points]
    assert len(notes) == 2
    assert "forecast 0.8 to 0.9" in notes[1]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_sharpness_is_drawn_where_all_cells_have_one_probability(scored):
    folder, tables = scored
    table = tables["reliability"].copy()
    pixels = table.groupby(["method", "lead_time", "threshold"])["pixels"].transform("sum")
    table["pixels"] = pixels.where(table["bin_start"] == 0, 0)
    table.to_csv(folder / "reliability.csv", index=False)
    _, sharpness = reliability_groups(read_results(folder))
    first = next(note for *_, note in sharpness.charts[0].lines[0].points)
    assert first.endswith("100\N{NO-BREAK SPACE}% of the cells")


def test_the_sections_are_on_the_page_and_left_out_without_their_tables(scored, tmp_path):
    folder, tables = scored
    page = write_report(folder, tmp_path / "report.html").read_text()
    for part in ('id="probabilities"', 'id="spectra"', "FSS by window", ">HSS<", ">ETS<", ">Brier skill score<"):
        assert part in page
    tables["reliability"][:0].to_csv(folder / "reliability.csv", index=False)
    page = write_report(folder, tmp_path / "report.html").read_text()
    assert 'id="probabilities"' not in page
    assert 'href="#probabilities"' not in page
    for name in tables:
        (folder / f"{name}.csv").unlink()
    page = write_report(folder, tmp_path / "report.html").read_text()
    assert 'id="spectra"' not in page
    assert "FSS by window" not in page


def test_details_have_the_skill_scores(scored):
    table = details(read_results(scored[0]))[1]
    assert table.columns[:9] == [
        *("CSI", "HSS", "ETS", "FSS", "POD", "FAR", "Frequency bias", "Brier score", "Brier skill score"),
    ]


@pytest.mark.parametrize("name", ["fss", "spectra", "fine_scales", "reliability"])
def test_a_damaged_table_is_refused(scored, name):
    folder, tables = scored
    path = folder / f"{name}.csv"
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"method\nconvlstm\n",
        tables[name].iloc[:-1].to_csv(index=False).encode(),
    ):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{name}\.csv"):
            read_results(folder)


def test_wavelengths_fall_from_left_to_right():
    axis = wavelength_axis(96, 2.1, "")
    assert [text for _, text in axis.ticks] == ["64", "32", "16", "8", "4"]
    assert axis.share(-np.log2(np.array([96.0, 2.1]))).tolist() == [0.0, 1.0]
    assert pd.Series([value for value, _ in axis.ticks]).is_monotonic_increasing
