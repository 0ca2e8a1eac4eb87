"""`benchmarks/skill/rivals.py`: counts, cuts and cache, on rain that the test made."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from benchmarks.skill import rivals
from numpy.testing import assert_allclose, assert_array_equal


@pytest.fixture
def rain():
    """A day of rain in half of a grid, which moves right by one cell a frame; the other half is dry."""
    rng = np.random.default_rng(0)
    texture = rng.gamma(1.0, 2.0, (16, 400)).astype(np.float32)
    frames = np.zeros((288, 24, 32), np.float32)
    for index in range(288):
        frames[index, :16] = texture[:, 300 - index : 332 - index]
    return frames


def test_counts_are_those_of_each_cut():
    rng = np.random.default_rng(1)
    value, event = rng.random(500).astype(np.float32), rng.random(500) > 0.6
    cuts = np.array([0.2, 0.5, 0.8])
    expected = []
    for cut in cuts:
        forecast = value >= cut
        expected.append([(forecast & event).sum(), (~forecast & event).sum(), (forecast & ~event).sum()])
    assert_array_equal(rivals.contingency(value, event, cuts), expected)


def test_rounding_to_half_precision_keeps_a_value_at_its_cut():
    values = np.array([0.1, 0.7, 1.3], np.float16).astype(np.float32)
    for value, cut in zip(values, [0.1, 0.7, 1.3], strict=True):
        counts = rivals.contingency(np.array([value]), np.array([True]), np.array([cut]))
        assert_array_equal(counts, [[1, 0, 0]])


def test_the_tuned_cut_has_the_highest_csi_and_no_event_keeps_the_threshold():
    cuts = rivals.cuts_for("sprog")
    counts = np.zeros((3, 6, len(cuts), 3))
    counts[..., :] = (1, 9, 0)
    counts[1, 2, 7] = (5, 5, 1)
    counts[2, 5] = 0
    tuned = np.array(rivals.tune("sprog", counts))
    assert tuned[1, 2] == cuts[7]
    assert tuned[2, 5] == 1.0
    assert_allclose(rivals.csi(counts)[1, 2, 7], 5 / 11)


def test_missing_observations_are_left_out(rain):
    known = np.ones(rain.shape, bool)
    starts = rivals.choose_starts(rain, 0, 1, 2)
    forecasts = np.stack([[rain[start + minutes // 5] for minutes in rivals.LEADS] for start in starts])
    forecasts[:, :, 3, 4] = 50.0
    assert rivals.rmse(forecasts, rain, known, starts).min() > 1
    known[:, 3, 4] = False
    assert_allclose(rivals.rmse(forecasts, rain, known, starts), 0, atol=1e-6)
    scores = rivals.summary("sprog", rivals.count("sprog", forecasts, rain, known, starts), [[1.0] * 6] * 3)
    assert_allclose(scores["CSI ≥ 1, untuned"], 1.0)
    assert_allclose(scores["CSI ≥ 5, tuned"], 1.0)


def test_a_forecast_without_a_value_is_no_rain_or_the_inflow():
    forecasts = np.array([[[[np.nan, 2.0]]]])
    inflow = np.full((1, 1, 1, 2), 3.0)
    assert_array_equal(rivals.fill("sprog", forecasts, None), [[[[0.0, 2.0]]]])
    assert_array_equal(rivals.fill("sprog", forecasts, inflow), [[[[3.0, 2.0]]]])
    probability = np.full((1, 1, 3, 1, 2), np.nan)
    assert_array_equal(rivals.fill("steps_exceedance", probability, inflow)[0, 0, :, 0, 0], [1, 1, 0])


def test_starts_leave_room_for_inputs_and_observations(rain):
    starts = rivals.choose_starts(rain, 0, 1, 10)
    assert len(starts) == 11  # at least the 10 asked for, spread over the day
    assert starts[0] == 5
    assert 250 < starts[-1] < 288 - 12
    with pytest.raises(SystemExit, match="no frame of days 0 to 0"):
        rivals.choose_starts(np.zeros_like(rain), 0, 1, 10)


def test_a_run_caches_its_forecasts_and_applies_cuts(rain, tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "rain.npy", rain)
    np.save(tmp_path / "known.npy", np.ones(rain.shape, bool))
    paths = [str(tmp_path / name) for name in ("rain.npy", "known.npy", "cache")]
    common = [*paths, "--days", "0", "1", "--starts", "4", "--methods", "persistence", "optical_flow"]
    monkeypatch.setattr(sys, "argv", ["rivals", *common, "--write-cuts", str(tmp_path / "cuts.json")])
    rivals.main()
    first = capsys.readouterr().out
    assert "optical_flow: median" in first
    assert len(list((tmp_path / "cache" / rivals.digest(rain) / "optical_flow").glob("*.npy"))) == 5
    assert set(json.loads((tmp_path / "cuts.json").read_text())) == {"persistence", "optical_flow"}
    monkeypatch.setattr(sys, "argv", ["rivals", *common, "--cuts", str(tmp_path / "cuts.json")])
    monkeypatch.setattr(rivals, "compute", None)  # nothing is computed again
    rivals.main()
    second = capsys.readouterr().out
    assert second.splitlines()[2:] == [line for line in first.splitlines() if "median" not in line][2:]
    flow, still = (
        next(line for line in second.splitlines() if line.startswith(f"| {name} |"))
        for name in ("optical_flow", "persistence")
    )
    assert float(flow.split("|")[2]) > float(still.split("|")[2])
