"""Curves: places worked out by hand on the 340 × 208 drawing, and which charts there are."""

import numpy as np
import pytest

from convlstm.report.charts import Axis, Series, counting_axis, draw_chart, log_axis, value_axis
from convlstm.report.description import TrainingStep
from convlstm.report.figures import method_slot, score_groups, training_chart

UNIT = Axis(((0.0, "0"), (1.0, "1")), 0.0, 1.0)


def series(y, lower=None, upper=None, notes=()):
    y = np.array(y, dtype=float)
    none = np.full(len(y), np.nan)
    x = np.linspace(0, 1, len(y))
    return Series(
        "a", 0, x, y, none if lower is None else np.array(lower), none if upper is None else np.array(upper), notes
    )


def test_lines_and_bands_stand_where_they_belong():
    drawn = draw_chart(
        "t", "s", [series([0.0, 0.5, 1.0], [0.0, 0.25, 1.0], [0.0, 0.75, 1.0])], UNIT, UNIT, reference=0.5
    )
    assert drawn.lines[0].path == "M44,172L186,91L328,10"
    assert drawn.lines[0].band == "M44,172L186,50.5L328,10L328,10L186,131.5L44,172Z"
    assert drawn.reference == 91
    assert drawn.x_ticks == [(44.0, "0"), (328.0, "1")]
    assert drawn.y_ticks == [(172.0, "0"), (10.0, "1")]


def test_an_undefined_score_breaks_the_line_and_has_no_point():
    drawn = draw_chart("", "", [series([0, 1, np.nan, 1, 0], notes=tuple("abcde"))], UNIT, UNIT)
    assert drawn.lines[0].path == "M44,172L115,10 M257,10L328,172"
    assert [note for *_, note in drawn.lines[0].points] == ["a", "b", "d", "e"]
    assert drawn.lines[0].band == ""


def test_a_wild_interval_stays_inside_the_chart():
    drawn = draw_chart("", "", [series([0.5, 0.5], [-9.0, 0.2], [9.0, 0.8])], UNIT, UNIT)
    assert drawn.lines[0].band == "M44,10L328,42.4L328,139.6L44,172Z"


def test_the_first_series_is_drawn_last():
    first, second = series([0, 1]), Series("b", 1, *(np.array([0.0, 1.0]),) * 4)
    assert [line.label for line in draw_chart("", "", [first, second], UNIT, UNIT).lines] == ["b", "a"]


def test_axes_write_round_numbers():
    assert [t for _, t in value_axis(-0.2, 0.11).ticks] == ["−0.2", "−0.1", "0.0", "0.1", "0.2"]
    assert [t for _, t in value_axis(0, 1.08).ticks] == ["0.00", "0.25", "0.50", "0.75", "1.00", "1.25"]
    assert [t for _, t in counting_axis(0, 60, "min").ticks] == ["0", "10", "20", "30", "40", "50", "60"]
    assert [t for _, t in counting_axis(0, 1440, "h", unit=60).ticks] == ["0", "5", "10", "15", "20"]
    hours = counting_axis(0, 1440, "h", unit=60, steps=(1, 2, 3, 6, 12))
    assert [t for _, t in hours.ticks] == ["0", "6", "12", "18", "24"]
    assert [value for value, _ in hours.ticks] == [0, 360, 720, 1080, 1440]
    assert [t for _, t in log_axis(-2, -0.5).ticks] == ["0.01", "0.1", "1"]
    single = counting_axis(30, 30, "")
    assert (single.start, single.stop) == (29.5, 30.5)


def test_groups_hold_every_score_at_every_threshold(make_results):
    groups = {group.title: group for group in score_groups(make_results())}
    assert list(groups) == ["CSI", "Error (mm/h)", "FSS", "POD", "FAR", "Frequency bias"]
    assert [c.title for c in groups["POD"].charts] == ["0.1 mm/h", "1 mm/h", "5 mm/h"]
    assert [c.title for c in groups["Error (mm/h)"].charts] == ["RMSE", "MAE", "Mean error"]
    assert "10 × 10 cells" in groups["FSS"].note


def test_curves_carry_the_values_of_the_table(make_results):
    chart = score_groups(make_results())[0].charts[1]  # CSI at 1 mm/h
    lines = {line.label: line for line in chart.lines}
    assert [line.label for line in chart.lines] == ["Persistence", "Optical flow", "ConvLSTM"]
    x, y, note = lines["ConvLSTM"].points[2]
    top = float(chart.y_ticks[-1][1])
    assert note.replace("\N{NO-BREAK SPACE}", " ") == "ConvLSTM, 30 min: 0.45 [0.41, 0.50]"
    assert x == 186.0  # halfway from 0 to 60 minutes
    assert y == pytest.approx(172 - 162 * 0.45 / top, abs=0.051)
    assert "CSI at 1 mm/h" in chart.summary


def test_the_perfect_bias_is_always_in_sight(make_results):
    bias = score_groups(make_results(skill={"convlstm": 0.05, "persistence": 0.04}))[-1]
    for chart in bias.charts:
        assert chart.reference is not None or chart.y_ticks[-1][1] in {"1.0", "1.00"}


def test_without_thresholds_only_errors_are_drawn(make_results):
    assert [group.title for group in score_groups(make_results(thresholds=()))] == ["Error (mm/h)"]


def test_a_score_that_is_nowhere_defined_still_has_its_chart(make_results, synthetic_scores):
    rows = (synthetic_scores["score"] == "csi") & (synthetic_scores["threshold"] == 5.0)
    synthetic_scores.loc[rows, ["value", "lower", "upper"]] = np.nan
    chart = score_groups(make_results(scores=synthetic_scores))[0].charts[2]
    assert all(line.path == "" for line in chart.lines)


def test_colours_stay_with_the_baselines():
    methods = ["new", "convlstm", "optical flow", "persistence"]
    assert [method_slot(m, methods) for m in methods] == [0, 3, 1, 2]
    assert [method_slot(m, ["persistence", "new"]) for m in ["persistence", "new"]] == [2, 0]


def test_training_curve_keeps_first_last_and_lowest():
    log = [
        TrainingStep(step=s, loss=1 / s, validation_loss=0.5 + (s - 3) ** 2 if s < 5 else None) for s in range(1, 11)
    ]
    chart = training_chart(log)
    assert [line.label for line in chart.lines] == ["Training loss", "Validation loss"]
    assert "Validation loss: 4.5 at first, 1.5 at last, lowest 0.5 at step 3." in chart.summary
    assert [text for _, text in chart.y_ticks] == ["0.1", "1", "10"]  # spans more than twentyfold: logarithmic


def test_a_long_log_is_thinned_by_means():
    log = [TrainingStep(step=s, loss=2.0 + (s % 2)) for s in range(3000)]
    (line,) = training_chart(log).lines
    assert line.path.count("L") == 299
    assert len({point.split(",")[1] for point in line.path[1:].split("L")}) == 1  # ten steps each: mean 2.5


def test_no_log_no_chart():
    assert training_chart([]) is None
    assert training_chart([TrainingStep(step=1, loss=None)]) is None
