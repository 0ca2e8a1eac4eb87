"""The frame that moves with the rain: past and future frames along the motion at the start of a forecast.

In this frame (the Lagrangian frame of the literature) rain stays where it is, so that a model learns growth and decay
only. A point of the frame has the coordinates of its place at the start time. The motion is constant in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from convlstm.data.units import Field
from convlstm.nowcast.motion import trace

LATTICE = 4
"""Distance in cells of the points whose displacement is computed."""

_KNOWN = 0.99
"""Least share of known values among the neighbours of an interpolated value."""


class Rectangle(NamedTuple):
    """A part of the grid or of the moving frame, in cells of the grid; it may extend beyond the grid."""

    top: int
    left: int
    height: int
    width: int

    def positions(self, motion: Field, seconds: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        """Yield the places of the cells after each time (2, height, width), as `motion.trace`.

        The displacement is computed for every fourth cell in each direction, and interpolated linearly for the others:
        the motion is smooth over many cells.
        """
        lattice, places = self._traced(motion, seconds)
        by_row, by_column = (_interpolation(side) for side in (self.height, self.width))
        cells = np.indices((self.height, self.width)) + np.array([self.top, self.left], np.float64).reshape(2, 1, 1)
        for place in places:
            yield cells + by_row @ (place - lattice) @ by_column.T

    def reached(self, motion: Field, seconds: NDArray[np.float64]) -> Rectangle:
        """Return the least rectangle with the cells around all places of these cells after the times (time,)."""
        _, places = self._traced(motion, seconds)
        top, left = (int(np.floor(places[:, axis].min())) for axis in (0, 1))
        bottom, right = (int(np.floor(places[:, axis].max())) + 2 for axis in (0, 1))
        return Rectangle(top, left, bottom - top, right - left)

    def enlarged(self, margin: int, whole: Rectangle, multiple: int) -> Rectangle:
        """Return the rectangle with a margin on each side, within `whole`.

        Its distances from the corner of `whole`, and its sides, are multiples of `multiple`, or end where `whole` ends.
        """
        (top, height), (left, width) = (
            _enlarged(*sides, margin, multiple)
            for sides in (
                (self.top, self.height, whole.top, whole.height),
                (self.left, self.width, whole.left, whole.width),
            )
        )
        return Rectangle(top, left, height, width)

    def slices(self, of: Rectangle) -> tuple[slice, slice]:
        """Return the rows and columns of this part in an array with the cells of a larger one."""
        top, left = self.top - of.top, self.left - of.left
        return slice(top, top + self.height), slice(left, left + self.width)

    def _traced(self, motion: Field, seconds: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return every fourth cell (2, row, column), and its places after the times (time, 2, row, column)."""
        rows, columns = (np.arange(-(-(side - 1) // LATTICE) + 1) for side in (self.height, self.width))
        first = np.array([self.top, self.left], np.float64).reshape(2, 1, 1)
        lattice = np.stack(np.meshgrid(LATTICE * rows, LATTICE * columns, indexing="ij")) + first
        return lattice, trace(lattice, motion, seconds)


def _enlarged(start: int, length: int, first: int, size: int, margin: int, multiple: int) -> tuple[int, int]:
    """Return start and length of a range with a margin, within `size` cells from `first`; see `Rectangle.enlarged`."""
    # cells beyond the range take its nearest values, which need the margin too
    nearest = min(max(start - first, 0), size - 1)
    last = min(max(start + length - first, nearest + 1), size)
    lower = max(nearest - margin, 0) // multiple * multiple
    upper = min(last + margin, size)
    upper = min(-(-upper // multiple) * multiple, size)
    return first + lower, upper - lower


def _interpolation(side: int) -> NDArray[np.float64]:
    """Return the matrix (side, points) that interpolates linearly from points of the lattice to cells."""
    points = LATTICE * np.arange(-(-(side - 1) // LATTICE) + 1)
    distance = np.abs(np.arange(side)[:, None] - points)
    weights: NDArray[np.float64] = np.clip(1.0 - distance / LATTICE, 0.0, None)
    return weights


def past_frames(frames: Field, motion: Field, seconds: NDArray[np.float64], part: Rectangle) -> Field:
    """Return input frames in the moving frame (time, channel, height, width), NaN where unknown or outside the grid.

    The frames are (time, channel, height, width) on the whole grid, NaN where missing. The times (time,) are seconds
    from the start, at most 0 and increasing. Values are interpolated linearly.
    """
    moved = np.empty((*frames.shape[:2], part.height, part.width), np.float32)
    for time, position in zip(reversed(range(len(frames))), part.positions(motion, seconds[::-1]), strict=True):
        for channel, frame in enumerate(frames[time]):
            moved[time, channel] = _interpolate(frame, position)
    return moved


def with_absent_frames(past: Field, is_there: NDArray[np.bool_]) -> Field:
    """Return past frames in the moving frame, with the nearest one in place of each frame that is absent as a whole.

    Rain stays where it is in this frame. Of two frames at the same distance, the later one is taken.
    """
    there = np.flatnonzero(is_there)
    if len(there) in (0, len(past)):
        return past
    distance = np.abs(np.arange(len(past))[:, None] - there[::-1])
    nearest = there[::-1][distance.argmin(axis=1)]
    filled: Field = past[nearest]
    return filled


def future_frames(frames: Field, motion: Field, seconds: NDArray[np.float64], part: Rectangle) -> Field:
    """Return the frames of the lead times in the moving frame, NaN where unknown or outside the grid.

    Shapes as in `past_frames`; the times are at least 0 and increase. Each point takes the value of the nearest cell,
    so that no value is smoothed.
    """
    moved = np.full((*frames.shape[:2], part.height, part.width), np.nan, np.float32)
    height, width = frames.shape[-2:]
    for time, position in enumerate(part.positions(motion, seconds)):
        rows, columns = np.rint(position).astype(np.intp)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        moved[time][:, inside] = frames[time][:, rows[inside], columns[inside]]
    return moved


def to_grid(fields: Field, motion: Field, seconds: NDArray[np.float64], part: Rectangle, cells: Rectangle) -> Field:
    """Move forecasts from the moving frame to cells of the grid (lead_time, channel, height, width).

    The fields are (lead_time, channel, height, width) of `part`, for lead times in seconds. Values are interpolated
    linearly; points that come from outside the part take its nearest value.
    """
    offset = np.array([part.top, part.left], np.float64).reshape(2, 1, 1)
    moved = np.empty((*fields.shape[:2], cells.height, cells.width), np.float32)
    for lead, origin in enumerate(cells.positions(motion, -seconds)):
        for channel, field in enumerate(fields[lead]):
            moved[lead, channel] = ndimage.map_coordinates(field, origin - offset, order=1, mode="nearest")
    return moved


def whole_frame(motion: Field, seconds: float, grid: tuple[int, int], multiple: int) -> Rectangle:
    """Return the part of the moving frame that reaches the grid within a lead time, in seconds.

    It has a margin of the largest displacement on each side, at most the size of the grid. Its sides are multiples of
    `multiple`.
    """
    margins = [min(int(np.ceil(np.abs(speed).max() * seconds)), side) for speed, side in zip(motion, grid, strict=True)]
    height, width = (-(-(side + 2 * m) // multiple) * multiple for side, m in zip(grid, margins, strict=True))
    return Rectangle(-margins[0], -margins[1], height, width)


def with_known(values: Field) -> Field:
    """Return values (time, channel, ...) with 0 for missing ones, and a last channel that is 1 where all are known."""
    known = np.isfinite(values)
    filled = np.where(known, values, np.float32(0))
    mask = known.all(axis=1, keepdims=True).astype(np.float32)
    return np.concatenate([filled, mask], axis=1)


def _interpolate(frame: Field, position: NDArray[np.float64]) -> Field:
    """Return a frame at fractional positions (2, height, width), NaN next to missing values and outside the grid."""
    first, last = (edge.astype(np.intp) for edge in (position.min(axis=(1, 2)), position.max(axis=(1, 2))))
    top, left = np.clip(first, 0, np.array(frame.shape) - 1)
    nearby = frame[top : max(last[0] + 2, top + 1), left : max(last[1] + 2, left + 1)]
    position = position - np.array([top, left]).reshape(2, 1, 1)  # exact: whole numbers, not larger than the positions
    known = np.isfinite(nearby)
    values = ndimage.map_coordinates(np.where(known, nearby, 0), position, order=1, mode="constant")
    share = ndimage.map_coordinates(known.astype(np.float32), position, order=1, mode="constant")
    result: Field = np.where(share > _KNOWN, values, np.float32(np.nan)).astype(np.float32)
    return result
