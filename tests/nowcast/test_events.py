"""Fields from probabilities: worked by hand, and laws that hold for any probabilities."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from convlstm.nowcast.events import CUTS, ClassLines, EventCounts, EventRules, class_means

RULES = EventRules(
    thresholds=(0.1, 1.0, 5.0), cuts=((0.5, 0.4, 0.3), (0.3, 0.3, 0.2)), class_means=(0.0, 0.4, 2.0, 8.0)
)


def cell(*probabilities):
    """Probabilities (lead_time, threshold, height, width) of one cell."""
    return np.array(probabilities, np.float32).reshape(1, -1, 1, 1)


@pytest.fixture
def probability():
    random = np.random.default_rng(0)
    values = -np.sort(-random.random((2, 3, 20, 30)), axis=1)
    return values.astype(np.float32)


def test_a_value_between_two_thresholds_follows_the_probability_of_the_upper_one():
    leads = np.array([1])
    assert RULES.field(cell(0.49, 0.3, 0.1), leads) == 0
    # half of the cut of 1 mm/h lies half between 0.1 and 1 mm/h
    assert RULES.field(cell(0.9, 0.2, 0.0), leads).item() == pytest.approx(0.55)
    assert RULES.field(cell(0.9, 0.4, 0.15), leads).item() == pytest.approx(3.0)
    # from the cut of the last threshold at 5 mm/h to certainty at the mean of its class
    assert RULES.field(cell(0.9, 0.8, 0.65), leads).item() == pytest.approx(6.5)


def test_the_field_reaches_a_threshold_where_its_event_and_all_lower_ones_are_forecast(probability):
    leads = np.array([1, 2])
    field = RULES.field(probability, leads)
    reached = probability >= np.array(RULES.cuts, np.float32)[:, :, None, None]
    for k, threshold in enumerate(RULES.thresholds):
        np.testing.assert_array_equal(field >= np.float32(threshold), reached[:, : k + 1].all(axis=1))


def test_later_lead_times_use_the_cuts_of_the_last_one(probability):
    np.testing.assert_array_equal(RULES.cuts_of(np.array([2, 3, 40])), np.array([RULES.cuts[1]] * 3, np.float32))


def test_the_mean_weights_each_class_with_its_probability():
    # 0.2 dry, 0.3 light, 0.4 moderate, 0.1 heavy
    classes = 0.3 * 0.4 + 0.4 * 2 + 0.1 * 8
    moved = np.full((1, 1, 1), 30.0, np.float32)
    assert RULES.mean(cell(0.8, 0.5, 0.1), moved, np.array([1])).item() == pytest.approx(classes)
    lines = (((0.0, 0.0), (0.1, 0.5), (0.5, 0.5), (2.0, 0.8)),)
    rules = replace(RULES, class_lines=lines)
    # 30 mm/h is cut to the upper bound of each class but the last
    classes = 0.3 * (0.1 + 0.5 * 1) + 0.4 * (0.5 + 0.5 * 5) + 0.1 * (2 + 0.8 * 30)
    assert rules.mean(cell(0.8, 0.5, 0.1), moved, np.array([1])).item() == pytest.approx(classes)


def test_the_lines_of_the_classes_are_those_of_least_squares():
    random = np.random.default_rng(0)
    moved = random.gamma(0.6, 4.0, (2, 60, 70)).astype(np.float32)
    observation = (moved * random.lognormal(0.0, 0.5, moved.shape)).astype(np.float32)
    observation[0, :5] = np.nan
    fit = ClassLines(2, RULES.thresholds)
    fit.add(moved[:, :20], observation[:, :20])
    fit.add(moved[:, 20:], observation[:, 20:])
    lines = fit.lines(RULES.class_means, rain=True)
    for lead in (0, 1):
        assert lines[lead][0] == (0.0, 0.0)
        for k, (lower, upper) in enumerate(((0.1, 1.0), (1.0, 5.0), (5.0, np.inf)), start=1):
            inside = (observation[lead] >= np.float32(lower)) & (observation[lead] < np.float32(upper))
            slope, intercept = np.polyfit(np.clip(moved[lead][inside], lower, upper), observation[lead][inside], 1)
            assert lines[lead][k] == pytest.approx((intercept, slope), rel=1e-3)
    few = ClassLines(1, RULES.thresholds).lines(RULES.class_means, rain=False)
    assert few == ((*((mean, 0.0) for mean in RULES.class_means),),)


def test_quantiles_are_interpolated_between_thresholds_and_increase_with_their_level(probability):
    # exceeded with 0.8 at 0.1 and with 0.4 at 1 mm/h: the median lies three quarters of the way
    assert RULES.quantile(cell(0.8, 0.4, 0.0), 0.5).item() == pytest.approx(0.1 + 0.75 * 0.9, rel=1e-5)
    assert RULES.quantile(cell(0.4, 0.3, 0.0), 0.5).item() == 0
    levels = [RULES.quantile(probability, level) for level in (0.1, 0.25, 0.5, 0.75, 0.9)]
    assert all((upper >= lower).all() for lower, upper in pairwise(levels))
    assert (levels[-1] > levels[0]).any()


def test_members_follow_the_class_mean_of_the_moved_frame_within_each_class(probability):
    lines = (((0.0, 0.0), (0.1, 0.5), (1.0, 0.4), (4.0, 1.0)),)
    rules = EventRules(RULES.thresholds, ((0.5, 0.5, 0.5),), (0.0, 0.4, 2.0, 9.0), lines)
    # class from 1 to 5 mm/h for sure, with a moved frame of 3: its mean is 1 + 0.4 * 3 = 2.2
    levels = (np.arange(20000, dtype=np.float32) + 0.5) / 20000
    certain = np.broadcast_to(np.float32([1, 1, 0])[None, :, None, None], (1, 3, 1, 20000))
    values = rules.member(certain, np.full((1, 1, 20000), 3, np.float32), levels[None, None], np.array([1]))
    assert values.mean() == pytest.approx(2.2, rel=1e-3)
    assert values.min() >= 1
    assert values.max() <= 5
    assert (np.diff(values.ravel()) >= 0).all()
    # above the last threshold the excess is exponential: 4 + 1.0 * 6 - 5 = 5
    heavy, moved = np.ones((1, 3, 1, 20000), np.float32), np.full((1, 1, 20000), 6, np.float32)
    high = rules.member(heavy, moved, levels[None, None], np.array([1]))
    assert high.mean() - 5 == pytest.approx(5, rel=0.02)
    assert np.percentile(high, 50) - 5 == pytest.approx(5 * np.log(2), rel=0.01)


def test_the_best_cut_is_that_of_an_exhaustive_search(probability):
    observation = np.random.default_rng(1).gamma(0.5, 3.0, (2, 20, 30)).astype(np.float32)
    observation[:, :3] = np.nan
    counts = EventCounts(2, RULES.thresholds)
    counts.add(probability[:, :, :, :15], observation[:, :, :15])
    counts.add(probability[:, :, :, 15:], observation[:, :, 15:])
    known = np.isfinite(observation)
    for lead, row in enumerate(counts.best_cuts()):
        for k, cut in enumerate(row):
            happened = (observation[lead] >= RULES.thresholds[k])[known[lead]]
            scores = []
            for candidate in CUTS:
                forecast = (probability[lead, k] >= np.float32(candidate))[known[lead]]
                scores.append((forecast & happened).sum() / (forecast | happened).sum())
            assert scores[int(np.flatnonzero(cut == CUTS)[0])] == max(scores)


def test_an_event_that_never_happened_has_the_cut_one_half():
    counts = EventCounts(1, (1.0,))
    counts.add(np.full((1, 1, 2, 2), 0.3, np.float32), np.zeros((1, 2, 2), np.float32))
    assert counts.best_cuts() == ((0.5,),)


def test_class_means_leave_out_missing_values_and_call_light_rain_dry():
    values = np.array([0.0, 0.05, 0.2, 0.4, np.nan, 3.0], np.float32)
    assert class_means([values[:3], values[3:]], (0.1, 1.0, 5.0), rain=True) == pytest.approx((0.0, 0.3, 3.0, 5.0))
    assert class_means([values], (0.1,), rain=False)[0] == pytest.approx(0.025)


def test_rules_survive_a_file():
    assert EventRules.from_dict(RULES.to_dict()) == RULES
