"""Power by wavelength: loss of fine scales, remains of the last input frame, and artefacts at the patch size.

Fields are transformed after three steps. Cells that are missing in any field are left out of the mean, the mean is
subtracted, and missing cells become 0. A Hann window reduces the field towards its edges, because the transform treats
opposite edges as neighbours. The window has a mean square of 1, so it keeps the level of power.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    return _ring_means(ring_sums(power, grid, 1), grid)


def ring_sums(power: NDArray[np.float64], grid: Grid, patch_size: int) -> NDArray[np.float64]:
    """Return the sum of the powers (y, x // 2 + 1) of each ring (2, ring).

    The second row is that of the frequencies near the period of the patches, which `patch_peak` compares with others.
    """
    near = _near_patches(grid, patch_size)
    weighted = np.broadcast_to(grid.weight, power.shape) * power
    count = int(grid.ring.max()) + 1
    return np.stack([np.bincount(grid.ring[part], weighted[part], count) for part in (~near, near)])


def _ring_means(sums: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    cells = np.bincount(grid.ring.ravel(), np.broadcast_to(grid.weight, grid.ring.shape).ravel())
    means: NDArray[np.float64] = sums.sum(axis=0)[grid.rings] / cells[grid.rings]
    return means


def _near_patches(grid: Grid, patch_size: int) -> NDArray[np.bool_]:
    """Return the frequencies near multiples of 1 / patch_size (y, x // 2 + 1); none for patches without a peak."""
    height, width = grid.window.shape
    if patch_size == 1 or min(height, width) < 4 * patch_size:
        return np.zeros(grid.ring.shape, bool)
    multiple = [np.rint(grid.rows * patch_size / height), np.rint(grid.columns * patch_size / width)]
    near: NDArray[np.bool_] = (np.abs(grid.rows - multiple[0] * height / patch_size) <= 1) & (
        np.abs(grid.columns - multiple[1] * width / patch_size) <= 1
    )
    near &= (multiple[0] != 0) | (multiple[1] != 0)
    return near


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
    return _peak(ring_sums(power, grid, patch_size), grid, patch_size)


def _peak(sums: NDArray[np.float64], grid: Grid, patch_size: int) -> float:
    """Return the result of `patch_peak` from the result of `ring_sums`."""
    near = _near_patches(grid, patch_size)
    if not near.any():
        return np.nan
    weight, count = np.broadcast_to(grid.weight, grid.ring.shape), int(grid.ring.max()) + 1
    others, cells = (np.bincount(grid.ring[part], weight[part], count)[grid.rings] for part in (~near, near))
    total_of_others, total = sums[:, grid.rings]
    compared = (cells > 0) & (others > 0)
    expected = (cells[compared] * total_of_others[compared] / others[compared]).sum()
    peak = total[compared].sum()
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
    fields = np.concatenate([observation.values[None], forecast.transpose("method", *observation.dims).values])
    cases = (case_spectra(fields[:, case], last, patch_size) for case, last in enumerate(last_frame.values))
    return spectrum_tables_of_sums(
        SpectrumSums.joined(cases),
        [str(method) for method in forecast["method"].values],
        forecast["lead_time"].values,
        (observation.shape[-2], observation.shape[-1]),
        patch_size=patch_size,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class SpectrumSums:
    """The sums of some cases, from which the tables of spectra follow; the first field is the observation."""

    power: NDArray[np.float64]  # sums of each ring over all cases, as `ring_sums` (field, lead_time, 2, ring)
    products: NDArray[np.float64]  # fine scales × last frame, and the squares of both (case, field, lead_time, 3)
    known: NDArray[np.bool_]  # whether a cell is missing in no field (case, lead_time)

    @classmethod
    def joined(cls, cases: Iterable[SpectrumSums]) -> SpectrumSums:
        """Return the sums of several cases, added in this order."""
        power: NDArray[np.float64] | float = 0.0
        products, known = [], []
        for case in cases:
            power = power + case.power
            products.append(case.products)
            known.append(case.known)
        return cls(np.asarray(power), np.concatenate(products), np.concatenate(known))


def case_spectra(fields: NDArray[np.floating], last_frame: NDArray[np.floating], patch_size: int) -> SpectrumSums:
    """Return the sums of one case: observation and forecasts (field, lead_time, y, x), last input frame (y, x)."""
    grid = make_grid(*last_frame.shape)
    fine = np.where(grid.fine, grid.weight, 0.0)
    power = np.zeros((*fields.shape[:2], 2, int(grid.ring.max()) + 1))
    products, known_leads = np.zeros((*fields.shape[:2], 3)), np.zeros(fields.shape[1], bool)
    for lead in range(fields.shape[1]):
        known = np.isfinite(last_frame) & np.isfinite(fields[:, lead]).all(axis=0)
        known_leads[lead] = known.any()
        if not known_leads[lead]:
            continue
        last = transform(last_frame, grid, known)
        for place, field in enumerate(fields[:, lead]):
            ours = transform(field, grid, known)
            power[place, lead] = ring_sums(ours.real**2 + ours.imag**2, grid, patch_size)
            products[place, lead] = _products(ours, last, fine)
    return SpectrumSums(power, products[None], known_leads[None])


def spectrum_tables_of_sums(
    sums: SpectrumSums,
    methods: Sequence[str],
    lead_times: Sequence[float] | NDArray[np.floating],
    shape: tuple[int, int],
    *,
    patch_size: int = 1,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of `spectrum_tables`; `shape` is that of a field, and lead times are in minutes."""
    grid = make_grid(*shape)
    weights = resampling_weights(len(sums.known), seed).values
    spectra: list[dict[str, object]] = []
    fine: list[dict[str, object]] = []
    for lead, lead_time in enumerate(lead_times):
        cases = int(sums.known[:, lead].sum())
        for place, method in enumerate([OBSERVATION, *methods]):
            key: dict[str, object] = {"method": method, "lead_time": float(lead_time)}
            power = sums.power[place, lead] / max(cases, 1)
            for wavelength, mean in zip(grid.wavelengths.tolist(), _ring_means(power, grid).tolist(), strict=True):
                decibels = 10 * np.log10(mean) if mean > 0 else np.nan
                spectra.append(key | {"wavelength": wavelength, "power": decibels, "cases": cases})
            pooled = weights @ sums.products[:, place, lead]  # (draw, 3)
            score = xr.DataArray(_correlation(*pooled.T), dims="draw")
            scores = {"last_frame_correlation": value_and_interval(score, cases)}
            if patch_size > 1:
                scores["patch_peak"] = (_peak(power, grid, patch_size), np.nan, np.nan)
            for name, (value, lower, upper) in scores.items():
                fine.append({**key, "score": name, "value": value, "lower": lower, "upper": upper, "cases": cases})
    return pd.DataFrame(spectra, columns=list(_SPECTRUM_COLUMNS)), pd.DataFrame(fine, columns=list(_FINE_COLUMNS))


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
