"""Where to look: windows and crops drawn evenly, or so that rain is seen."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from convlstm.errors import DataError

from .frames import Frames, Window
from .windows import Starts

Size = tuple[int, int]

WET = 0.1  # mm/h; what counts as rain, as in the scores' lowest threshold
_SOFTNESS = 1.0  # mm/h; above this much more, a pixel counts nearly in full
_FLOOR = 0.02  # a dry place keeps this weight, so that the model learns where it stays dry
_BLOCK = 16  # cells; as fine as crops are told apart
_FRAMES_AT_ONCE = 64


class Draw(Protocol):
    """A way to draw a window and a crop.

    Example:
        >>> draw: Draw = EvenDraw(np.array([3]), (4, 4), (4, 4))
        >>> draw(np.random.default_rng(0))[0]
        3
    """

    def __call__(self, random: np.random.Generator) -> tuple[int, Window]:
        """Draw once.

        Args:
            random: Source of chance.

        Returns:
            The window's first frame, and the crop's rows and columns.
        """


class EvenDraw:
    """Draw every window and every crop with the same chance.

    Example:
        >>> EvenDraw(np.array([7]), grid=(8, 8), crop=(8, 8))(np.random.default_rng(0))
        (7, (slice(0, 8, None), slice(0, 8, None)))

    Args:
        starts: First frames of the windows.
        grid: Height and width of the frames.
        crop: Height and width of the crop.
    """

    def __init__(self, starts: Starts, grid: Size, crop: Size) -> None:
        self._starts, self._grid, self._crop = starts, grid, crop

    def __call__(self, random: np.random.Generator) -> tuple[int, Window]:
        """Draw once.

        Args:
            random: Source of chance.

        Returns:
            The window's first frame, and the crop's rows and columns.

        Example:
            >>> EvenDraw(np.array([7]), grid=(8, 8), crop=(8, 8))(np.random.default_rng(0))[0]
            7
        """
        start = int(self._starts[random.integers(len(self._starts))])
        rows, columns = (
            _slice(int(random.integers(whole - part + 1)), part)
            for whole, part in zip(self._grid, self._crop, strict=True)
        )
        return start, (rows, columns)


class WetDraw:
    """Draw windows and crops in proportion to how wet they are, plus a small floor.

    A pixel's wetness is 1 − exp(−(R − 0.1) / 1 mm/h) above 0.1 mm/h, else 0: it saturates, so that no cloudburst
    outweighs all else. A crop's is the mean over its pixels and all frames of the window, taken once at a
    resolution of 16 cells; missing pixels count as dry.

    Source: importance sampling as in Ravuri et al. (2021), doi:10.1038/s41586-021-03854-z, Methods.

    Args:
        frames: Rain in mm/h.
        starts: First frames of the windows.
        length: Frames of a window.
        crop: Height and width of the crop.

    Raises:
        DataError: if no window holds rain above 0.1 mm/h.

    Example:
        >>> from convlstm.data import open_frames, sample_path
        >>> draw = WetDraw(open_frames(sample_path()), np.arange(20), length=18, crop=(64, 64))
        >>> 0 <= draw(np.random.default_rng(0))[0] < 20
        True
    """

    def __init__(self, frames: Frames, starts: Starts, length: int, crop: Size) -> None:
        self._starts, self._length, self._crop, self._grid = starts, length, crop, frames.shape[2:]
        wetness, highest = _wetness(frames, starts, length)
        places = _places(wetness, self._grid, crop)
        self._until = np.concatenate([np.zeros_like(places[:1]), places.cumsum(0)])
        mean = self._until.mean((1, 2))
        of_window = (mean[starts + length] - mean[starts]) / length
        if not of_window.any():
            raise DataError(
                ", ".join(frames.variables),
                expected=f"rain above {WET} mm/h in the training windows",
                received=f"at most {highest:.3g} mm/h",
                hint="Choose days with more rain, or check the units.",
            )
        self._chance = np.cumsum(of_window + _FLOOR)

    def __call__(self, random: np.random.Generator) -> tuple[int, Window]:
        """Draw once.

        Args:
            random: Source of chance.

        Returns:
            The window's first frame, and the crop's rows and columns.

        Example:
            >>> from convlstm.data import open_frames, sample_path
            >>> draw = WetDraw(open_frames(sample_path()), np.arange(20), length=18, crop=(64, 64))
            >>> rows, columns = draw(np.random.default_rng(0))[1]
            >>> rows.stop - rows.start, columns.stop - columns.start
            (64, 64)
        """
        start = int(self._starts[_pick(self._chance, random)])
        of_place = (self._until[start + self._length] - self._until[start]) / self._length + _FLOOR
        place = divmod(_pick(np.cumsum(of_place), random), of_place.shape[1])
        # within the block any cell may be the first, as far as the grid reaches
        firsts = (
            int(random.integers(at * _BLOCK, min((at + 1) * _BLOCK, whole - part + 1)))
            for at, whole, part in zip(place, self._grid, self._crop, strict=True)
        )
        rows, columns = (_slice(first, part) for first, part in zip(firsts, self._crop, strict=True))
        return start, (rows, columns)


def _wetness(frames: Frames, starts: Starts, length: int) -> tuple[NDArray[np.float64], float]:
    """Wetness of every block of 16 × 16 cells, (time, rows, columns), and the highest rain rate seen."""
    height, width = frames.shape[2:]
    rows, columns = np.arange(0, height, _BLOCK), np.arange(0, width, _BLOCK)
    cells = np.outer(np.diff([*rows, height]), np.diff([*columns, width])) * frames.shape[1]
    wetness = np.zeros((frames.shape[0], len(rows), len(columns)))
    highest = 0.0
    used = np.unique(starts[:, None] + np.arange(length))
    for part in np.array_split(used, -(-len(used) // _FRAMES_AT_ONCE)):
        rain = np.nan_to_num(frames.read(part))
        highest = max(highest, float(rain.max()))
        wet = -np.expm1(-np.maximum(rain - np.float32(WET), 0) / np.float32(_SOFTNESS)).sum(axis=1)
        wetness[part] = np.add.reduceat(np.add.reduceat(wet, rows, axis=1), columns, axis=2) / cells
    return wetness, highest


def _places(wetness: NDArray[np.float64], grid: Size, crop: Size) -> NDArray[np.float64]:
    """Wetness of the crop that begins in each block where one can begin, (time, rows, columns)."""
    blocks = tuple(-(-part // _BLOCK) for part in crop)
    places = tuple((whole - part) // _BLOCK + 1 for whole, part in zip(grid, crop, strict=True))
    mean: NDArray[np.float64] = sliding_window_view(wetness, blocks, axis=(1, 2)).mean((-1, -2))
    return mean[:, : places[0], : places[1]]


def _pick(cumulative: NDArray[np.float64], random: np.random.Generator) -> int:
    """A number with the chance that its step of the cumulative weights has."""
    return int(np.searchsorted(cumulative, random.random() * cumulative[-1], side="right"))


def _slice(first: int, size: int) -> slice:
    return slice(first, first + size)
