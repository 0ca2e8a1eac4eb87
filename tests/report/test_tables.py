"""Tables against the numbers of scores.csv."""

import pytest

from convlstm.errors import DataError
from convlstm.report.results import read_results
from convlstm.report.tables import details, differences, overview, uneven_samples


def plain(text):
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{THIN SPACE}", " ")


def test_overview_has_csi_and_rmse_of_each_method(make_results, synthetic_scores):
    table = overview(make_results())
    assert table.groups == [("CSI at 0.1 mm/h", 3), ("CSI at 1 mm/h", 3), ("CSI at 5 mm/h", 3), ("RMSE (mm/h)", 3)]
    assert table.columns == ["ConvLSTM", "Optical flow", "Persistence"] * 4
    assert [row.lead for row in table.rows] == ["5 min", "15 min", "30 min", "60 min"]
    expected = []
    at_30 = synthetic_scores[synthetic_scores["lead_time"] == 30]
    for score, threshold in (("csi", 0.1), ("csi", 1.0), ("csi", 5.0), ("rmse", None)):
        rows = at_30[(at_30["score"] == score) & ((at_30["threshold"] == threshold) | (threshold is None))]
        values = rows.set_index("method")["value"]
        places = 3 if score == "rmse" else 2  # the largest RMSE is 0.75: three significant figures
        expected += [f"{values[m]:.{places}f}" for m in ("convlstm", "optical flow", "persistence")]
    assert [cell.text for cell in table.rows[2].cells] == expected
    assert expected[3:6] == ["0.45", "0.41", "0.30"]


def test_the_best_is_marked_in_the_sense_of_each_score(make_results):
    table = details(make_results())[1]  # 1 mm/h
    assert table.title == "1 mm/h or more"
    assert table.columns[:5] == ["CSI", "FSS", "POD", "FAR", "Frequency bias"]
    at_60 = {row.method: row.cells for row in table.rows[9:]}
    assert [at_60[m][0].best for m in ("ConvLSTM", "Optical flow", "Persistence")] == [True, False, False]
    assert [at_60[m][3].best for m in ("ConvLSTM", "Optical flow", "Persistence")] == [True, False, False]
    assert plain(at_60["ConvLSTM"][0].text) == "0.38 [0.34, 0.43]"  # 0.45 / 2^(1/4)
    assert plain(at_60["ConvLSTM"][3].text) == "0.62 [0.58, 0.67]"  # FAR is one less that: smaller is better


def test_frequency_bias_is_best_nearest_to_one(make_results):
    rows = details(make_results(skill={"convlstm": 0.9, "persistence": 0.4}))[1].rows
    bias = {row.method: row.cells[4] for row in rows if row.cells and row in rows[4:6]}
    assert (bias["ConvLSTM"].text.split()[0], bias["Persistence"].text.split()[0]) == ("1.80", "0.80")
    assert (bias["ConvLSTM"].best, bias["Persistence"].best) == (False, True)


def test_what_reads_the_same_is_marked_the_same(make_results):
    rows = overview(make_results(skill={"convlstm": 0.4512, "persistence": 0.4488})).rows
    assert [(c.text, c.best) for c in rows[2].cells[2:4]] == [("0.45", True), ("0.45", True)]


def test_counts_and_errors(make_results):
    tables = details(make_results())
    assert [t.title for t in tables] == ["0.1 mm/h or more", "1 mm/h or more", "5 mm/h or more", "Error (mm/h)"]
    assert tables[0].columns[5:] == ["Hits", "Misses", "False alarms", "Correct negatives", "Cases", "Cells"]
    assert [plain(c.text) for c in tables[0].rows[0].cells[5:]] == ["60", "20", "30", "890", "24", "1 000"]
    assert tables[3].columns == ["RMSE", "MAE", "Mean error", "Cases", "Cells"]
    persistence_30 = next(row for row in tables[3].rows[6:9] if row.method == "Persistence")
    assert [plain(c.text) for c in persistence_30.cells] == [
        "0.700 [0.660, 0.750]",
        "0.350 [0.310, 0.400]",
        "−0.110 [−0.150, −0.060]",
        "24",
        "1 000",
    ]
    assert [row.spans for row in tables[3].rows[:4]] == [3, 0, 0, 3]


def test_a_row_that_is_missing_is_a_dash(make_results, synthetic_scores):
    gone = synthetic_scores.query("not (method == 'convlstm' and lead_time == 30 and score == 'csi')")
    cells = overview(make_results(scores=gone)).rows[2].cells
    assert [(c.text, c.best) for c in cells[3:5]] == [("–", False), ("0.41", True)]


def test_different_samples_are_noticed(make_results, synthetic_scores):
    assert not uneven_samples(make_results())
    synthetic_scores.loc[synthetic_scores["method"] == "optical flow", "pixels"] = 900
    assert uneven_samples(make_results(scores=synthetic_scores))


@pytest.mark.parametrize("skill", [{"convlstm": 0.4}])
def test_alone_nobody_is_best(make_results, skill):
    assert not any(cell.best for row in overview(make_results(skill=skill)).rows for cell in row.cells)


def test_differences_are_bold_where_the_interval_excludes_zero(make_results):
    skill = {"convlstm": 0.45, "optical flow": 0.41, "persistence": 0.30}
    flow, last = differences(make_results(skill=skill))
    assert (flow.title, last.title) == ("ConvLSTM minus Optical flow", "ConvLSTM minus Persistence")
    assert flow.columns == ["CSI at 0.1 mm/h", "CSI at 1 mm/h", "CSI at 5 mm/h", "RMSE (mm/h)"]
    cell = next(row for row in flow.rows if row.lead == "30 min").cells[1]
    assert plain(cell.text) == "0.040 [−0.010, 0.090]"
    assert not cell.best
    cell = next(row for row in last.rows if row.lead == "30 min").cells[1]
    assert plain(cell.text) == "0.150 [0.100, 0.200]"
    assert cell.best


def test_a_folder_of_an_earlier_version_has_no_differences(make_evaluation):
    folder = make_evaluation()
    (folder / "differences.csv").unlink()
    assert differences(read_results(folder)) == []


@pytest.mark.parametrize("part", [20, 200, -200])
def test_a_damaged_table_of_differences_is_refused(make_evaluation, refused, part):
    folder = make_evaluation()
    text = (folder / "differences.csv").read_text()
    (folder / "differences.csv").write_text(text[:part])
    with refused(DataError, str(folder / "differences.csv")):
        read_results(folder)
