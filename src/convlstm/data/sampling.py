"""Sample windows and crops uniformly, or in proportion to rain."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from convlstm.data.frames import FRAMES_AT_ONCE, Frames, Window
from convlstm.data.windows import Starts
from convlstm.errors import DataError

Size = tuple[int, int]

WET = 0.1  # mm/h; threshold of rain, the lowest threshold of the scores
_SOFTNESS = 1.0  # mm/h; scale of the saturation above the threshold
_FLOOR = 0.02  # weight of a dry crop, so that the model also learns from dry areas
_BLOCK = 16  # cells; resolution of the wetness


class WindowSampler(Protocol):
    """The interface of a sampler of windows and crops."""

    def __call__(self, random: np.random.Generator) -> tuple[int, Window]:
        """Return the first frame of a window, and the rows and columns of a crop."""


class UniformSampler:
    """Sample every window and every crop (height, width) with equal probability."""

    def __init__(self, starts: Starts, grid: Size, crop: Size) -> None:
        self._starts, self._grid, self._crop = starts, grid, crop

    def __call__(self, random: np.random.Generator) -> tuple[int, Window]:
        """Return the first frame of a window, and the rows and columns of a crop."""
        start = int(self._starts[random.integers(len(self._starts))])
        rows, columns = (
            _slice(int(random.integers(whole - part + 1)), part)
            for whole, part in zip(self._grid, self._crop, strict=True)
        )
        return start, (rows, columns)


class WetSampler:
    """Sample windows and crops in proportion to their wetness, plus a small constant.

    A pixel's wetness is 1 − exp(−(R − 0.1) / 1 mm/h) above 0.1 mm/h, else 0: it saturates, so that a single cloudburst
    does not dominate. The wetness of a crop is the mean over its pixels and all frames of the window, at a resolution
    of 16 cells; missing pixels count as dry.

    Source: importance sampling as in Ravuri et al. (2021), doi:10.1038/s41586-021-03854-z, Methods.
    """

    def __init__(self, frames: Frames, starts: Starts, length: int, crop: Size) -> None:
        self._starts, self._length, self._crop, self._grid = starts, length, crop, frames.shape[2:]
        wetness, highest = _wetness(frames, starts, length)
        places = _places(wetness, self._grid, crop)
        self._cumulative = np.concatenate([np.zeros_like(places[:1]), places.cumsum(0)])  # over the frames before each
        mean = self._cumulative.mean((1, 2))
        window_wetness = (mean[starts + length] - mean[starts]) / length
        if not window_wetness.any():
            raise DataError(
                ", ".join(frames.variables),
                expected=f"rain above {WET} mm/h in the training windows",
                received=f"at most {highest:.3g} mm/h",
                hint="Choose days with more rain, or check the units.",
            )
        self._cumulative_weight = np.cumsum(window_wetness + _FLOOR)

    def __call__(self, random: np.random.Generator) -> tuple[int, Window]:
        """Return the first frame of a window, and the rows and columns of a crop."""
        start = int(self._starts[_pick(self._cumulative_weight, random)])
        total = self._cumulative[start + self._length] - self._cumulative[start]
        place_weight = total / self._length + _FLOOR
        place = divmod(_pick(np.cumsum(place_weight), random), place_weight.shape[1])
        # any cell of the block can be the first one, within the grid
        firsts = (
            int(random.integers(at * _BLOCK, min((at + 1) * _BLOCK, whole - part + 1)))
            for at, whole, part in zip(place, self._grid, self._crop, strict=True)
        )
        rows, columns = (_slice(first, part) for first, part in zip(firsts, self._crop, strict=True))
        return start, (rows, columns)


def _wetness(frames: Frames, starts: Starts, length: int) -> tuple[NDArray[np.float64], float]:
    """Return the wetness of every block of 16 × 16 cells (time, rows, columns), and the maximum rain rate."""
    height, width = frames.shape[2:]
    rows, columns = np.arange(0, height, _BLOCK), np.arange(0, width, _BLOCK)
    cells = np.outer(np.diff([*rows, height]), np.diff([*columns, width])) * frames.shape[1]
    wetness = np.zeros((frames.shape[0], len(rows), len(columns)))
    highest = 0.0
    used = np.unique(starts[:, None] + np.arange(length))
    for part in np.array_split(used, -(-len(used) // FRAMES_AT_ONCE)):
        rain = np.nan_to_num(frames.read(part))
        highest = max(highest, float(rain.max()))
        wet = -np.expm1(-np.maximum(rain - np.float32(WET), 0) / np.float32(_SOFTNESS)).sum(axis=1)
        wetness[part] = np.add.reduceat(np.add.reduceat(wet, rows, axis=1), columns, axis=2) / cells
    return wetness, highest


def _places(wetness: NDArray[np.float64], grid: Size, crop: Size) -> NDArray[np.float64]:
    """Return the wetness of the crop at each possible first block (time, rows, columns)."""
    blocks = tuple(-(-part // _BLOCK) for part in crop)
    places = tuple((whole - part) // _BLOCK + 1 for whole, part in zip(grid, crop, strict=True))
    mean: NDArray[np.float64] = sliding_window_view(wetness, blocks, axis=(1, 2)).mean((-1, -2))
    return mean[:, : places[0], : places[1]]


def _pick(cumulative: NDArray[np.float64], random: np.random.Generator) -> int:
    """Return a random index with probability in proportion to its weight."""
    return int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))


def _slice(first: int, size: int) -> slice:
    return slice(first, first + size)
