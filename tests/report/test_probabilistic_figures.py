"""Figures of warnings and ensembles: curves, maps and tables from tables made up here."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from convlstm.errors import DataError
from convlstm.report.charts import GEOMETRY, ratio_axis
from convlstm.report.decision_figures import decision_groups, probability_maps
from convlstm.report.ensemble_figures import ensemble_groups, ensemble_table, rank_group, roc_table
from convlstm.report.results import read_results
from convlstm.report.scales import probability_scale

LEADS = (5.0, 15.0, 30.0, 60.0)
SCORES = ("crps", "spread", "error", "spread_error_ratio", "mean_error", "rank_bias", "rank_convexity", "rank_flat")


def write_tables(folder):
    """Write the tables of a model with probabilities, persistence, and an ensemble of the model."""
    cuts, values, areas, ensembles, ranks, reliability = [], [], [], [], [], []
    for lead in LEADS:
        for method, levels in (("convlstm", (0.1, 0.5, 0.9)), ("persistence", (1.0,))):
            key = {"method": method, "lead_time": lead, "threshold": 1.0, "cases": 24}
            for cut in levels:
                # no forecast event at the highest cut, whose success ratio is undefined
                counts = {"hits": 0 if cut == 0.9 else 40, "false_alarms": 0 if cut == 0.9 else 40}
                rates = {"pod": 1 - cut / 2, "pofd": (1 - cut) / 2, "success_ratio": np.nan if cut == 0.9 else 0.5}
                cuts.append(key | {"cut": cut} | counts | rates)
            areas.append(key | {"value": 0.8, "lower": 0.7, "upper": 0.9})
            for ratio in (0.01, 0.1):
                numbers = {"value": 0.4, "lower": 0.3, "upper": 0.5, "cut": levels[0], "value_at_ratio": 0.35}
                values.append(key | {"cost_loss_ratio": ratio} | numbers)
        for start in np.arange(10) / 10:
            row = {"method": "convlstm", "lead_time": lead, "threshold": 1.0, "cases": 24, "pixels": 50}
            numbers = {"bin_start": start, "bin_end": start + 0.1, "probability": start, "frequency": start}
            reliability.append(row | numbers | {"lower": start, "upper": start})
        key = {"method": "convlstm", "lead_time": lead, "members": 4, "cases": 24, "pixels": 100}
        for score in SCORES:
            value = float(lead <= 15) if score == "rank_flat" else 0.6
            ensembles.append(key | {"score": score, "value": value, "lower": value - 0.1, "upper": value + 0.1})
        for rank in range(5):
            ranks.append(key | {"rank": rank, "share": 1.5 if rank == 4 else 0.875, "lower": 0.5, "upper": 1.8})
    names = ("cuts", "economic_value", "roc", "ensembles", "ranks", "reliability")
    for name, rows in zip(names, (cuts, values, areas, ensembles, ranks, reliability), strict=True):
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


@pytest.fixture
def folder(make_evaluation, synthetic_cases):
    observed = synthetic_cases["observation"].isel(case=0, lead_time=2).values
    maps = np.stack([np.where(observed >= 1, 0.95, 0.05), np.full(observed.shape, np.nan)])
    cases = synthetic_cases.assign(
        probability=(("probability_method", "threshold", "y", "x"), maps[None].astype(np.float32))
    ).assign_coords(probability_method=["convlstm"], threshold=[1.0, 5.0], probability_lead_time=30.0)
    path = make_evaluation(cases=cases)
    write_tables(path)
    return path


def test_curves_at_the_lead_time_of_the_headline(folder):
    roc, diagram, value = decision_groups(read_results(folder))
    assert [group.title.split(",")[0] for group in (roc, diagram, value)] == [
        "ROC curves",
        "Performance diagrams",
        "Economic value",
    ]
    assert "30 minutes ahead" in roc.title
    (chart,) = roc.charts
    model = next(line for line in chart.lines if line.label == "ConvLSTM")
    left, right = GEOMETRY.left, GEOMETRY.width - GEOMETRY.right
    top, bottom = GEOMETRY.top, GEOMETRY.height - GEOMETRY.bottom
    # from "always" in the upper right corner to "never" in the lower left one
    assert model.path.startswith(f"M{right:g},{top:g}L")
    assert model.path.endswith(f"L{left:g},{bottom:g}")
    assert len(model.points) == 3
    assert "probability of 0.5 or more: POD 0.75" in model.points[1][2]
    persistence = next(line for line in chart.lines if line.label == "Persistence")
    assert [note for *_, note in persistence.points] == [
        "Persistence, event forecast: POD 0.50, False alarm rate (POFD) 0.00"
    ]


def test_a_performance_diagram_has_lines_of_equal_csi_and_leaves_rare_forecasts_out(folder):
    chart = decision_groups(read_results(folder))[1].charts[0]
    assert [text for *_, text in chart.guides] == ["0.1", "0.2", "0.4", "0.6", "0.8"]
    model = next(line for line in chart.lines if line.label == "ConvLSTM")
    assert len(model.points) == 2
    assert "nan" not in model.path


def test_a_value_says_what_the_best_and_the_chosen_cut_give(folder):
    chart = decision_groups(read_results(folder))[2].charts[0]
    model = next(line for line in chart.lines if line.label == "ConvLSTM")
    assert model.points[0][2].startswith("ConvLSTM, cost/loss ratio 0.01: 0.40 [0.30,")
    assert model.points[0][2].endswith("with warnings from a probability of 0.1 0.35")
    persistence = next(line for line in chart.lines if line.label == "Persistence")
    assert "warnings" not in persistence.points[0][2]


def test_the_chosen_cut_of_an_ensemble_may_be_all_members(folder):
    path = folder / "economic_value.csv"
    table = pd.read_csv(path)
    table.loc[table["method"] == "convlstm", "cut"] = 1.0
    table.to_csv(path, index=False)
    chart = decision_groups(read_results(folder))[2].charts[0]
    model = next(line for line in chart.lines if line.label == "ConvLSTM")
    assert model.points[0][2].endswith("with warnings from a probability of 1 0.35")


def test_maps_of_probabilities_next_to_the_observed_events(folder, shows):
    results = read_results(folder)
    maps = probability_maps(results)
    assert maps.columns == ["1 mm/h or more", "5 mm/h or more"]
    assert list(maps.rows) == ["Observation", "ConvLSTM"]
    assert "30 minutes ahead" in maps.title
    alts = [still.alt for row in maps.rows.values() for still in row]
    assert alts[0] == "Observed: 1 mm/h or more, 30 minutes ahead"
    assert alts[3] == "ConvLSTM: probability of 5 mm/h or more, 30 minutes ahead"
    scale, observed = probability_scale(), results.cases["observation"].isel(case=0, lead_time=2).values
    for still, threshold in zip(maps.rows["Observation"], (1.0, 5.0), strict=True):
        assert shows(still.image, (observed >= threshold).astype(float), scale)
    at_1, at_5 = maps.rows["ConvLSTM"]
    assert shows(at_1.image, np.where(observed >= 1.0, 0.95, 0.05), scale)
    assert shows(at_5.image, np.full(observed.shape, np.nan), scale)
    # 0.95 has the colour of an observed event
    assert scale.classify(np.array([0.0, 1.0, 0.95, np.nan])).tolist() == [0, 10, 10, 11]


def test_ensembles_have_charts_histograms_and_a_verdict_on_flatness(folder):
    results = read_results(folder)
    assert [group.title for group in ensemble_groups(results)] == ["CRPS", "Spread and error"]
    ratio = ensemble_groups(results)[1].charts[0]
    assert ratio.reference is not None
    (histogram,) = rank_group(results).charts
    assert histogram.title == "ConvLSTM, 4 members"
    assert "4 of 4 members below: 1.50" in histogram.lines[0].points[-1][2]
    table = ensemble_table(results)
    flat = table.columns.index("Flat histogram")
    assert [row.cells[flat].text for row in table.rows] == ["yes", "yes", "no", "no"]
    areas = roc_table(results)
    assert areas.columns == ["ConvLSTM"]
    assert areas.rows[0].cells[0].text.startswith("0.800 [0.700,")


def test_a_folder_without_probabilities_and_ensembles_has_none_of_them(make_results):
    results = make_results()
    assert decision_groups(results) == []
    assert ensemble_groups(results) == []
    assert probability_maps(results) is rank_group(results) is ensemble_table(results) is roc_table(results) is None


def test_maps_that_do_not_fit_are_refused(make_evaluation, synthetic_cases):
    chance = xr.DataArray(np.zeros((1, 24, 24)), dims=("probability_method", "y", "x"))
    with pytest.raises(DataError, match="probability on probability_method"):
        read_results(make_evaluation(cases=synthetic_cases.assign(probability=chance)))
    chance = chance.expand_dims(threshold=[1.0]).assign_coords(probability_method=["m"], probability_lead_time=7.0)
    with pytest.raises(DataError, match="one of the lead times"):
        read_results(make_evaluation(cases=synthetic_cases.assign(probability=chance)))


def test_ticks_of_ratios_are_1_2_and_5():
    axis = ratio_axis(-2.0, "Cost/loss ratio")
    assert [text for _, text in axis.ticks] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
