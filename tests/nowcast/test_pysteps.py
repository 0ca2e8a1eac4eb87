"""The model as a method of pysteps: the numbers of the Nowcaster, its refusals, and its use by pysteps."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from convlstm.data import Reflectivity, open_frames, sample_path
from convlstm.errors import ConfigError, DataError, DependencyError, ShapeError
from convlstm.nowcast import Nowcaster
from convlstm.pysteps import forecast, register

PAGE = Path(__file__).parents[2] / "docs" / "pysteps.md"
OPTIONS = {"units": "mm/h", "time_step": 300, "init_time": "2018-05-20T12:00"}


@pytest.fixture(scope="module")
def nowcaster():
    """The model in the package."""
    return Nowcaster.load(threads=1)


@pytest.fixture(scope="module")
def rain():
    """Seven wet frames of the sample (time, height, width) in mm/h."""
    return open_frames(sample_path()).read(slice(500, 507), (slice(48), slice(64)))[:, 0].astype(np.float64)


@pytest.fixture
def methods():
    """The methods of pysteps, as they were before after the test."""
    pytest.importorskip("cv2")
    interface = pytest.importorskip("pysteps.nowcasts.interface")
    before = dict(interface._nowcast_methods)
    yield interface._nowcast_methods
    interface._nowcast_methods.clear()
    interface._nowcast_methods.update(before)


def test_the_field_is_that_of_the_nowcaster(nowcaster, rain):
    received = forecast(rain, None, 3, timestep=5, model=nowcaster)
    expected = nowcaster.forecast(rain, lead_times=[300, 600, 900], **OPTIONS)["rainfall_rate"].values
    assert received.max() > 1
    np.testing.assert_array_equal(received, expected)


def test_the_members_are_those_of_the_nowcaster(nowcaster, rain):
    received = forecast(rain, None, [2, 6], timestep=5, n_ens_members=3, seed=4, model=nowcaster)
    expected = nowcaster.forecast(rain, lead_times=[600, 1800], members=3, seed=4, **OPTIONS)
    assert received.shape == (3, 2, 48, 64)
    np.testing.assert_array_equal(received, expected["rainfall_rate_member"].values)


def test_members_without_a_seed_differ_from_call_to_call(nowcaster, rain):
    once, again = (forecast(rain, None, 2, timestep=5, n_ens_members=2, model=nowcaster) for _ in range(2))
    assert (once != again).any()


def test_the_velocity_has_no_effect(nowcaster, rain):
    fast = np.full((2, 48, 64), 9.0)
    received = forecast(rain, fast, 2, timestep=5, model=nowcaster)
    np.testing.assert_array_equal(received, forecast(rain, None, 2, timestep=5, model=nowcaster))


def test_missing_cells_may_be_nan_or_masked_and_stay_missing_where_no_frame_has_a_value(nowcaster, rain):
    gap = rain.copy()
    gap[-1, :10] = np.nan
    gap[:, :, :5] = np.nan
    received = forecast(gap, None, 2, timestep=5, model=nowcaster)
    assert np.isnan(received[:, :, :5]).all()
    assert np.isfinite(received[:, :, 5:]).all()
    masked = np.ma.masked_invalid(gap)
    np.testing.assert_array_equal(forecast(masked, None, 2, timestep=5, model=nowcaster), received)


def test_frames_before_the_first_one_are_made_along_the_motion(nowcaster):
    y, x = np.mgrid[:48, :64]
    drifting = np.stack([8 * np.exp(-((y - 24) ** 2 + (x - 20 - 2 * n) ** 2) / 60) for n in range(6)])
    whole, short, repeated = (
        forecast(frames, None, 6, timestep=5, model=nowcaster)
        for frames in (drifting, drifting[-3:], np.concatenate([drifting[3:4]] * 3 + [drifting[3:]]))
    )
    empty_first = drifting.copy()
    empty_first[:3] = np.nan
    np.testing.assert_array_equal(forecast(empty_first, None, 6, timestep=5, model=nowcaster), short)
    assert whole.max() > 1
    assert np.abs(short - whole).mean() < 0.2 * np.abs(repeated - whole).mean()


def test_cells_that_were_never_seen_stay_missing_with_few_frames(nowcaster, rain):
    gap = rain[-3:].copy()
    gap[:, :, :5] = np.nan
    received = forecast(gap, None, 2, timestep=5, model=nowcaster)
    assert np.isnan(received[:, :, :5]).all()
    assert np.isfinite(received[:, :, 5:]).all()


def test_frames_without_rain_give_no_rain(nowcaster):
    received = forecast(np.zeros((6, 32, 40)), None, 12, timestep=5, kmperpixel=1, model=nowcaster)
    assert received.shape == (12, 32, 40)
    assert not received.any()


def test_a_model_with_durations_takes_lead_times_between_the_steps(make_nowcaster, make_rain):
    rain = make_rain(height=12, width=8)["rain"].values[3:6]
    model = make_nowcaster(model={"duration_strategy": "linear"}, data={"max_gap": 3600})
    assert forecast(rain, None, [0.5, 1, 2.5], timestep=5, model=model).shape == (3, 12, 8)
    with pytest.raises(ConfigError, match=r"timesteps: expected .* whole numbers of steps .*got \[0.5\]"):
        forecast(rain, None, [0.5], timestep=5, model=make_nowcaster())


ZEROS = np.zeros((6, 32, 40))


@pytest.mark.parametrize(
    ("kind", "argument", "changed"),
    [
        (ShapeError, "precip", {"precip": ZEROS[0]}),
        (ShapeError, "precip", {"precip": ZEROS[:1]}),
        (DataError, "precip", {"precip": ZEROS - 15}),
        (DataError, "precip", {"precip": np.concatenate([ZEROS, np.full((1, 32, 40), np.nan)])}),
        (DataError, "precip", {"precip": np.concatenate([np.full((5, 32, 40), np.nan), ZEROS[:1]])}),
        (ShapeError, "velocity", {"velocity": np.zeros((32, 40, 2))}),
        (ConfigError, "timestep", {"timestep": None}),
        (ConfigError, "timestep", {"timestep": -5}),
        (DataError, "time step", {"timestep": 10}),
        (ConfigError, "kmperpixel", {"kmperpixel": 0}),
        (DataError, "grid spacing", {"kmperpixel": 2}),
        (ConfigError, "timesteps", {"timesteps": 0}),
        (ConfigError, "timesteps", {"timesteps": 10**12}),
        (ConfigError, "timesteps", {"timesteps": []}),
        (ConfigError, "timesteps", {"timesteps": 12.0}),
        (ConfigError, "timesteps", {"timesteps": [3, 2]}),
        (ConfigError, "timesteps", {"timesteps": [1, 1.5]}),
        (ConfigError, "n_ens_members", {"n_ens_members": 1}),
        (ConfigError, "seed", {"seed": 1}),
        (ConfigError, "num_workers", {"num_workers": 2}),
    ],
)
def test_refusals(nowcaster, refused, kind, argument, changed):
    arguments = {"precip": ZEROS, "velocity": None, "timesteps": 2, "timestep": 5, "model": nowcaster} | changed
    with refused(kind, argument):
        forecast(**arguments)


def test_models_of_other_values_are_refused(make_nowcaster, refused):
    for options in ({"units": "dBZ", "transform": Reflectivity()}, {"variables": ("rain", "hail")}):
        with refused(ConfigError, "model"):
            forecast(ZEROS, None, 2, timestep=5, model=make_nowcaster(**options))


def test_pysteps_has_the_method_after_registration(methods, rain, nowcaster):
    from pysteps.nowcasts import get_method

    register(timestep=5, model=nowcaster)
    register(timestep=5, model=nowcaster)  # again, as in a notebook
    method = get_method("ConvLSTM")
    np.testing.assert_array_equal(method(rain, None, 2), forecast(rain, None, 2, timestep=5, model=nowcaster))


def test_a_method_of_pysteps_is_not_replaced(methods, refused):
    before = methods["steps"]
    for name in ("steps", "Mine"):
        with refused(ConfigError, "name"):
            register(name)
    assert methods["steps"] is before


def test_linear_blending_takes_the_method_by_its_name(methods, rain, nowcaster):
    from pysteps.blending.linear_blending import forecast as blend

    register(timestep=5, model=nowcaster)
    metadata = {"unit": "mm/h", "transform": None, "accutime": 5, "threshold": 0.1, "zerovalue": 0.0}
    nwp = np.ones((12, 48, 64))
    times = {"start_blending": 20, "end_blending": 40}
    blended = blend(rain, metadata, np.zeros((2, 48, 64)), 12, 5, "convlstm", nwp, metadata, **times)
    ours = forecast(rain, None, 8, timestep=5, model=nowcaster)  # pysteps asks for no more
    np.testing.assert_allclose(blended[:4], ours[:4], atol=1e-6)  # before the blending starts
    np.testing.assert_allclose(blended[5], (ours[5] + 1) / 2, atol=1e-6)  # halfway
    np.testing.assert_array_equal(blended[7:], 1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of pysteps, for weights of one model
def test_the_examples_of_the_page_run(methods, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```py(?:thon)?\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    values = {"__name__": "page"}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), values)  # noqa: S102 (our own page)
    assert len(blocks) == 3
    assert values["blended"].shape == (4, 3, *values["rain"].shape[1:])
    assert np.isfinite(values["blended"]).all()


def test_registration_without_pysteps_names_the_command_that_installs_it(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "pysteps.nowcasts", None)
    with refused(DependencyError, "pysteps"):
        register()
