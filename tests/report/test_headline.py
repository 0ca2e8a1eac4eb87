"""The sentence: right when the model wins, loses, is level, or cannot be scored."""

import numpy as np
import pytest

from convlstm.report.headline import make_headline


@pytest.fixture
def say(make_results):
    def sentence(**said):
        headline = make_headline(make_results(**said))
        return headline.sentence.replace("\N{NO-BREAK SPACE}", " "), headline.caveat

    return sentence


def test_it_wins(say):
    sentence, caveat = say()
    assert sentence == (
        "30 minutes ahead, ConvLSTM’s CSI at 1 mm/h is 0.45 [0.41, 0.50], better than optical flow "
        "(0.41 [0.37, 0.46]) and persistence (0.30 [0.26, 0.35])."
    )
    assert caveat == (
        "24 forecasts were scored. Its interval overlaps that of optical flow: read the difference with care."
    )


def test_it_loses_and_that_is_said(say):
    sentence, caveat = say(skill={"convlstm": 0.2, "persistence": 0.3, "optical flow": 0.41})
    assert sentence == (
        "30 minutes ahead, ConvLSTM’s CSI at 1 mm/h is 0.20 [0.16, 0.25], worse than optical flow "
        "(0.41 [0.37, 0.46]) and persistence (0.30 [0.26, 0.35])."
    )
    assert caveat == "24 forecasts were scored."


def test_between_the_two(say):
    sentence, _ = say(skill={"convlstm": 0.35, "persistence": 0.30, "optical flow": 0.41})
    assert "0.35 [0.31, 0.40], better than persistence (0.30 [0.26, 0.35]) but worse than optical flow" in sentence


def test_what_reads_the_same_is_level(say):
    sentence, _ = say(skill={"convlstm": 0.4071, "optical flow": 0.4132, "persistence": 0.3})
    assert "level with optical flow (0.41" in sentence
    assert "worse" not in sentence


def test_an_error_is_better_when_smaller(say):
    sentence, _ = say(thresholds=(), units="K", rain=False)
    assert sentence == (
        "30 minutes ahead, ConvLSTM’s typical error (RMSE) is 0.550 [0.510, 0.600] K, 7 % below that of optical flow "
        "(0.590 [0.550, 0.640] K), the best baseline: a skill of 0.07. The others: persistence 0.700 [0.660, 0.750] K."
    )
    sentence, _ = say(skill={"convlstm": 0.1, "persistence": 0.3}, thresholds=(), units="K", rain=False)
    assert "is 0.900 [0.860, 0.950] K, 29 % above that of persistence" in sentence
    assert sentence.endswith("the best baseline: a skill of −0.29.")


def test_thresholds_of_a_variable_that_is_no_rain_do_not_make_the_headline(say):
    sentence, _ = say(thresholds=(270.0, 280.0, 290.0), units="K", rain=False)
    assert "CSI" not in sentence
    assert "a skill of 0.07" in sentence


def test_an_error_level_with_the_best_baseline_has_no_skill(say):
    skill = {"convlstm": 0.41, "optical flow": 0.41}
    sentence, _ = say(skill=skill, thresholds=(), units="", rain=False)
    assert sentence == (
        "30 minutes ahead, ConvLSTM’s typical error (RMSE) is 0.590 [0.550, 0.640], level with optical flow "
        "(0.590 [0.550, 0.640]), the best baseline: a skill of 0.00."
    )


def test_undefined_is_said(say, synthetic_scores):
    synthetic_scores.loc[synthetic_scores["score"] == "csi", ["value", "lower", "upper"]] = np.nan
    sentence, _ = say(scores=synthetic_scores)
    assert sentence == (
        "30 minutes ahead, ConvLSTM’s CSI at 1 mm/h is undefined: the event was neither observed nor forecast."
    )


def test_alone_it_is_not_compared(say):
    sentence, caveat = say(skill={"convlstm": 0.45})
    assert sentence == "30 minutes ahead, ConvLSTM’s CSI at 1 mm/h is 0.45 [0.41, 0.50]."
    assert caveat == "24 forecasts were scored."


def test_without_one_millimetre_the_middle_threshold_speaks(say):
    assert "CSI at 0.5 mm/h" in say(thresholds=(0.1, 0.5, 5.0))[0]
    assert "CSI at 23 dBZ" in say(thresholds=(7.0, 23.0, 34.2), units="dBZ", rain=False)[0]


def test_no_interval_no_brackets(say, synthetic_scores):
    synthetic_scores[["lower", "upper"]] = np.nan
    sentence, caveat = say(scores=synthetic_scores)
    assert "is 0.45, better than optical flow (0.41) and persistence (0.30)." in sentence
    assert caveat == "24 forecasts were scored."


def test_bars_stand_on_their_axis(make_results):
    headline = make_headline(make_results())
    assert headline.ticks == [(0.0, "0"), (33.33, "0.2"), (66.67, "0.4"), (100.0, "0.6")]
    assert [bar.label for bar in headline.bars] == ["ConvLSTM", "Optical flow", "Persistence"]
    assert (headline.bars[0].value, headline.bars[0].lower) == (75.0, 68.33)


def test_the_lead_time_nearest_half_the_horizon(make_results):
    assert make_results().main_lead == 30.0
