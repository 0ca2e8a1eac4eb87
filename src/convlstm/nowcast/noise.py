"""Random fields that are correlated in space and time, for the members of an ensemble.

The field of each lead time is Gaussian, with mean 0 and variance 1 in every cell. Its power decreases with the
wavenumber as in rain, and each wavelength has a lifetime that increases with it. The fields start from 0 at the start
of the forecast and are then scaled to variance 1. So small scales have the larger part of the variance at first, and
large ones later. The noise sets the correlation between cells and times only: how much members differ in a cell
follows from the probabilities. STEPS (Bowler et al., 2006) has noise of these two properties too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from convlstm.data.units import Field

Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class Noise:
    """The statistics of the random fields. The defaults are for radar rain (docs/events.md says how they were chosen).

    Args:
        slope: Exponent of the power by wavenumber: power ∝ wavenumber^−slope below the outer wavelength.
        outer: Wavelength in km above which the power is constant.
        lifetime: Time in seconds after which the correlation at a wavelength of 1 km is 1/e.
        growth: Exponent of the lifetime by wavelength in km: lifetime · wavelength^growth.
    """

    slope: float = 3.2
    outer: float = 128.0
    lifetime: float = 30.0
    growth: float = 1.7

    def fields(
        self,
        shape: tuple[int, int],
        seconds: NDArray[np.float64],
        random: np.random.Generator,
        cell_km: float = 1.0,
    ) -> Iterator[Field]:
        """Yield one field (height, width) for each lead time in seconds; lead times increase from above 0."""
        # the transform is periodic: a margin of half the outer wavelength makes opposite edges almost independent
        margin = int(self.outer / cell_km / 2)
        height, width = (fft.next_fast_len(side + margin, real=True) for side in shape)
        power, rate = self._by_wavenumber(height, width, cell_km)
        count = _waves(height, width)
        state, before = np.zeros(power.shape, np.complex64), 0.0
        for second in seconds.tolist():
            retained = np.exp(-rate * np.float32(second - before))
            state *= retained
            state += np.sqrt(power * (1 - retained**2)) * _white(power.shape, width, random)
            variance = float((count * power * (1 - np.exp(-2 * rate * np.float32(second)))).sum(dtype=np.float64))
            whole = fft.irfft2(state, (height, width), norm="forward", overwrite_x=False)
            yield np.asarray(whole[: shape[0], : shape[1]] / np.float32(np.sqrt(variance)), np.float32)
            before = second

    def _by_wavenumber(self, height: int, width: int, cell_km: float) -> tuple[Field, Field]:
        """Return the power and the decay rate in 1/s of each wavenumber of a real transform."""
        rows, columns = np.fft.fftfreq(height, cell_km), np.fft.rfftfreq(width, cell_km)
        wavenumber = np.hypot(rows[:, None], columns)
        limited = np.maximum(wavenumber, 1 / self.outer)
        power = limited**-self.slope
        power[0, 0] = 0  # no common value of all cells
        rate = limited**self.growth / self.lifetime
        return (power / power.max()).astype(np.float32), rate.astype(np.float32)


def _waves(height: int, width: int) -> Field:
    """Return the number of waves that each wavenumber of a real transform contains: itself, and its conjugate."""
    count = np.full((height, width // 2 + 1), 2.0, np.float32)
    count[:, 0] = 1
    if width % 2 == 0:
        count[:, -1] = 1
    return count


def _white(shape: tuple[int, int], width: int, random: np.random.Generator) -> Complex:
    """Return complex normal values with variance 1 for a real transform of this width.

    The transform uses the Hermitian part only of the first column, and of the last one of an even width. Its variance
    is half that of the column.
    """
    parts = random.standard_normal((*shape, 2), np.float32)
    parts *= np.float32(np.sqrt(0.5))
    parts[:, 0] *= np.float32(np.sqrt(2))
    if width % 2 == 0:
        parts[:, -1] *= np.float32(np.sqrt(2))
    white: Complex = parts.view(np.complex64)[..., 0]
    return white
