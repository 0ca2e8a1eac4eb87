"""Batches of windows in the frame that moves with the rain; each is a pure function of the seed and the step."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from convlstm.data import Batch, Frames, Transform
from convlstm.data.batches import ALL_ROWS
from convlstm.data.sampling import UniformSampler, WetSampler, WindowSampler
from convlstm.data.units import RAIN_RATE, Field
from convlstm.nowcast.motion import estimate_motion
from convlstm.nowcast.moving_frame import Rectangle, future_frames, past_frames, with_known

_CACHE_BYTES = 200 * 2**20
"""Memory for motion fields, each of which takes about 0.1 s to estimate."""


class MovingWindows:
    """Windows of a sequence in the moving frame of their last input frame."""

    def __init__(self, frames: Frames, transform: Transform, input_length: int, horizon: int) -> None:
        self.frames, self.transform = frames, transform
        self.input_length, self.horizon = input_length, horizon
        size = 4 * int(np.prod(frames.shape[2:]))  # two components in float16
        self._motion = lru_cache(maxsize=max(_CACHE_BYTES // size, 1))(self._estimate)

    def read(self, start: int, part: Rectangle) -> tuple[Field, Field]:
        """Return input and target frames (time, channel, height, width) in physical units, NaN where unknown."""
        end = start + self.input_length
        window = slice(start, end + self.horizon)
        frames = self.frames.read(window)
        seconds = self.frames.seconds[window] - self.frames.seconds[end - 1]
        motion = self._motion(start).astype(np.float32) / np.float32(self.frames.time_step)
        past, future = np.split(np.arange(len(seconds)), [self.input_length])
        return (
            past_frames(frames[past], motion, seconds[past], part),
            future_frames(frames[future], motion, seconds[future], part),
        )

    def batch(self, windows: list[tuple[Field, Field]]) -> Batch:
        """Return a batch of input and target frames in physical units."""
        step = np.float32(self.frames.time_step)
        values = [self.transform.forward(future) for _, future in windows]
        targets = np.stack(values)
        known = np.isfinite(targets)
        count = len(windows)
        return Batch(
            inputs=np.stack([with_known(self.transform.forward(past)) for past, _ in windows]),
            targets=np.where(known, targets, np.float32(0)),
            weight=known.astype(np.float32),
            durations=np.full((count, self.input_length), step),
            lead_durations=np.full((count, self.horizon), step),
        )

    def _estimate(self, start: int) -> NDArray[np.float16]:
        window = slice(start, start + self.input_length)
        motion = estimate_motion(self.frames.read(window)[:, 0], self.frames.seconds[window])
        return (motion * self.frames.time_step).astype(np.float16)  # cells per step


class _MovingCut(NamedTuple):
    """One window of a batch: its first frame, its part of the grid, its rotation, and the factor on its values."""

    start: int
    part: Rectangle
    quarter_turns: int
    flipped: bool
    factor: np.float32


class MovingBatches:
    """Random batches for training, as `convlstm.data.Batches`, in the moving frame.

    A crop may extend beyond the grid by a quarter of its side, so that the model learns to forecast rain that enters
    the grid. `intensity` is the standard deviation of the logarithm of a random factor on all values of a window.
    """

    def __init__(
        self,
        windows: MovingWindows,
        starts: NDArray[np.intp],
        *,
        batch_size: int,
        crop: int | None,
        augment: bool,
        intensity: float,
        seed: int,
    ) -> None:
        self._windows, self._batch_size = windows, batch_size
        self._augment, self._intensity, self._seed = augment, intensity, seed
        frames = windows.frames
        grid = frames.shape[2:]
        side = (crop, crop) if crop else grid
        self._margin = tuple(n // 4 for n in side)
        self._quarter_turns = 4 if side[0] == side[1] else 2
        length = windows.input_length + windows.horizon
        self._sample: WindowSampler
        if frames.units == RAIN_RATE:
            self._sample = WetSampler(frames, starts, length, side)
        else:
            self._sample = UniformSampler(starts, grid, side)

    def batch(self, step: int, rows: slice = ALL_ROWS) -> Batch:
        """Return the batch of one training step, or some rows of it."""
        random = np.random.Generator(np.random.PCG64([self._seed, step]))
        cuts = [self._cut(random) for _ in range(self._batch_size)]
        return self._windows.batch([self._read(cut) for cut in cuts[rows]])

    def _cut(self, random: np.random.Generator) -> _MovingCut:
        start, (rows, columns) = self._sample(random)
        top, left = (
            int(cells.start + random.integers(-margin, margin + 1))
            for cells, margin in zip((rows, columns), self._margin, strict=True)
        )
        part = Rectangle(top, left, rows.stop - rows.start, columns.stop - columns.start)
        turns, flipped = 0, False
        if self._augment:
            turns = int(random.integers(self._quarter_turns)) * (4 // self._quarter_turns)
            flipped = bool(random.integers(2))
        factor = np.float32(np.exp(self._intensity * random.standard_normal()))
        return _MovingCut(start, part, turns, flipped, factor)

    def _read(self, cut: _MovingCut) -> tuple[Field, Field]:
        past, future = self._windows.read(cut.start, cut.part)
        if self._augment:
            past, future = (_turned(values, cut.quarter_turns, cut.flipped) for values in (past, future))
        return past * cut.factor, future * cut.factor


class MovingValidation:
    """All windows in order and once each, on the whole grid, with a length and `batch(number)`."""

    def __init__(self, windows: MovingWindows, starts: NDArray[np.intp], batch_size: int) -> None:
        self._windows, self._starts, self._batch_size = windows, starts, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self._starts) / self._batch_size)

    def batch(self, number: int) -> Batch:
        """Return one batch by its number."""
        starts = self._starts[number * self._batch_size : (number + 1) * self._batch_size]
        part = Rectangle(0, 0, *self._windows.frames.shape[2:])
        return self._windows.batch([self._windows.read(int(start), part) for start in starts])


def _turned(values: Field, turns: int, flipped: bool) -> Field:
    values = np.rot90(values, turns, axes=(-2, -1))
    return values[..., ::-1] if flipped else values
