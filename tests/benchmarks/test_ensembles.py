"""`benchmarks/skill/ensembles.py`: spectra, reliability of areas and differences of CRPS, with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from benchmarks.skill import ensembles

from convlstm.verification.ensembles import case_ensemble_sums, join_cases


def test_white_noise_has_the_same_power_in_every_band():
    noise = np.random.default_rng(0).normal(size=(40, 256, 256))
    power = ensembles.spectrum(noise).mean(axis=0)
    assert power.shape == (len(ensembles.WAVELENGTHS) - 1,)
    assert power / power.mean() == pytest.approx(np.ones_like(power), abs=0.1)


def test_a_wave_is_in_the_band_of_its_wavelength():
    wave = np.sin(2 * np.pi * np.arange(256) / 20)[None, :] * np.ones((256, 1))
    power = ensembles.spectrum(wave)
    assert power.argmax() == 2  # from 32 to 16 km
    assert power[2] > 100 * np.delete(power, 2).max()


def areas_of(chance: np.ndarray, happened: np.ndarray, members: int) -> list[dict]:
    """Return the reliability of areas in which a share of the members, or the observation, has 3 mm/h, else 0."""
    leads, rows, columns = chance.shape
    wide = np.ones((ensembles.AREA, ensembles.AREA))
    rank = np.arange(members)[None, :, None, None]
    ensemble = np.kron(3.0 * (rank < np.rint(chance * members)[:, None]), wide)
    counts = np.zeros((leads, len(ensembles.AREA_THRESHOLDS), len(ensembles.BINS) - 1, 3))
    observed = np.kron(3.0 * happened, wide)
    ensembles.add_areas(counts, ensemble, observed, np.ones(observed.shape, bool))
    assert counts[..., 2].sum() == leads * rows * columns * len(ensembles.AREA_THRESHOLDS)
    return ensembles.reliability(counts)


def test_calibrated_areas_are_near_the_diagonal_and_overconfident_ones_are_not():
    random = np.random.default_rng(1)
    shape = (len(ensembles.LEADS), 30, 30)
    chance = random.integers(0, 11, shape) / 10
    rows = areas_of(chance, random.random(shape) < chance, members=10)
    assert len(rows) == len(ensembles.LEADS) * len(ensembles.AREA_THRESHOLDS)
    assert {row["areas"] for row in rows} == {900}
    # the sampling error of a class of 80 areas is 0.055 at most
    assert max(row["mean"] for row in rows) < 0.055
    assert max(row["largest"] for row in rows) < 0.2
    rows = areas_of(chance, random.random(shape) < 0.5, members=10)
    assert min(row["mean"] for row in rows) > 0.2


def test_areas_with_an_unknown_cell_are_left_out():
    side = 2 * ensembles.AREA
    known = np.ones((len(ensembles.LEADS), side, side), bool)
    known[:, 0, 0] = False
    ensemble, observed = np.zeros((len(ensembles.LEADS), 2, side, side)), np.zeros(known.shape)
    counts = np.zeros((len(ensembles.LEADS), len(ensembles.AREA_THRESHOLDS), len(ensembles.BINS) - 1, 3))
    ensembles.add_areas(counts, ensemble, observed, known)
    assert (counts[..., 2].sum(axis=-1) == 3).all()


def sums_of(error: float, cases: int = 12) -> xr.Dataset:
    """Return the sums of two equal members that are wrong by an error of the case, whose CRPS is this error."""
    shape = (len(ensembles.LEADS), 6, 6)
    steps = np.linspace(0.9, 1.1, cases)
    made = [case_ensemble_sums(np.full((shape[0], 2, *shape[1:]), error * f), np.zeros(shape)) for f in steps]
    return join_cases(made, np.array(ensembles.LEADS, float))


def test_the_difference_of_crps_is_that_of_known_errors():
    rows = ensembles.crps_differences({"model": sums_of(0.5), "STEPS": sums_of(0.8)})
    assert [row["lead_time"] for row in rows] == list(ensembles.LEADS)
    for row in rows:
        assert row["difference"] == pytest.approx(-0.3)
        assert -0.33 < row["lower"] < -0.3 < row["upper"] < -0.27
