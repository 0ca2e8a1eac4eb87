"""The bootstrap gives intervals that hold the truth about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from convlstm.verification.continuous import error_scores
from convlstm.verification.intervals import pool, resampling_weights, value_and_interval


def test_row_zero_is_the_sample_and_each_draw_has_as_many_cases():
    weights = resampling_weights(12, seed=3)
    assert weights.shape == (1001, 12)
    assert (weights[0] == 1).all()
    assert (weights.sum("init_time") == 12).all()
    # Drawn with replacement a case is absent from (1 − 1/n)ⁿ of the draws: 0.352 for n = 12.
    assert float((weights[1:] == 0).mean()) == pytest.approx((11 / 12) ** 12, abs=0.01)


def test_pooling_weighs_cases_by_their_size():
    sums = xr.Dataset({"pixels": ("init_time", [10.0, 1.0]), "absolute": ("init_time", [10.0, 12.0])})
    pooled = pool(sums.assign(squared=sums["absolute"], signed=sums["absolute"]), resampling_weights(2, seed=0))
    assert float(error_scores(pooled)["mae"][0]) == 2.0


def test_intervals_cover_the_truth_at_their_level():
    """300 samples of 40 independent cases of mean 1; the percentile bootstrap is known to be a little narrow."""
    rng = np.random.default_rng(5)
    held = 0
    for seed in range(300):
        score = rng.gamma(2.0, 0.5, 40) @ resampling_weights(40, seed).values.T / 40
        _, lower, upper = value_and_interval(xr.DataArray(score, dims="draw"), cases=40)
        held += lower <= 1.0 <= upper
    assert 0.84 <= held / 300 <= 0.94


def test_draws_in_which_the_score_is_undefined_are_left_out():
    score = xr.DataArray([0.5, np.nan, 0.25, 0.25, np.nan], dims="draw")
    assert value_and_interval(score, cases=4) == (0.5, 0.25, 0.25)
