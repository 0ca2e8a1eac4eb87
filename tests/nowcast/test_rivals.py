"""Forecasts by pysteps on motions that are known because the test made them, and on frames that pysteps refuses."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from convlstm.errors import ConfigError, DataError, DependencyError, ShapeError
from convlstm.nowcast.rivals import (
    anvil,
    choose_ensembles,
    choose_rivals,
    lagrangian_probability,
    linda,
    lk_extrapolation,
    sprog,
    steps_exceedance,
)
from convlstm.nowcast.rivals.cases import checked, with_lead_zero
from convlstm.verification import member_share

HEIGHT, WIDTH = 64, 80
STEP = 300.0
SECONDS = np.arange(4) * STEP
FIELDS = {"lk_extrapolation": lk_extrapolation, "sprog": sprog, "anvil": anvil, "linda": linda}
FAST = {name: FIELDS[name] for name in ("lk_extrapolation", "sprog", "anvil")}


def exceedance(inputs, seconds, leads):
    return steps_exceedance(inputs, seconds, leads, [0.1, 1.0], members=4)


def neighbourhood(inputs, seconds, leads):
    return lagrangian_probability(inputs, seconds, leads, [0.1, 1.0])


PROBABILITIES = {"steps_exceedance": exceedance, "lagrangian_probability": neighbourhood}
METHODS = FIELDS | PROBABILITIES


@pytest.fixture
def _pysteps():
    pytest.importorskip("cv2")
    pytest.importorskip("pysteps")


needs_pysteps = pytest.mark.usefixtures("_pysteps")


def rain(speed=(1.0, -2.0), count=4, *, evolve=0.2):
    """Textured rain that moves by `speed` cells a step and changes a little: (time, 1, height, width) in mm/h."""
    rng = np.random.default_rng(7)
    margin = 16
    spectrum = np.fft.rfft2(rng.standard_normal((count + 1, HEIGHT + 2 * margin, WIDTH + 2 * margin)))
    wave = np.hypot(np.fft.fftfreq(HEIGHT + 2 * margin)[:, None], np.fft.rfftfreq(WIDTH + 2 * margin))
    texture = np.fft.irfft2(spectrum * np.exp(-((wave / 0.06) ** 2)), s=(HEIGHT + 2 * margin, WIDTH + 2 * margin))
    texture /= texture.std()
    frames = []
    for index in range(count):
        field = texture[0] + evolve * texture[index + 1]
        row, column = (margin - round(part * index) for part in speed)
        frames.append(np.maximum(3.0 * field - 1.0, 0.0)[row : row + HEIGHT, column : column + WIDTH])
    return np.stack(frames)[:, None].astype(np.float32)


def correlation(a, b):
    known = np.isfinite(a) & np.isfinite(b)
    return np.corrcoef(a[known], b[known])[0, 1]


@needs_pysteps
@pytest.mark.parametrize("name", FIELDS)
def test_moving_rain_is_forecast_better_than_by_persistence(name, capfd):
    frames = rain(count=6)
    leads = [STEP, 2 * STEP]
    forecast = FIELDS[name](frames[:4], SECONDS, leads)
    assert capfd.readouterr() == ("", "")  # pysteps prints
    assert forecast.shape == (2, 1, HEIGHT, WIDTH)
    assert forecast.dtype == np.float32
    assert np.nanmin(forecast) >= 0
    for index in range(2):
        truth = frames[4 + index, 0]
        assert correlation(forecast[index, 0], truth) > correlation(frames[3, 0], truth) + 0.1
        assert correlation(forecast[index, 0], truth) > 0.75


@needs_pysteps
@pytest.mark.parametrize("name", PROBABILITIES)
def test_probabilities_separate_rain_from_none(name, capfd):
    frames = rain(count=6)
    probability = PROBABILITIES[name](frames[:4], SECONDS, [STEP, 2 * STEP])
    assert capfd.readouterr() == ("", "")
    assert probability.shape == (2, 2, HEIGHT, WIDTH)
    assert np.nanmin(probability) >= 0
    assert np.nanmax(probability) <= 1
    for index in range(2):
        for limit, threshold in enumerate((0.1, 1.0)):
            known, event = np.isfinite(probability[index, limit]), frames[4 + index, 0] >= threshold
            with_rain = probability[index, limit][known & event].mean()
            assert with_rain > probability[index, limit][known & ~event].mean() + 0.4
    assert (np.nan_to_num(probability[:, 1]).mean() < np.nan_to_num(probability[:, 0]).mean()).all()


@needs_pysteps
def test_rain_that_enters_has_no_value():
    """Rain moves left by two cells a step, so three steps later the right six columns come from outside."""
    forecast = lk_extrapolation(rain(speed=(0.0, -2.0)), SECONDS, [3 * STEP])[0, 0]
    assert np.isnan(forecast[8:-8, -5:]).all()
    assert np.isfinite(forecast[8:-8, 8:-8]).all()


@needs_pysteps
def test_a_lead_time_between_steps_lies_between_its_neighbours():
    frames = rain(evolve=0.0, speed=(0.0, -2.0))
    half = lk_extrapolation(frames, SECONDS, [0.5 * STEP])[0, 0]
    inside = np.s_[4:-4, 8:-8]
    moved = np.roll(frames[3, 0], -1, axis=1)  # half of two cells a step
    assert_allclose(half[inside], moved[inside], atol=1.0)
    assert correlation(half[inside], moved[inside]) > 0.99
    assert correlation(half[inside], moved[inside]) > correlation(half[inside], frames[3, 0][inside])


@needs_pysteps
@pytest.mark.parametrize("name", ["lk_extrapolation", "sprog", "anvil", "lagrangian_probability"])
def test_a_forecast_does_not_depend_on_the_other_lead_times(name):
    frames = rain()
    together = METHODS[name](frames, SECONDS, [STEP, 2 * STEP, 4 * STEP])
    alone = METHODS[name](frames, SECONDS, [4 * STEP])
    assert_array_equal(together[2], alone[0])


@needs_pysteps
@pytest.mark.parametrize("name", METHODS)
def test_lead_time_zero_is_the_latest_frame(name):
    frames = rain()
    forecast = METHODS[name](frames, SECONDS, [0.0])
    if name in FIELDS:
        assert_array_equal(forecast, frames[3:])
    else:
        assert_array_equal(forecast[0], np.stack([frames[3, 0] >= 0.1, frames[3, 0] >= 1.0]))


@needs_pysteps
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.1, 3.5])
def test_constant_frames_persist(name, value):
    frames = np.full((4, 1, HEIGHT, WIDTH), value, np.float32)
    forecast = METHODS[name](frames, SECONDS, [STEP, 450.0])
    if name in FIELDS:
        assert_array_equal(forecast, np.full((2, 1, HEIGHT, WIDTH), value, np.float32))
    else:
        assert_allclose(forecast[:, 0], float(value >= 0.1), atol=1e-6)
        assert_allclose(forecast[:, 1], float(value >= 1.0), atol=1e-6)


@needs_pysteps
@pytest.mark.parametrize("name", METHODS)
def test_without_a_latest_value_there_is_no_forecast(name):
    frames = rain()
    frames[-1] = np.nan
    forecast = METHODS[name](frames, SECONDS, [0.0, STEP])
    assert forecast.shape[0] == 2
    assert np.isnan(forecast).all()


@needs_pysteps
@pytest.mark.parametrize("name", ["sprog", "anvil", "linda"])
@pytest.mark.parametrize("fault", ["missing", "dry", "repeated", "one cell"])
def test_frames_without_statistics_are_extrapolated(name, fault):
    frames = rain()
    if fault == "missing":
        frames[2] = np.nan
    elif fault == "dry":
        frames[2] = 0.0
    elif fault == "repeated":
        frames[:] = frames[:1]
    else:
        frames[:] = 0.0
        frames[:, :, 30, 30] = 4.0
    expected = lk_extrapolation(frames, SECONDS, [STEP, 2 * STEP])
    assert_array_equal(FIELDS[name](frames, SECONDS, [STEP, 2 * STEP]), expected)


@needs_pysteps
def test_rain_along_the_edge_alone_is_extrapolated_by_steps():
    """The noise of STEPS has no spectrum where all rain is in the cells that its window sets to zero."""
    frames = np.zeros((3, 1, HEIGHT, WIDTH), np.float32)
    frames[:, :, 0] = np.random.default_rng(0).gamma(1.0, 3.0, (3, 1, WIDTH))
    probability = steps_exceedance(frames, SECONDS[:3], [STEP], [1.0])
    moved = lk_extrapolation(frames, SECONDS[:3], [STEP])[0, 0]
    known = np.isfinite(moved)
    assert_array_equal(probability[0, 0][known], (moved >= 1.0)[known])


@needs_pysteps
@pytest.mark.parametrize("name", FAST)
def test_gaps_stay_gaps(name):
    frames = rain(speed=(0.0, 0.0))
    frames[:, :, 30:40, 30:40] = np.nan
    forecast = FAST[name](frames, SECONDS, [STEP])[0, 0]
    assert np.isnan(forecast[33:37, 33:37]).all()
    assert np.isfinite(forecast[10:25, 10:25]).all()


@needs_pysteps
def test_channels_are_forecast_separately():
    first, second = rain(), rain(speed=(-1.0, 1.0))
    both = sprog(np.concatenate([first, second], axis=1), SECONDS, [STEP])
    assert_array_equal(both[:, :1], sprog(first, SECONDS, [STEP]))
    assert_array_equal(both[:, 1:], sprog(second, SECONDS, [STEP]))


@needs_pysteps
def test_the_seed_determines_the_members_and_nothing_else_changes():
    frames = rain()
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    first, again = (steps_exceedance(frames, SECONDS, [4 * STEP], [1.0], members=4, seed=3) for _ in range(2))
    assert np.random.random() == expected
    assert_array_equal(first, again)
    other = steps_exceedance(frames, SECONDS, [4 * STEP], [1.0], members=4, seed=4)
    assert np.nanmax(np.abs(first - other)) > 0.2


@needs_pysteps
def test_a_steeper_slope_smooths_more():
    frames = rain()
    flat, default = (
        lagrangian_probability(frames, SECONDS, [2 * STEP], [1.0], slope=slope)[0, 0] for slope in (0.0, 5.0)
    )
    assert set(np.unique(flat[np.isfinite(flat)])) == {0.0, 1.0}
    assert np.nanstd(default) < 0.8 * np.nanstd(flat)


@needs_pysteps
@pytest.mark.parametrize("name", FAST)
def test_random_cases_have_a_result(name):
    """Gaps, dry parts and small grids on which pysteps itself fails have a finite or missing value, never an error."""
    rng = np.random.default_rng(11)
    for _ in range(25):
        height, width = rng.integers(32, 48, 2)
        frames = rain()[:, :, :height, :width] * rng.choice([0.0, 0.02, 1.0], p=[0.1, 0.2, 0.7])
        kind = rng.integers(0, 6)
        if kind == 0:
            frames[rng.integers(0, 4)] = rng.choice([np.nan, 0.0, 2.0])
        elif kind == 1:
            frames[rng.random(frames.shape) < 0.5] = np.nan
        elif kind == 2:
            frames[:, :, 1:, 1:] = np.nan
        elif kind == 3:
            frames[:, :, :, rng.integers(1, width) :] = 0.0
        elif kind == 4:
            frames[:] = frames[:1]
        forecast = FAST[name](frames, SECONDS, [STEP, 700.0])
        assert forecast.shape == (2, 1, height, width)
        assert not np.isinf(forecast).any()
        assert np.nan_to_num(forecast).min() >= 0


@needs_pysteps
def test_example_of_the_page_runs():
    page = Path(__file__).parents[2] / "docs" / "rivals.md"
    blocks = re.findall(r"^```py\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], str(page), "exec"), {"__name__": "page"})  # noqa: S102 (our own page)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("package", ["pysteps", "cv2"])
def test_a_missing_package_is_named_with_its_extra(name, package, monkeypatch):
    if package == "cv2":
        monkeypatch.setitem(sys.modules, "pysteps", type(sys)("pysteps"))
    else:
        monkeypatch.setitem(sys.modules, "cv2", type(sys)("cv2"))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r"^pysteps: expected .*" + package + r".*\[pysteps\]") as caught:
        METHODS[name](rain(), SECONDS, [STEP])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda x: sprog(x[0], SECONDS, [STEP]), ShapeError, "inputs"),
        (lambda x: sprog(x[:2], SECONDS[:2], [STEP]), ShapeError, "inputs"),
        (lambda x: anvil(x[:3], SECONDS[:3], [STEP]), ShapeError, "inputs"),
        (lambda x: lk_extrapolation(x[..., :31], SECONDS, [STEP]), ShapeError, "inputs"),
        (lambda x: linda(x - 1.0, SECONDS, [STEP]), DataError, "inputs"),
        (lambda x: sprog(x, [0, 300, 600, 1200], [STEP]), DataError, "input_seconds"),
        (lambda x: sprog(x, SECONDS[:3], [STEP]), DataError, "input_seconds"),
        (lambda x: sprog(x, SECONDS, [STEP, STEP]), DataError, "lead_seconds"),
        (lambda x: sprog(x, SECONDS, [1e9]), DataError, "lead_seconds"),
        (lambda x: steps_exceedance(x.repeat(2, 1), SECONDS, [STEP], [1.0]), ShapeError, "inputs"),
        (lambda x: steps_exceedance(x, SECONDS, [STEP], [0.0]), DataError, "thresholds"),
        (lambda x: steps_exceedance(x, SECONDS, [STEP], []), DataError, "thresholds"),
        (lambda x: steps_exceedance(x, SECONDS, [STEP], [1.0], members=1), DataError, "members"),
        (lambda x: steps_exceedance(x, SECONDS, [STEP], [1.0], cell_km=0.0), DataError, "cell_km"),
        (lambda x: lagrangian_probability(x, SECONDS, [STEP], [1.0], slope=-1.0), DataError, "slope"),
    ],
)
def test_a_bad_argument_is_named_before_pysteps_is_loaded(call, error, argument, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysteps", None)
    with pytest.raises(error, match=f"^{argument}: expected") as caught:
        call(rain())
    assert "\n" not in str(caught.value)


def test_only_the_used_frames_must_be_evenly_spaced():
    frames, leads, step = checked(rain(), [-5000.0, 300, 600, 900], [150.0, 600.0], 3)
    assert frames.shape == (3, 1, HEIGHT, WIDTH)
    assert_array_equal(leads, [0.5, 2.0])
    assert step == STEP


def test_lead_time_zero_comes_first():
    fields, latest = np.ones((1, 2, 2)), np.zeros((1, 2, 2))
    assert_array_equal(with_lead_zero(fields, np.array([0.0, 1.0]), latest), np.concatenate([latest, fields]))
    assert_array_equal(with_lead_zero(fields, np.array([0.0]), latest), latest)
    assert_array_equal(with_lead_zero(fields, np.array([1.0]), latest), fields)


@needs_pysteps
def test_the_ensemble_of_steps_has_a_seed_for_each_start():
    make = choose_ensembles(["steps"], members=3)["STEPS"]
    first, again, later = (make(rain(), SECONDS + delay, [300.0, 600.0]) for delay in (0.0, 0.0, 300.0))
    assert first.shape == (3, 2, HEIGHT, WIDTH)
    assert_array_equal(first, again)
    assert not np.array_equal(first, later, equal_nan=True)
    expected = steps_exceedance(rain(), SECONDS, [300.0, 600.0], [1.0], members=3, seed=900)
    assert_array_equal(member_share(first, [1.0]), expected)


@needs_pysteps
def test_frames_that_do_not_allow_steps_have_equal_members():
    edge = np.zeros((3, 1, HEIGHT, WIDTH))
    edge[:, :, 0] = np.linspace(1.0, 3.0, WIDTH) + np.arange(3)[:, None, None]
    for frames in (np.zeros((3, 1, HEIGHT, WIDTH)), edge):
        members = choose_ensembles(["steps"], members=4)["STEPS"](frames, SECONDS[:3], [300.0])
        assert members.shape == (4, 1, HEIGHT, WIDTH)
        assert np.array_equal(members, np.repeat(members[:1], 4, axis=0), equal_nan=True)


@needs_pysteps
def test_ensembles_are_chosen_by_name():
    assert list(choose_ensembles(["sprog", "steps", "steps"], cell_km=2.0)) == ["STEPS"]
    assert list(choose_rivals(["sprog", "steps"])) == ["S-PROG"]
    with pytest.raises(ConfigError, match="--rival"):
        choose_ensembles(["deep"])
