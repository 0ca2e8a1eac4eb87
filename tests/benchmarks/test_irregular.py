"""The study of uneven time steps: what each contender knows, the scores, the intervals, and saved runs."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

if find_spec("torch") is None:
    pytest.skip("torch is not installed", allow_module_level=True)

from benchmarks.irregular import radar, runs, sentinel
from benchmarks.irregular.contenders import CONTENDERS
from benchmarks.irregular.scores import difference, group, score, table, tally

from convlstm.data import open_frames, sample_path
from convlstm.frontend.trainer import Sample
from convlstm.nowcast.config import ModelConfig, validate
from convlstm.weights.canonical import initialise

DAY = 86400.0


def test_each_contender_knows_only_its_times() -> None:
    field, times = np.zeros((1, 2, 1, 4, 4), np.float32), np.ones((1, 2), np.float32)
    sample = Sample(field, field, field, durations=times, lead_durations=times, gaps=times)
    known = {
        name: [key for key, value in contender.restrict(sample).times().items() if value is not None]
        for name, contender in CONTENDERS.items()
    }
    assert known == {
        "durations": ["durations", "lead_durations", "gaps"],
        "decay only": ["gaps"],
        "blind": [],
        "mlp": ["durations", "lead_durations"],
        "log1p": ["durations", "lead_durations"],
    }


def test_contenders_of_a_seed_start_with_the_same_kernels() -> None:
    weights = [
        initialise(
            ModelConfig(
                hidden_channels=[4], duration_strategy=each.duration_strategy, memory_decay=each.memory_decay
            ).spec(1, 300.0),
            7,
        )
        for each in CONTENDERS.values()
    ]
    blind = list(CONTENDERS).index("blind")
    for other in weights:
        for key, array in weights[blind].items():
            np.testing.assert_array_equal(other[key], array)


def test_sums_by_band_of_lead_time() -> None:
    truth = np.array([0.0, 2.0, 2.0, 0.0], np.float32).reshape(1, 2, 1, 1, 2)
    forecast = np.array([1.0, 0.0, 3.0, 5.0], np.float32).reshape(1, 2, 1, 1, 2)
    known = np.array([True, True, True, False]).reshape(truth.shape)
    sums = tally(forecast, truth, known, np.array([[10.0, 20.0]]), ((0, 10), (10, 20), (20, 40)), 1.0)
    assert sums.tolist() == [[[5, 2, 0, 1, 1, 1], [1, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]]]
    np.testing.assert_allclose(score("RMSE", sums[0]), [np.sqrt(2.5), 1.0, np.nan])
    np.testing.assert_allclose(score("CSI", sums[0]), [0.0, 1.0, np.nan])


def test_windows_of_one_period_are_one_case() -> None:
    sums = np.arange(3.0).reshape(3, 1, 1)
    assert group(sums, np.array([10.0, 3700.0, 20.0]), 3600.0).ravel().tolist() == [2.0, 1.0]


def test_interval_of_a_difference_includes_seeds_and_cases() -> None:
    random = np.random.default_rng(0)
    other = np.zeros((3, 40, 6))
    other[..., 0], other[..., 1] = 100.0 + random.normal(0, 5, (3, 40)), 100.0
    equal = difference("RMSE", other, other)
    assert equal[:3] == (0.0, 0.0, 0.0)
    ours = other.copy()
    ours[..., 0] *= 0.81  # RMSE of each seed and case is a tenth lower
    value, lower, upper, _ = difference("RMSE", ours, other)
    assert value == pytest.approx(-0.1, abs=0.002)
    assert lower < value < upper < 0
    ours[..., 0] = other[..., 0] * np.array([0.7, 0.9, 1.1])[:, None]  # seeds that contradict each other
    _, wider_lower, wider_upper, _ = difference("RMSE", ours, other)
    assert wider_lower < 0 < wider_upper
    assert wider_upper - wider_lower > 5 * (upper - lower)


def test_table_compares_with_the_last_contender() -> None:
    sums = np.zeros((2, 9, 1, 6))
    sums[..., 0], sums[..., 1], sums[..., 5] = 4.0, 1.0, 3.0
    lines = table({"a": sums / 4, "b": sums, "c": sums}, {"persistence": sums[0] * 9}, ["0–10 d"], ["RMSE"])
    assert lines[2:] == [
        "| forecast frames | 6 |",
        "| RMSE, a | 2.000 ± 0.000 |",
        "| RMSE, b | 2.000 ± 0.000 |",
        "| RMSE, c | 2.000 ± 0.000 |",
        "| RMSE, persistence | 2.000 |",
        "| RMSE, a − c | +0.000 (+0.000 to +0.000) |",
        "| RMSE, b − c | +0.000 (+0.000 to +0.000) |",
        "| RMSE, a − b | +0.000 (+0.000 to +0.000) |",
    ]


def test_saved_runs_are_not_repeated(tmp_path: Path) -> None:
    options = argparse.Namespace(output=tmp_path / "runs", seeds=2, contender=["blind"])
    calls: list[tuple[str, int]] = []

    def run(name: str, seed: int) -> runs.Sums:
        calls.append((name, seed))
        return {"forecast": np.full(2, seed)}

    first = runs.run_all(options, {"steps": 1}, run)
    assert [one["forecast"].tolist() for one in first["blind"]] == [[0, 0], [1, 1]]
    options.contender, options.seeds = ["blind", "decay only"], 1
    runs.run_all(options, {"steps": 1}, run)
    assert calls == [("blind", 0), ("blind", 1), ("decay only", 0)]
    with pytest.raises(SystemExit, match="holds other settings"):
        runs.run_all(options, {"steps": 2}, run)


def test_dropped_frames_leave_gaps_of_5_to_30_minutes() -> None:
    frames = open_frames(sample_path())
    seconds = radar.thin(frames, np.random.default_rng(0)).seconds
    inside = np.diff(seconds)[np.diff(seconds) < 3600]
    assert set(np.unique(inside) / 60) == set(radar.MINUTES)


def test_short_run_on_radar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radar, "EVERY", 40)
    monkeypatch.setattr(radar, "DATA", radar.DATA | {"test": 1, "validation": 1, "crop": 16})
    frames = open_frames(sample_path())
    sums = radar.run_one(frames, "decay only", radar.configure(0, 1, 12, 4))
    assert sums["forecast"].shape == sums["persistence"].shape == (len(sums["start"]), len(radar.BANDS), 6)
    # the untrained head adds nothing to the last frame, one step of training little
    assert score("RMSE", sums["forecast"].sum(0)) == pytest.approx(score("RMSE", sums["persistence"].sum(0)), rel=0.3)
    assert sums["forecast"][..., 5].sum(axis=1).max() == 12


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    """A file with the variables of nrt's cube: NDVI 0.5 + day / 1000, the second image cloudy, a third of another."""
    days = np.array([0, 5, 20, 30, 40, 60, 100, 105, 110, 140, 150, 160, 170, 200, 210])
    ndvi = np.broadcast_to((0.5 + days / 1000)[:, None, None], (len(days), 18, 18))
    classes = np.full(ndvi.shape, 4.0)
    classes[1] = 9
    classes[2, :6] = 9
    data = {"B4": 1000 * (1 - ndvi), "B8A": 1000 * (1 + ndvi), "SCL": classes}
    dims = ("time", "y", "x")
    time = np.datetime64("2018-06-01", "ns") + days * np.timedelta64(1, "D")
    path = tmp_path / "cube.nc"
    variables = {name: (dims, values.astype(np.float32)) for name, values in data.items()}
    xr.Dataset(variables, coords={"time": time}).to_netcdf(path)
    return path


def test_images_without_enough_known_cells_are_left_out(cube: Path) -> None:
    images = sentinel.read_images(cube, "2018-12-20")
    assert np.diff(images.days).tolist() == [20, 10, 10, 20, 40, 5, 5, 30, 10, 10, 10, 30]
    assert np.isnan(images.ndvi[1, :6]).all()
    np.testing.assert_allclose(images.ndvi[1, 6:], 0.52, rtol=1e-5)
    np.testing.assert_allclose(images.ndvi[2], 0.53, rtol=1e-5)


def test_sample_carries_values_forward_and_gives_no_weight_to_clouds(cube: Path) -> None:
    images = sentinel.read_images(cube, "2018-12-31")
    sample = sentinel.make_sample(images, np.array([0]), 2)
    assert sample.inputs.shape == (1, 6, 4, 18, 18)
    np.testing.assert_allclose(sample.inputs[0, 1, 0, 0], 0.5, rtol=1e-5)  # the value of the first image
    np.testing.assert_allclose(sample.inputs[0, 1, 0, 6], 0.52, rtol=1e-5)
    assert sample.inputs[0, 1, 1, :, 0].tolist() == [0.0] * 6 + [1.0] * 12
    np.testing.assert_allclose((sample.inputs[0, :, 2:] ** 2).sum(1), 1.0, rtol=1e-5)
    assert sample.durations.tolist() == [[10, 20, 10, 10, 20, 40]]
    assert sample.lead_durations.tolist() == [[5, 5]]
    assert sample.weight[:, :, 0].min() == 1
    assert sample.weight[:, :, 1:].max() == 0
    cloudy = sentinel.Images(np.where(np.arange(14)[:, None, None] == 6, np.nan, images.ndvi), images.days)
    assert sentinel.make_sample(cloudy, np.array([0]), 2).weight[0, :, 0].max(axis=(1, 2)).tolist() == [0, 1]


def test_no_target_of_a_training_window_is_a_test_image(cube: Path) -> None:
    images = sentinel.read_images(cube, "2018-12-31")
    first_test = images.days[10]
    training, test = sentinel.windows(images, 2, first_test)
    assert training.tolist() == [0, 1, 2]
    assert test.tolist() == [4, 5, 6]


def test_climatology_weighs_by_the_day_of_the_year_and_leaves_out_the_half_year_around() -> None:
    days = np.array([100.0, 200.0, 100.0 + sentinel.YEAR, 200.0 + sentinel.YEAR])
    training = sentinel.Images(np.array([0.2, 0.8, 0.4, 0.6], np.float32).reshape(4, 1, 1), days)
    later = np.array([100.0, 200.0]) + 2 * sentinel.YEAR
    np.testing.assert_allclose(sentinel.climatology(training, later).ravel(), [0.3, 0.7], atol=1e-6)
    np.testing.assert_allclose(sentinel.climatology(training, days[:1]).ravel(), [0.4], atol=1e-6)


@pytest.mark.parametrize("departures", [True, False])
def test_short_run_on_images(departures: bool, cube: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel, "MODEL", {"hidden_channels": [4], "patch_size": 2})
    images = sentinel.read_images(cube, "2018-12-31")
    ndvi, days = (np.concatenate([part, part]) for part in (images.ndvi, images.days))
    days[14:] += sentinel.YEAR
    images = sentinel.Images(ndvi, days)
    config = validate({"training": {"steps": 2}, "seed": 1})
    sums = sentinel.run_one(images, "durations", config, 2, days[19], departures=departures)
    assert set(sums) == {"start", "forecast", *sentinel.BASELINES}
    for name in ("forecast", *sentinel.BASELINES):
        assert sums[name][..., 5].sum() == 2 * len(sums["start"]) == 16
        assert np.isfinite(score("RMSE", sums[name].sum(axis=(0, 1))))
    # both years are equal
    assert score("RMSE", sums["climatology"].sum(axis=(0, 1))) < 0.05
