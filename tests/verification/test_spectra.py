"""Spectra of known fields: waves, white noise, smoothed fields, ghosts of a frame, and patterns of patches."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

from convlstm.verification import fine_scale_correlation, spectrum_tables
from convlstm.verification.spectra import make_grid, patch_peak, radial_power, transform

DIMS = ("init_time", "lead_time", "y", "x")


def power(field):
    grid = make_grid(*field.shape)
    return np.abs(transform(field, grid)) ** 2, grid


@pytest.mark.parametrize("shape", [(64, 64), (63, 63), (48, 64), (65, 40)])
def test_the_power_of_white_noise_is_its_variance_at_every_wavelength(shape):
    rng = np.random.default_rng(0)
    grid = make_grid(*shape)
    mean = np.mean([np.abs(transform(3.0 * rng.normal(size=shape), grid)) ** 2 for _ in range(200)], axis=0)
    found = radial_power(mean, grid)
    assert len(found) == (max(shape) - 1) // 2
    assert found[2:] == pytest.approx(9.0, rel=0.1)


@pytest.mark.parametrize("shape", [(64, 64), (48, 64), (33, 70)])
def test_power_is_the_mean_square_of_the_windowed_field(shape):
    """Parseval: the half plane with its weights has all the power."""
    field = np.random.default_rng(1).gamma(0.5, size=shape)
    squares, grid = power(field)
    windowed = (field - field.mean()) * grid.window
    assert (squares * grid.weight).sum() == pytest.approx((windowed**2).sum())
    assert (grid.window**2).mean() == pytest.approx(1.0)


@pytest.mark.parametrize("wavelength", [4, 8, 16])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_has_its_peak_at_its_length_along_both_axes(wavelength, axis):
    wave = np.broadcast_to(np.cos(2 * np.pi * np.arange(96) / wavelength), (64, 96)).copy()
    squares, grid = power(wave if axis else wave.T)
    assert grid.wavelengths[np.argmax(radial_power(squares, grid))] == wavelength


def test_missing_cells_neither_add_power_nor_move_the_mean():
    field = np.full((32, 32), 7.0)
    field[4:9, 3:20] = np.nan
    assert np.abs(power(field)[0]).max() < 1e-20
    assert np.abs(power(np.full((32, 32), np.nan))[0]).max() == 0


def test_a_ghost_of_the_last_frame_is_measured():
    """Half of the fine structure from the last frame, half unrelated, of equal strength: correlation √½."""
    rng = np.random.default_rng(2)
    last, other = rng.normal(size=(2, 40, 64, 64))
    assert fine_scale_correlation(last + other, last) == pytest.approx(np.sqrt(0.5), abs=0.02)
    assert fine_scale_correlation(other, last) == pytest.approx(0.0, abs=0.02)
    assert fine_scale_correlation(0.1 * last + 5, last) == pytest.approx(1.0)
    assert fine_scale_correlation(-last, last) == pytest.approx(-1.0)


def test_only_fine_scales_are_correlated():
    """Waves of 16 and of 3.2 cells on 64: the coarse one is shared, the fine one is at a right angle in phase."""
    x = np.arange(64)
    coarse = np.cos(2 * np.pi * x / 16)
    first, second = coarse + np.cos(2 * np.pi * x / 3.2), coarse + np.sin(2 * np.pi * x / 3.2)
    fields = [np.broadcast_to(f, (1, 64, 64)) for f in (first, second)]
    assert fine_scale_correlation(*fields) == pytest.approx(0.0, abs=1e-3)
    assert fine_scale_correlation(*fields, longest=100) > 0.4


def test_the_correlation_is_that_of_high_pass_filtered_fields():
    rng = np.random.default_rng(3)
    forecast, last = rng.gamma(0.5, size=(2, 3, 32, 48))
    last += forecast
    grid = make_grid(32, 48)
    filtered = []
    for fields in (forecast, last):
        windowed = (fields - fields.mean(axis=(1, 2), keepdims=True)) * grid.window
        spectrum = np.fft.fft2(windowed)
        frequency = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(48)[None])
        filtered.append(np.fft.ifft2(np.where(frequency > 0.25 + 1e-9, spectrum, 0)).real)
    expected = (filtered[0] * filtered[1]).sum() / np.sqrt((filtered[0] ** 2).sum() * (filtered[1] ** 2).sum())
    assert fine_scale_correlation(forecast, last) == pytest.approx(expected, rel=1e-9)


def test_fields_without_fine_scales_have_no_correlation():
    assert np.isnan(fine_scale_correlation(np.zeros((2, 16, 16)), np.ones((2, 16, 16))))


@pytest.mark.parametrize("patch", [2, 4, 8])
def test_a_pattern_within_patches_is_a_peak_at_their_size_only(patch):
    rng = np.random.default_rng(4)
    grid = make_grid(64, 80)
    noise = rng.normal(size=(40, 64, 80))
    pattern = np.tile(rng.normal(size=(patch, patch)), (64 // patch, 80 // patch))
    plain, patterned = (
        np.mean([np.abs(transform(field, grid)) ** 2 for field in fields], axis=0)
        for fields in (noise, noise + 0.8 * pattern)
    )
    assert patch_peak(patterned, grid, patch) > 6
    assert abs(patch_peak(plain, grid, patch)) < 1


def test_the_peak_of_smooth_rain_with_an_error_of_the_patches():
    """The error grows with the rain, as that of a model that writes patches."""
    rain = np.maximum(gaussian_filter(np.random.default_rng(5).normal(size=(96, 96)), 5) * 30, 0)
    pattern = 1 + 0.2 * np.tile(np.random.default_rng(6).normal(size=(4, 4)), (24, 24))
    assert patch_peak(*power(rain * pattern), 4) > patch_peak(*power(rain), 4) + 10


def test_no_peak_is_asked_for_patches_of_one_cell_or_a_few_patches():
    squares, grid = power(np.random.default_rng(0).normal(size=(32, 32)))
    assert np.isnan(patch_peak(squares, grid, 1))
    assert np.isnan(patch_peak(squares, grid, 9))
    assert np.isnan(patch_peak(np.zeros_like(squares), grid, 4))


@pytest.fixture
def drifting():
    """Six cases of noise, and forecasts: the truth, a smoothed truth, the last frame."""
    rng = np.random.default_rng(7)
    frames = rng.gamma(0.5, size=(6, 3, 48, 48))
    coords = {"init_time": np.arange(6), "lead_time": [5.0, 10.0]}
    observation = xr.DataArray(frames[:, 1:], dims=DIMS, coords=coords)
    smooth = xr.DataArray(gaussian_filter(frames[:, 1:], (0, 0, 2, 2)), dims=DIMS, coords=coords)
    last = xr.DataArray(frames[:, 0], dims=("init_time", "y", "x"))
    persistence = xr.DataArray(np.repeat(frames[:, :1], 2, axis=1), dims=DIMS, coords=coords)
    forecast = xr.concat([observation, smooth, persistence], "method").assign_coords(method=["true", "smooth", "last"])
    return forecast, observation, last


def test_tables_of_known_forecasts(drifting):
    spectra, fine = spectrum_tables(*drifting, patch_size=4)
    assert set(spectra["method"]) == {"observation", "true", "smooth", "last"}
    power_of = spectra.set_index(["method", "lead_time", "wavelength"])["power"]
    assert power_of["true"].values == pytest.approx(power_of["observation"].values)
    # a Gaussian of 2 cells: exp(−(2π · 2 / λ)²) of the power remains, 10 dB · (4π/16)² / ln 10 less at 16 cells
    loss = power_of[("observation", 5.0, 16.0)] - power_of[("smooth", 5.0, 16.0)]
    assert loss == pytest.approx(10 * (4 * np.pi / 16) ** 2 / np.log(10), abs=1.0)
    assert power_of[("observation", 5.0, 48 / 20)] - power_of[("smooth", 5.0, 48 / 20)] > 15
    scores = fine[fine["score"] == "last_frame_correlation"].set_index(["method", "lead_time"])
    assert scores.loc["last", "value"].values == pytest.approx([1.0, 1.0])
    assert abs(scores.loc["true", "value"].values).max() < 0.05
    assert (scores["lower"] <= scores["value"] + 1e-12).all()
    assert (scores["cases"] == 6).all()
    peaks = fine[fine["score"] == "patch_peak"]
    assert len(peaks) == 4 * 2
    assert peaks["lower"].isna().all()


def test_the_tables_are_those_of_the_functions(drifting):
    forecast, observation, last = drifting
    spectra, fine = spectrum_tables(forecast, observation, last)
    grid = make_grid(48, 48)
    mean = np.mean([np.abs(transform(f, grid)) ** 2 for f in observation[:, 1].values], axis=0)
    rows = spectra.query("method == 'observation' and lead_time == 10")
    assert rows["power"].tolist() == pytest.approx((10 * np.log10(radial_power(mean, grid))).tolist())
    value = fine.query("method == 'smooth' and lead_time == 10")["value"].item()
    assert value == pytest.approx(fine_scale_correlation(forecast[1, :, 1].values, last.values))
    assert "patch_peak" not in set(fine["score"])


def test_gaps_of_one_field_are_left_out_of_all(drifting):
    forecast, observation, last = drifting
    gap = observation.copy(deep=True)
    gap[:, :, 10:14, 20:30] = np.nan
    spectra, _ = spectrum_tables(forecast, gap, last)
    by_method = spectra.set_index(["method", "lead_time", "wavelength"])["power"]
    assert by_method["true"].values == pytest.approx(by_method["observation"].values)
    gap[2:] = np.nan
    assert (spectrum_tables(forecast, gap, last)[0]["cases"] == 2).all()


def test_dry_fields_have_no_power_and_do_no_harm(drifting):
    forecast, observation, last = (0 * array for array in drifting)
    spectra, fine = spectrum_tables(forecast, observation, last, patch_size=4)
    assert spectra["power"].isna().all()
    assert fine["value"].isna().all()
