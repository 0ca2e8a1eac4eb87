"""Members of an ensemble: random fields of the stated statistics, and members that agree with the probabilities."""

import copy
import dataclasses
import re
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from convlstm.errors import ConfigError
from convlstm.nowcast.cf_output import make_forecast
from convlstm.nowcast.events import EventRules
from convlstm.nowcast.members import make_members
from convlstm.nowcast.noise import Noise, _white

LEADS = np.array([300.0, 900.0, 3600.0])
SMALL = Noise(slope=3.0, outer=16.0, lifetime=60.0, growth=1.5)


@pytest.fixture(scope="module")
def fields():
    """Many random fields (sample, lead_time, height, width)."""
    random = np.random.default_rng(0)
    return np.stack([np.stack(list(SMALL.fields((48, 60), LEADS, random))) for _ in range(200)])


def test_the_fields_have_mean_0_and_variance_1_in_every_cell_and_column(fields):
    assert fields.dtype == np.float32
    assert np.abs(fields.mean(axis=0)).max() < 0.3  # four standard errors of 200 samples
    by_column = (fields.astype(np.float64) ** 2).mean(axis=(0, 2))
    assert by_column == pytest.approx(np.ones_like(by_column), abs=0.12)
    assert (fields.astype(np.float64) ** 2).mean(axis=(0, 2, 3)) == pytest.approx([1, 1, 1], abs=0.02)


def test_neighbours_are_alike_in_both_directions_and_distant_cells_are_not(fields):
    def correlation(lead, rows, columns):
        f = fields[:, lead].astype(np.float64)
        return (f[:, : 48 - rows, : 60 - columns] * f[:, rows:, columns:]).mean()

    for lead in range(3):
        assert correlation(lead, 0, 1) == pytest.approx(correlation(lead, 1, 0), abs=0.02)
        assert correlation(lead, 0, 1) > correlation(lead, 0, 4) > 0.03
        assert abs(correlation(lead, 0, 40)) < 0.05
    assert (
        abs((fields[:, 2, :, 0] * fields[:, 2, :, -1]).mean()) < 0.08
    )  # the transform's period is wider than the field


def test_small_scales_vary_first_and_fields_follow_one_another(fields):
    f = fields.astype(np.float64)
    by_lead = [(f[:, lead, :, :-3] * f[:, lead, :, 3:]).mean() for lead in range(3)]
    assert by_lead[0] < by_lead[1] - 0.03 < by_lead[2] - 0.06
    near, far = (f[:, 0] * f[:, 1]).mean(), (f[:, 0] * f[:, 2]).mean()
    assert near > 0.2
    assert near > far + 0.1


def test_the_power_decreases_with_the_stated_slope():
    noise = Noise(slope=3.0, outer=16.0, lifetime=1.0, growth=0.0)  # every scale at its full power at once
    random = np.random.default_rng(1)
    samples = np.stack([next(noise.fields((240, 240), np.array([1e4]), random)) for _ in range(10)])
    window = np.hanning(240)[:, None] * np.hanning(240)
    power = (np.abs(np.fft.rfft2(samples * window)) ** 2).mean(axis=0)
    wavenumber = np.hypot(np.fft.fftfreq(240)[:, None], np.fft.rfftfreq(240))
    edges = np.array([1 / 12, 1 / 6, 1 / 3])
    low, high = (power[(wavenumber >= a) & (wavenumber < b)].mean() for a, b in pairwise(edges))
    assert np.log2(low / high) == pytest.approx(3.0, abs=0.25)


def test_a_coarser_grid_has_the_same_scales_in_km():
    random = np.random.default_rng(2)
    coarse = np.stack([next(SMALL.fields((40, 40), np.array([1e5]), random, cell_km=2.0)) for _ in range(200)])
    fine = np.stack([next(SMALL.fields((40, 40), np.array([1e5]), random)) for _ in range(200)])
    assert (coarse[..., :-2] * coarse[..., 2:]).mean() == pytest.approx(
        (fine[..., :-4] * fine[..., 4:]).mean(), abs=0.06
    )


def test_a_wavelength_loses_its_correlation_at_the_stated_rate():
    noise = Noise(slope=3.0, outer=16.0, lifetime=60.0, growth=1.5)
    leads = np.array([3600.0, 3900.0, 4500.0])  # late, so that both have the same power
    random = np.random.default_rng(3)
    fields = np.stack([np.stack(list(noise.fields((40, 40), leads, random))) for _ in range(300)]).astype(np.float64)
    row = np.exp(-2j * np.pi * np.arange(40) / 8)  # a wavelength of 8 km
    wave = (fields * row).sum(axis=-1)  # (sample, lead_time, height)
    wave = wave.mean(axis=-1)  # no variation along columns
    power = (np.abs(wave) ** 2).mean(axis=0)
    for later, seconds in ((1, 300.0), (2, 900.0)):
        found = (wave[:, later] * wave[:, 0].conj()).mean().real / np.sqrt(power[0] * power[later])
        expected = np.exp(-seconds * (1 / 8) ** 1.5 / 60.0)
        assert found == pytest.approx(expected, abs=0.1)  # neighbouring waves leak into it


@pytest.mark.parametrize("width", [32, 33])
def test_white_noise_has_equal_power_in_every_column_of_the_transform(width):
    random = np.random.default_rng(4)
    shape = (20, width // 2 + 1)
    fields = [np.fft.irfft2(_white(shape, width, random), (20, width), norm="forward") for _ in range(400)]
    power = (np.abs(np.fft.rfft2(np.stack(fields), norm="forward")) ** 2).mean(axis=(0, 1))
    assert power == pytest.approx(np.ones_like(power), abs=0.06)  # four standard errors of 8,000 values


@pytest.mark.parametrize("lines", [(), (((0.0, 0.0), (0.3, 0.5), (1.4, 0.3), (4.0, 0.4)),)])
def test_the_mean_of_a_member_over_all_levels_is_that_of_the_classes(lines):
    rules = EventRules((0.1, 1.0, 5.0), ((0.5, 0.5, 0.5),), (0.0, 0.45, 2.2, 8.0), lines)
    probability = np.float32([0.8, 0.5, 0.2]).reshape(1, 3, 1, 1)
    moved, lead = np.full((1, 1, 1), 2.0, np.float32), np.array([1])
    levels = (np.arange(100_000, dtype=np.float32) + 0.5) / 100_000
    wide = np.broadcast_to(probability, (1, 3, 1, len(levels)))
    values = rules.member(wide, np.broadcast_to(moved, (1, 1, len(levels))), levels[None, None], lead)
    expected = rules.mean(probability, moved, lead).item()
    assert values.mean(dtype=np.float64) == pytest.approx(expected, rel=0.003)
    for k, (lower, upper) in enumerate([(0.1, 1.0), (1.0, 5.0), (5.0, np.inf)]):
        inside = values[(values >= np.float32(lower)) & (values < np.float32(upper))]
        line = lines[0][k + 1] if lines else (rules.class_means[k + 1], 0.0)
        of_class = line[0] + line[1] * np.clip(2.0, lower, upper)
        assert inside.mean(dtype=np.float64) == pytest.approx(of_class, rel=0.005), k


def case(nowcaster, frames, end=40):
    window = slice(end - 2, end + 1)
    inputs, seconds, leads = frames.read(window), frames.seconds[window], np.arange(1, 5) * frames.time_step
    return nowcaster.predict_probability(inputs[None], seconds[None], leads)[0], inputs, seconds, leads


def test_the_share_of_members_at_a_threshold_tends_to_its_probability(event_nowcaster, rain_frames):
    given = case(event_nowcaster, rain_frames)
    members = np.stack(list(make_members(event_nowcaster, *given, count=400)))
    for k, threshold in enumerate(event_nowcaster.spec.thresholds):
        share = (members >= np.float32(threshold)).mean(axis=0)
        assert np.abs(share - given[0][:, k]).max() < 0.13  # five standard errors of a share of one half
        assert share.mean() == pytest.approx(given[0][:, k].mean(), abs=0.02)
    assert np.isfinite(members).all()
    assert (members >= 0).all()


def test_the_scales_of_the_members_follow_the_distance_between_cells(event_nowcaster, rain_frames):
    probability, inputs, seconds, leads = case(event_nowcaster, rain_frames)
    known = event_nowcaster.pipeline.grid_spacing
    assert known is not None
    unknown = copy.copy(event_nowcaster)
    object.__setattr__(unknown, "pipeline", dataclasses.replace(event_nowcaster.pipeline, grid_spacing=None))

    def first(nowcaster, **options):
        return next(make_members(nowcaster, probability, inputs, seconds, leads, 2, **options))

    assert np.array_equal(first(unknown, spacing=known), first(event_nowcaster))
    assert np.array_equal(first(event_nowcaster, spacing=5 * known), first(event_nowcaster))
    assert not np.array_equal(first(unknown, spacing=5 * known), first(unknown))
    assert np.array_equal(first(unknown), first(unknown, spacing=1000.0))


def test_a_forecast_says_that_the_distance_between_cells_is_assumed(event_nowcaster, rain_frames, monkeypatch):
    unknown = copy.copy(event_nowcaster)
    object.__setattr__(unknown, "pipeline", dataclasses.replace(event_nowcaster.pipeline, grid_spacing=None))
    name = f"{rain_frames.variables[0]}_member"
    assert "1 km" not in make_forecast(unknown, rain_frames, members=2)[name].attrs["comment"]
    monkeypatch.setattr("convlstm.nowcast.cf_output.grid_spacing", lambda *_: None)
    assert "for cells of 1 km" in make_forecast(unknown, rain_frames, members=2)[name].attrs["comment"]
    assert "1 km" not in make_forecast(event_nowcaster, rain_frames, members=2)[name].attrs["comment"]


def test_lead_times_of_members_increase(event_nowcaster, rain_frames):
    probability, inputs, seconds, leads = case(event_nowcaster, rain_frames)
    with pytest.raises(ConfigError, match="lead times: expected minutes above 0 that increase"):
        next(make_members(event_nowcaster, probability, inputs, seconds, leads[::-1], 2))


def test_a_member_depends_on_seed_and_number_only(event_nowcaster, rain_frames):
    given = case(event_nowcaster, rain_frames)
    few, many, other = (
        np.stack(list(make_members(event_nowcaster, *given, count=count, seed=seed)))
        for count, seed in ((2, 0), (4, 0), (4, 1))
    )
    assert np.array_equal(few, many[:2])
    assert not np.array_equal(many[0], many[1])
    assert not np.array_equal(many[0], other[0])


def test_a_forecast_file_names_its_members_by_the_conventions(event_nowcaster, rain_frames):
    forecast = make_forecast(event_nowcaster, rain_frames, members=3, seed=7)
    name = rain_frames.variables[0]
    member = forecast[f"{name}_member"]
    assert member.dims == ("realization", "lead_time", rain_frames.y_dim, rain_frames.x_dim)
    assert forecast["realization"].attrs["standard_name"] == "realization"
    assert member.attrs["units"] == "mm/h"
    assert "seed 7" in member.attrs["comment"]
    assert f"{name}_member" not in make_forecast(event_nowcaster, rain_frames)


def test_members_are_refused_where_they_have_no_meaning(event_nowcaster, make_nowcaster, rain_frames):
    with pytest.raises(ConfigError, match=r"^members: expected a model of rain with `model.thresholds`.*of values"):
        make_forecast(make_nowcaster(), rain_frames, members=4)
    kelvin = make_nowcaster(units="K", model={"thresholds": [0.1, 1.0]})
    with pytest.raises(ConfigError, match="a model for K"):
        make_forecast(kelvin, rain_frames, members=4)
    for count in (1, -3, 5000):
        with pytest.raises(ConfigError, match="2 to 1000"):
            make_forecast(event_nowcaster, rain_frames, members=count)


def test_pysteps_blends_the_members_as_the_page_shows():
    pytest.importorskip("pysteps")
    pytest.importorskip("cv2")
    page = Path(__file__).parents[2] / "docs" / "events.md"
    blocks = re.findall(r"^```(?:py|python)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    needed = [block for block in blocks if "nowcaster = load_nowcaster" in block or "steps.forecast(" in block]
    assert len(needed) == 2
    with warnings.catch_warnings(action="ignore"):  # pysteps divides by the variance of a constant level
        exec(compile("\n".join(needed), str(page), "exec"), {"__name__": "page"})  # noqa: S102 (our own page)
