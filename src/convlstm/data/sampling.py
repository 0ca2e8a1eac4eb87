"""Sample windows and crops uniformly, or in proportion to rain."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from convlstm.data.frames import Frames, Window, in_parts
from convlstm.data.units import Field
from convlstm.data.windows import Starts
from convlstm.errors import DataError

Size = tuple[int, int]

WET = 0.1  # mm/h; threshold of rain, the lowest threshold of the scores
_SOFTNESS = 1.0  # mm/h; scale of the saturation above the threshold
_FLOOR = 0.02  # weight of a dry crop, so that the model also learns from dry areas
_BLOCK = 16  # cells; resolution of the wetness
_MOST_READ = 2**31  # values; of longer sequences only some frames are read
_LEAST_READ = 3  # frames of each window
_MOST_SUMS = 2**24  # numbers of eight bytes; more have a coarser resolution


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
    of 16 cells; missing pixels count as dry. Of very long sequences the resolution is coarser, and some frames are left
    out, but at least 3 of each window are read.

    Source: importance sampling as in Ravuri et al. (2021), doi:10.1038/s41586-021-03854-z, Methods.
    """

    def __init__(self, frames: Frames, starts: Starts, length: int, crop: Size) -> None:
        self._starts, self._length, self._crop, self._grid = starts, length, crop, frames.shape[2:]
        self._side = _block_side(frames.shape)
        self._cumulative, highest = self._sum_over_frames(frames)
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
            int(random.integers(at * self._side, min((at + 1) * self._side, whole - part + 1)))
            for at, whole, part in zip(place, self._grid, self._crop, strict=True)
        )
        rows, columns = (_slice(first, part) for first, part in zip(firsts, self._crop, strict=True))
        return start, (rows, columns)

    def _sum_over_frames(self, frames: Frames) -> tuple[NDArray[np.float64], float]:
        """Return the wetness of the crop at each possible first block, and the maximum rain rate.

        The wetness (time + 1, rows, columns) is summed over the frames before each. Of very long sequences, every
        n-th frame is read, and counts n times.
        """
        every = int(np.clip(math.prod(frames.shape) // _MOST_READ, 1, max(self._length // _LEAST_READ, 1)))
        used = np.unique(self._starts[:, None] + np.arange(self._length))
        used = used[used % every == 0]
        parts, highest = in_parts(used, math.prod(self._grid)), 0.0
        sums: NDArray[np.float64] | None = None
        for part in parts:
            rain = np.nan_to_num(frames.read(part))
            highest = max(highest, float(rain.max()))
            places = _places(_wetness(rain, self._side), self._side, self._grid, self._crop)
            if sums is None:
                sums = np.zeros((frames.shape[0] + 1, *places.shape[1:]))
            sums[part + 1] = places * every
        assert sums is not None
        return np.cumsum(sums, axis=0, out=sums), highest


def _block_side(shape: tuple[int, int, int, int]) -> int:
    """Return the side of the blocks of wetness in cells: 16, or twice as much until the sums fit in memory."""
    side = _BLOCK
    while shape[0] * math.prod(-(-cells // side) for cells in shape[2:]) > _MOST_SUMS:
        side *= 2
    return side


def _wetness(rain: Field, side: int) -> NDArray[np.float64]:
    """Return the wetness of every block of cells (time, rows, columns)."""
    channels, height, width = rain.shape[1:]
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    cells = np.outer(np.diff([*rows, height]), np.diff([*columns, width])) * channels
    wet = -np.expm1(-np.maximum(rain - np.float32(WET), 0) / np.float32(_SOFTNESS)).sum(axis=1)
    wetness: NDArray[np.float64] = np.add.reduceat(np.add.reduceat(wet, rows, axis=1), columns, axis=2) / cells
    return wetness


def _places(wetness: NDArray[np.float64], side: int, grid: Size, crop: Size) -> NDArray[np.float64]:
    """Return the wetness of the crop at each possible first block (time, rows, columns)."""
    blocks = tuple(-(-part // side) for part in crop)
    places = tuple((whole - part) // side + 1 for whole, part in zip(grid, crop, strict=True))
    mean: NDArray[np.float64] = sliding_window_view(wetness, blocks, axis=(1, 2)).mean((-1, -2))
    return mean[:, : places[0], : places[1]]


def _pick(cumulative: NDArray[np.float64], random: np.random.Generator) -> int:
    """Return a random index with probability in proportion to its weight."""
    return int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))


def _slice(first: int, size: int) -> slice:
    return slice(first, first + size)
