"""Values of maps inside the page: rounded to few digits, packed, and decoded by the script."""

from __future__ import annotations

import base64
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.report.scales import Scale, round_down

STEPS = 1000
"""Rounded values within the range of a scale."""

WIDEST = 5
"""Values beyond the scale by more than so many times its range are shown as its ends."""

# (first value, step, number of values): three significant digits from 1 mm/h on
_RAIN_RUNS = ((0.0, 0.01, 1000), (10.0, 0.1, 900), (100.0, 1.0, 901))


@dataclass(frozen=True)
class Run:
    """Evenly spaced values."""

    start: float
    step: float
    count: int

    @property
    def decimals(self) -> int:
        """The number of decimals that the values have."""
        return max(0, -math.floor(math.log10(self.step) + 1e-9))

    @property
    def values(self) -> NDArray[np.float64]:
        """All values, ascending."""
        return np.round(self.start + self.step * np.arange(self.count), self.decimals)


@dataclass(frozen=True)
class Rounding:
    """The values that the page can show under a colour scale, ascending."""

    scale: Scale
    runs: tuple[Run, ...]
    open_ends: tuple[bool, bool] = (False, False)  # whether the first and the last one mean "or less" and "or more"

    @property
    def values(self) -> NDArray[np.float64]:
        """All values, ascending."""
        return np.concatenate([run.values for run in self.runs])

    def encode(self, frames: NDArray[np.floating]) -> str:
        """Return frames (time, y, x) as Base64 of a zlib stream.

        A code is 0 for missing data, else 1 plus the number of the nearest value in the same class of colour. The
        stream has the high bytes of all codes, then the low bytes.
        """
        values = self.values
        middles = (values[1:] + values[:-1]) / 2
        numbers = np.digitize(frames, middles)
        # a value that is rounded over an edge would have the colour of another class
        classes = self.scale.classify(frames).astype(np.int64)
        of_rounded = self.scale.classify(values).astype(np.int64)
        numbers += np.sign(classes - of_rounded[numbers])
        codes = np.where(np.isnan(frames), 0, np.clip(numbers, 0, len(values) - 1) + 1).astype(np.uint16)
        data = (codes >> 8).astype(np.uint8).tobytes() + (codes & 255).astype(np.uint8).tobytes()
        return base64.b64encode(zlib.compress(data, 9)).decode("ascii")

    def to_json(self) -> dict[str, Any]:
        """Return the runs, and the first code of each class, for the script."""
        scale = self.scale
        return {
            "units": scale.units,
            "palette": scale.palette(),
            "dark": scale.dark_palette(),
            "runs": [[run.start, run.step, run.count, run.decimals] for run in self.runs],
            "firsts": (np.searchsorted(self.values, scale.edges) + 1).tolist(),
            "open": self.open_ends,
            "marks": scale.marks(),
        }


def rain_rounding(scale: Scale) -> Rounding:
    """Return the values of rain rates: steps of 0.01 mm/h up to 10, of 0.1 up to 100, and of 1 up to 1,000."""
    return Rounding(scale, tuple(Run(*run) for run in _RAIN_RUNS), (False, True))


def even_rounding(scale: Scale, values: NDArray[np.floating]) -> Rounding:
    """Return evenly spaced values that contain all given ones, with about a thousand in the range of the scale."""
    low, high = scale.edges[0], scale.edges[-1]
    reach = high - low
    step = round_down(reach / STEPS)
    finite = values[np.isfinite(values)]
    open_ends = (False, False)
    if finite.size:
        ends = float(finite.min()), float(finite.max())
        lowest, highest = low - WIDEST * reach, high + WIDEST * reach
        open_ends = ends[0] < lowest, ends[1] > highest
        low, high = min(low, max(ends[0], lowest)), max(high, min(ends[1], highest))
    first = math.floor(low / step)
    return Rounding(scale, (Run(first * step, step, math.ceil(high / step) - first + 1),), open_ends)
