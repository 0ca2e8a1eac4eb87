"""The stationary bootstrap: its weights, its block length, and the coverage of its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from convlstm.verification.blocks import automatic_block_length
from convlstm.verification.intervals import resampling_weights


def autoregressive(cases: int, correlation: float, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    noise = random.standard_normal(cases + 100)
    series = np.zeros(cases + 100)
    for step in range(1, len(series)):
        series[step] = correlation * series[step - 1] + noise[step]
    return series[100:]


def interval(series: NDArray[np.float64], block_length: float, seed: int) -> tuple[float, float]:
    weights = resampling_weights(len(series), seed, block_length, draws=400).values[1:]
    lower, upper = np.quantile(weights @ series / len(series), (0.05, 0.95))
    return float(lower), float(upper)


def coverage(correlation: float, *, automatic: bool) -> float:
    hits = 0
    for seed in range(100):
        series = autoregressive(500, correlation, seed)
        lower, upper = interval(series, automatic_block_length(series) if automatic else 1.0, seed)
        hits += lower <= 0.0 <= upper
    return hits / 100


def test_blocks_of_one_are_the_ordinary_bootstrap() -> None:
    weights = resampling_weights(50, 0, 1.0, draws=4000).values[1:]
    assert weights.mean() == pytest.approx(1.0)
    assert weights.var(axis=0).mean() == pytest.approx(1 - 1 / 50, rel=0.05)  # multinomial
    assert np.corrcoef(weights[:, 3], weights[:, 4])[0, 1] == pytest.approx(-1 / 49, abs=0.06)


def test_neighbours_in_a_block_are_drawn_together() -> None:
    weights = resampling_weights(50, 0, 10.0, draws=4000).values[1:]
    assert np.corrcoef(weights[:, 3], weights[:, 4])[0, 1] > 0.8


def test_block_length_grows_with_correlation() -> None:
    lengths = [automatic_block_length(autoregressive(400, rho, seed=1)) for rho in (0.0, 0.5, 0.9)]
    assert lengths[0] < 4 < lengths[1] < lengths[2]


@pytest.mark.parametrize("series", [np.arange(3.0), np.ones(100)])
def test_short_or_constant_series_is_drawn_case_by_case(series: NDArray[np.float64]) -> None:
    assert automatic_block_length(series) == 1.0


def test_intervals_cover_the_mean_of_correlated_series() -> None:
    assert coverage(0.7, automatic=False) < 0.65  # the ordinary bootstrap claims too much
    assert coverage(0.7, automatic=True) > 0.8
    assert coverage(0.0, automatic=True) > 0.83
