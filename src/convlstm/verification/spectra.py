"""Power by wavelength: loss of fine scales, remains of the last input frame, and artefacts at the patch size.

Fields are transformed after three steps. Cells that are missing in any field are left out of the mean, the mean is
subtracted, and missing cells become 0. A Hann window reduces the field towards its edges, because the transform treats
opposite edges as neighbours. The window has a mean square of 1, so it keeps the level of power.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import fft

from convlstm.verification.intervals import resampling_weights, value_and_interval

FINE_SCALES = 4.0
"""Wavelengths below this number of cells are fine scales."""

OBSERVATION = "observation"
"""The name of the observation in the column `method` of both tables."""

_SPECTRUM_COLUMNS = ("method", "lead_time", "wavelength", "power", "cases")
_FINE_COLUMNS = ("method", "lead_time", "score", "value", "lower", "upper", "cases")


@dataclass(frozen=True, eq=False)
class Grid:
    """The frequencies of the half plane that a real transform returns, and the window before it."""

    window: NDArray[np.float64]  # (y, x), mean square 1
    rows: NDArray[np.float64]  # cycles over the grid along y (y, 1)
    columns: NDArray[np.float64]  # cycles over the grid along x (1, x // 2 + 1)
    weight: NDArray[np.float64]  # how often each column occurs in the whole plane (1, x // 2 + 1)
    frequency: NDArray[np.float64]  # cycles per cell (y, x // 2 + 1)
    ring: NDArray[np.intp]  # number of the ring of each frequency (y, x // 2 + 1)
    rings: NDArray[np.intp]  # the rings with a wavelength from the longer side down to two cells, ascending

    @property
    def wavelengths(self) -> NDArray[np.float64]:
        """The wavelength of each of `rings` in cells, descending."""
        wavelengths: NDArray[np.float64] = max(self.window.shape) / self.rings
        return wavelengths

    @property
    def fine(self) -> NDArray[np.bool_]:
        """The frequencies of fine scales (y, x // 2 + 1)."""
        return self.frequency > 1 / FINE_SCALES + 1e-9


def make_grid(height: int, width: int) -> Grid:
    """Return the frequencies of fields of this size.

    Ring k has the frequencies within half a step of k / n cycles per cell, where n is the longer side. For a square
    grid the rings are those of `pysteps.utils.spectral.rapsd`.
    """
    rows = np.fft.fftfreq(height, 1 / height)[:, None].astype(np.float64)
    columns = np.fft.rfftfreq(width, 1 / width)[None].astype(np.float64)
    frequency = np.hypot(rows / height, columns / width)
    longest = max(height, width)
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in (height, width)))
    middle = (columns == 0) | (2 * columns == width)
    return Grid(
        window=window / np.sqrt(np.mean(window**2)),
        rows=rows,
        columns=columns,
        weight=np.where(middle, 1.0, 2.0),
        frequency=frequency,
        ring=np.rint(frequency * longest).astype(np.intp),
        rings=np.arange(1, (longest - 1) // 2 + 1),
    )


def transform(
    field: NDArray[np.floating], grid: Grid, known: NDArray[np.bool_] | None = None
) -> NDArray[np.complex128]:
    """Return the transform (y, x // 2 + 1) of a field (y, x), scaled so that its squares are powers.

    `known` marks the cells to use, by default the finite ones. White noise of variance 1 has a mean power of 1.
    """
    known = np.isfinite(field) if known is None else known
    if not known.any():
        return np.zeros(grid.frequency.shape, np.complex128)
    values = np.where(known, field, 0.0).astype(np.float64)
    values = np.where(known, values - values.sum() / known.sum(), 0.0)
    spectrum: NDArray[np.complex128] = fft.rfft2(values * grid.window) / np.sqrt(field.size)
    return spectrum


def radial_power(power: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Return the mean power of each ring from powers (y, x // 2 + 1), in the order of `grid.wavelengths`.

    Args:
        power: Squared absolute values of `transform`, in the squared unit of the field.
        grid: The result of `make_grid`.

    Returns:
        One mean for each ring, in the squared unit of the field.

    Example:
        >>> grid = make_grid(32, 32)
        >>> wave = np.cos(2 * np.pi * np.arange(32) / 8) * np.ones((32, 1))
        >>> float(grid.wavelengths[np.argmax(radial_power(np.abs(transform(wave, grid)) ** 2, grid))])
        8.0
    """
    weight = np.broadcast_to(grid.weight, power.shape)
    count = grid.ring.max() + 1
    total = np.bincount(grid.ring.ravel(), (weight * power).ravel(), count)
    cells = np.bincount(grid.ring.ravel(), weight.ravel(), count)
    means: NDArray[np.float64] = (total[grid.rings]) / cells[grid.rings]
    return means


def fine_scale_correlation(
    forecast: NDArray[np.floating], last_frame: NDArray[np.floating], *, longest: float = FINE_SCALES
) -> float:
    """Return the correlation of the fine scales of two sets of fields, pooled over the cases.

    A forecast that still shows the fine structure of the last input frame at its old place has a high value. The same
    correlation of the observation is what the weather itself keeps; persistence has 1.

    Args:
        forecast: Fields (case, y, x), NaN where missing.
        last_frame: Fields of the same shape, such as the last input frame of each case.
        longest: Wavelengths below this number of cells are compared.

    Returns:
        The correlation from −1 to 1; NaN if a set has no variation at fine scales.

    Example:
        >>> field = np.random.default_rng(0).random((1, 16, 16))
        >>> round(fine_scale_correlation(field, field), 6), round(fine_scale_correlation(-field, field), 6)
        (1.0, -1.0)
    """
    grid = make_grid(*forecast.shape[1:])
    chosen = np.where(grid.frequency > 1 / longest + 1e-9, grid.weight, 0.0)
    sums = np.zeros(3)
    for fields in zip(forecast, last_frame, strict=True):
        known = np.isfinite(fields[0]) & np.isfinite(fields[1])
        ours, theirs = (transform(field, grid, known) for field in fields)
        sums += _products(ours, theirs, chosen)
    return float(_correlation(*sums))


def patch_peak(power: NDArray[np.float64], grid: Grid, patch_size: int) -> float:
    """Return how much the power at the period of the patches exceeds its surroundings, in dB.

    A model that writes its output in patches may have an error that depends on the place within a patch. It repeats
    every `patch_size` cells, so it has its power near multiples of 1 / patch_size cycles per cell along y and x. Other
    frequencies of the same rings are the surroundings. Constant patches with random values are no such error.

    Args:
        power: Squared absolute values of `transform` (y, x // 2 + 1), a mean over cases.
        grid: The result of `make_grid`.
        patch_size: Side of a patch in cells.

    Returns:
        0 without a peak; NaN for patches of one cell, or if the grid has less than four patches along a side.

    Example:
        >>> grid = make_grid(64, 64)
        >>> noise = np.random.default_rng(0).normal(size=(64, 64))
        >>> pattern = np.tile(np.random.default_rng(1).normal(size=(4, 4)), (16, 16))
        >>> peaks = [patch_peak(np.abs(transform(f, grid)) ** 2, grid, 4) for f in (noise, noise + pattern)]
        >>> abs(peaks[0]) < 1, peaks[1] > 10
        (True, True)
    """
    height, width = grid.window.shape
    if patch_size == 1 or min(height, width) < 4 * patch_size:
        return np.nan
    multiple = [np.rint(grid.rows * patch_size / height), np.rint(grid.columns * patch_size / width)]
    near = (np.abs(grid.rows - multiple[0] * height / patch_size) <= 1) & (
        np.abs(grid.columns - multiple[1] * width / patch_size) <= 1
    )
    near &= (multiple[0] != 0) | (multiple[1] != 0)
    inside = (grid.ring >= 1) & (grid.ring <= grid.rings[-1])
    weight = np.broadcast_to(grid.weight, power.shape)
    count = grid.ring.max() + 1
    total, cells = (
        [np.bincount(grid.ring[part], values[part], count) for part in (near & inside, ~near & inside)]
        for values in (weight * power, weight)
    )
    compared = (cells[0] > 0) & (cells[1] > 0)
    expected = (cells[0][compared] * total[1][compared] / cells[1][compared]).sum()
    peak = total[0][compared].sum()
    return float(10 * np.log10(peak / expected)) if peak > 0 and expected > 0 else np.nan


def spectrum_tables(
    forecast: xr.DataArray, observation: xr.DataArray, last_frame: xr.DataArray, *, patch_size: int = 1, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the power by wavelength, and two scores of fine scales, for all methods and the observation.

    Every field of a case is compared on the cells that none of them misses. Powers are means over the cases.

    Args:
        forecast: Forecasts (method, init_time, lead_time, y, x), NaN where missing, with coordinates method and
            lead_time (minutes).
        observation: Observations at the valid times of the forecasts (init_time, lead_time, y, x), in the same unit.
        last_frame: The last input frame of each case (init_time, y, x), in the same unit.
        patch_size: Side of the patches that the model writes, in cells.
        seed: Seed of the bootstrap over cases that gives the intervals.

    Returns:
        Two tables whose method is also `observation`. The first has the columns method, lead_time (minutes), wavelength
        (cells), power (10 · log10 of the squared unit of the data; NaN for no power) and cases. The second has method,
        lead_time, score, value, lower, upper (90 % interval) and cases. Its scores are `last_frame_correlation` (see
        `fine_scale_correlation`) and `patch_peak` (dB, without interval; only for patches of more than one cell).

    Example:
        >>> rain = xr.DataArray(np.random.default_rng(0).random((2, 1, 16, 16)),
        ...                     dims=("init_time", "lead_time", "y", "x"), coords={"lead_time": [5.0]})
        >>> still = rain.expand_dims(method=["still"])
        >>> spectra, fine = spectrum_tables(still, rain, rain[:, 0])
        >>> fine[["method", "value"]].round(6).values.tolist()
        [['observation', 1.0], ['still', 1.0]]
    """
    grid = make_grid(*observation.shape[-2:])
    methods = [OBSERVATION, *map(str, forecast["method"].values)]
    weights = resampling_weights(observation.sizes["init_time"], seed)
    spectra: list[dict[str, object]] = []
    fine: list[dict[str, object]] = []
    for lead in range(observation.sizes["lead_time"]):
        at_lead = {"lead_time": lead}
        fields = np.concatenate([observation[at_lead].values[None], forecast[at_lead].values])
        sums = _sum_spectra(fields, last_frame.values, grid)
        for place, method in enumerate(methods):
            key = {"method": method, "lead_time": float(forecast["lead_time"][lead])}
            powers = radial_power(sums.power[place], grid)
            for wavelength, power in zip(grid.wavelengths.tolist(), powers.tolist(), strict=True):
                decibels = 10 * np.log10(power) if power > 0 else np.nan
                spectra.append(key | {"wavelength": wavelength, "power": decibels, "cases": sums.cases})
            pooled = weights.values @ sums.products[place]  # (draw, 3)
            score = xr.DataArray(_correlation(*pooled.T), dims="draw")
            scores = {"last_frame_correlation": value_and_interval(score, sums.cases)}
            if patch_size > 1:
                scores["patch_peak"] = (patch_peak(sums.power[place], grid, patch_size), np.nan, np.nan)
            for name, (value, lower, upper) in scores.items():
                numbers: Mapping[str, object] = {"value": value, "lower": lower, "upper": upper, "cases": sums.cases}
                fine.append({**key, "score": name, **numbers})
    return pd.DataFrame(spectra, columns=list(_SPECTRUM_COLUMNS)), pd.DataFrame(fine, columns=list(_FINE_COLUMNS))


@dataclass(frozen=True, eq=False)
class _Sums:
    power: NDArray[np.float64]  # mean over cases (method, y, x // 2 + 1)
    products: NDArray[np.float64]  # fine scales of method × last frame, and of each with itself (method, case, 3)
    cases: int  # number of cases with a cell that no field misses


def _sum_spectra(fields: NDArray[np.floating], last_frames: NDArray[np.floating], grid: Grid) -> _Sums:
    """Return the sums of fields (method, case, y, x) and last frames (case, y, x), one case at a time."""
    fine = np.where(grid.fine, grid.weight, 0.0)
    power = np.zeros((len(fields), *grid.frequency.shape))
    products = np.zeros((*fields.shape[:2], 3))
    cases = 0
    for case, last_frame in enumerate(last_frames):
        known = np.isfinite(last_frame) & np.isfinite(fields[:, case]).all(axis=0)
        if not known.any():
            continue
        cases += 1
        last = transform(last_frame, grid, known)
        for place, field in enumerate(fields[:, case]):
            ours = transform(field, grid, known)
            power[place] += ours.real**2 + ours.imag**2
            products[place, case] = _products(ours, last, fine)
    return _Sums(power / max(cases, 1), products, cases)


def _products(
    ours: NDArray[np.complex128], theirs: NDArray[np.complex128], weight: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Return the weighted sums of the product of two transforms and of their squares (Parseval's theorem)."""
    return (
        float((weight * (ours.real * theirs.real + ours.imag * theirs.imag)).sum()),
        float((weight * (ours.real**2 + ours.imag**2)).sum()),
        float((weight * (theirs.real**2 + theirs.imag**2)).sum()),
    )


def _correlation(
    product: NDArray[np.float64] | float, ours: NDArray[np.float64] | float, theirs: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Return the correlation of pooled sums; NaN without variation."""
    scale = np.sqrt(np.asarray(ours) * np.asarray(theirs))
    result: NDArray[np.float64] = np.where(scale > 0, product / np.where(scale > 0, scale, 1.0), np.nan)
    return result
