"""Batches of windows: each is a pure function of the seed and the step, so that a run can resume at any step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from convlstm.data.checks import require_count
from convlstm.data.frames import Frames, Window
from convlstm.data.missing import carry_forward
from convlstm.data.sampling import UniformSampler, WetSampler, WindowSampler
from convlstm.data.transforms import Transform
from convlstm.data.units import RAIN_RATE, Field
from convlstm.data.windows import Starts
from convlstm.errors import DataError

ALL_ROWS = slice(None)
"""All windows of a batch."""

_WHOLE_GRID: Window = (slice(None), slice(None))


@dataclass(frozen=True, eq=False)
class Batch:
    """Windows split into input frames and target frames, all float32.

    Args:
        inputs: (batch, time, channel, height, width), transformed; a missing value is the last known value of the
            pixel in the window, or 0 without one (no rain for the transforms of rain, the mean for `Standard`).
        targets: (batch, lead_time, channel, height, width), transformed; 0 where the value is missing.
        weight: Shape of the targets: 0 where the target is missing, 1 elsewhere.
        durations: Seconds since the previous frame, (batch, time); the first is the usual time step.
        lead_durations: Seconds since the previous frame, (batch, lead_time).

    Example:
        >>> field, seconds = np.zeros((1, 2, 1, 4, 4), np.float32), np.full((1, 2), 300, np.float32)
        >>> Batch(field, field, field, seconds, seconds).inputs.shape
        (1, 2, 1, 4, 4)
    """

    inputs: Field
    targets: Field
    weight: Field
    durations: Field
    lead_durations: Field


class _Cut(NamedTuple):
    """One window of a batch: its first frame, its part of the grid, and its rotation."""

    start: int
    window: Window
    quarter_turns: int = 0
    flipped: bool = False


class _Windows:
    """The common part of random and ordered batches: the sequence and the assembly of windows."""

    def __init__(
        self, frames: Frames, starts: Starts, transform: Transform, input_length: int, horizon: int, batch_size: int
    ) -> None:
        require_count("input_length", input_length)
        require_count("horizon", horizon)
        require_count("batch_size", batch_size)
        self.frames, self.transform = frames, transform
        self.starts = np.asarray(starts, dtype=np.intp)
        self.input_length, self.horizon, self.batch_size = input_length, horizon, batch_size
        self.length = input_length + horizon
        if not self.starts.size:
            raise DataError(
                "windows",
                expected=f"at least one run of {self.length} frames without a gap",
                received="none",
                hint="Pass more data or days, allow gaps, or decrease `input_length` or `horizon`.",
            )
        if self.starts.min() < 0 or self.starts.max() + self.length > frames.shape[0]:
            raise DataError(
                "starts",
                expected=f"first frames from 0 to {frames.shape[0] - self.length}",
                received=f"{self.starts.min()} to {self.starts.max()}",
                hint="Pass the result of `find_windows`.",
            )

    def assemble(self, cuts: list[_Cut]) -> Batch:
        """Read, rotate, transform and split the windows."""
        values = self.transform.forward(np.stack([self._read(cut) for cut in cuts]))
        known = np.isfinite(values)
        durations = np.stack([self._durations(cut.start) for cut in cuts])
        first = self.input_length
        return Batch(
            inputs=carry_forward(values[:, :first]),
            targets=np.where(known, values, 0)[:, first:],
            weight=known[:, first:].astype(np.float32),
            durations=durations[:, :first],
            lead_durations=durations[:, first:],
        )

    def _read(self, cut: _Cut) -> Field:
        field = self.frames.read(slice(cut.start, cut.start + self.length), cut.window)
        field = np.rot90(field, cut.quarter_turns, axes=(-2, -1))
        return field[..., ::-1] if cut.flipped else field

    def _durations(self, start: int) -> Field:
        gaps = np.diff(self.frames.seconds[start : start + self.length])
        return np.concatenate([[self.frames.time_step], gaps]).astype(np.float32)


class Batches:
    """Random batches for training.

    `batch(step)` depends on the arguments and the step only, not on earlier calls.

    Args:
        frames: The sequence.
        starts: First frames of the windows, from `find_windows`.
        transform: Transform from physical to model values.
        input_length: Number of input frames.
        horizon: Number of target frames.
        batch_size: Windows in a batch.
        crop: Side of the square crop in cells; None uses the whole grid.
        augment: Whether to flip and rotate windows by 90° (by 180° if they are not square). Do not use it for
            variables with a direction, such as wind.
        prefer_wet: Whether to sample windows of rain (mm/h) in proportion to their wetness (`WetSampler`); other
            variables are always sampled uniformly.
        seed: Seed of the random numbers, 0 or more.

    Raises:
        ConfigError: if a number is out of range.
        DataError: if there is no window, the crop is larger than the grid, or all windows are dry.

    Example:
        >>> from convlstm.data import LogRain, find_windows, open_frames, sample_path
        >>> frames = open_frames(sample_path())
        >>> starts = find_windows(frames.seconds, 18, time_step=frames.time_step)
        >>> batches = Batches(
        ...     frames, starts, LogRain(), input_length=6, horizon=12, batch_size=2, crop=64, augment=True, seed=0
        ... )
        >>> batch = batches.batch(step=100)
        >>> batch.inputs.shape, batch.targets.shape
        ((2, 6, 1, 64, 64), (2, 12, 1, 64, 64))
    """

    def __init__(
        self,
        frames: Frames,
        starts: Starts,
        transform: Transform,
        *,
        input_length: int,
        horizon: int,
        batch_size: int,
        crop: int | None = None,
        augment: bool = False,
        prefer_wet: bool = True,
        seed: int,
    ) -> None:
        self._windows = _Windows(frames, starts, transform, input_length, horizon, batch_size)
        require_count("seed", seed, least=0)
        self._seed, self._augment = seed, augment
        grid = frames.shape[2:]
        size = _crop_size(crop, grid)
        self._quarter_turns = (0, 1, 2, 3) if size[0] == size[1] else (0, 2)
        self._sample: WindowSampler
        if prefer_wet and frames.units == RAIN_RATE:
            self._sample = WetSampler(frames, self._windows.starts, self._windows.length, size)
        else:
            self._sample = UniformSampler(self._windows.starts, grid, size)

    def batch(self, step: int, rows: slice = ALL_ROWS) -> Batch:
        """Return the batch of one training step.

        Args:
            step: Number of the step, 0 or more.
            rows: Windows of the batch to read, such as `slice(0, 4)` for the first four; the default reads all.

        Returns:
            The batch.

        Example:
            >>> from convlstm.data import LogRain, open_frames, sample_path
            >>> sizes = {"input_length": 6, "horizon": 12, "batch_size": 1}
            >>> batches = Batches(open_frames(sample_path()), np.arange(9), LogRain(), **sizes, seed=0)
            >>> bool((batches.batch(5).targets == batches.batch(5).targets).all())
            True
        """
        random = np.random.Generator(np.random.PCG64([self._seed, step]))
        cuts = [self._cut(random) for _ in range(self._windows.batch_size)]
        return self._windows.assemble(cuts[rows])

    @staticmethod
    def in_order(
        frames: Frames,
        starts: Starts,
        transform: Transform,
        *,
        input_length: int,
        horizon: int,
        batch_size: int,
    ) -> OrderedBatches:
        """Return all windows in order and once each, on the whole grid, for validation.

        Args:
            frames: The sequence.
            starts: First frames of the windows, from `find_windows`.
            transform: Transform from physical to model values.
            input_length: Number of input frames.
            horizon: Number of target frames.
            batch_size: Windows in a batch; the last batch may have fewer.

        Returns:
            The batches, with a length and `batch(number)`.

        Raises:
            ConfigError: if a number is out of range.
            DataError: if there is no window.

        Example:
            >>> from convlstm.data import LogRain, open_frames, sample_path
            >>> sizes = {"input_length": 6, "horizon": 12, "batch_size": 4}
            >>> batches = Batches.in_order(open_frames(sample_path()), np.arange(9), LogRain(), **sizes)
            >>> len(batches), batches.batch(2).inputs.shape
            (3, (1, 6, 1, 96, 96))
        """
        return OrderedBatches(_Windows(frames, starts, transform, input_length, horizon, batch_size))

    def _cut(self, random: np.random.Generator) -> _Cut:
        start, window = self._sample(random)
        if not self._augment:
            return _Cut(start, window)
        turns = self._quarter_turns[random.integers(len(self._quarter_turns))]
        return _Cut(start, window, quarter_turns=turns, flipped=bool(random.integers(2)))


class OrderedBatches:
    """The result of `Batches.in_order`: a length, and each batch by its number.

    Example:
        >>> from convlstm.data import LogRain, open_frames, sample_path
        >>> sizes = {"input_length": 6, "horizon": 12, "batch_size": 4}
        >>> len(Batches.in_order(open_frames(sample_path()), np.arange(9), LogRain(), **sizes))
        3

    Args:
        windows: The sequence and its windows.
    """

    def __init__(self, windows: _Windows) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return math.ceil(self._windows.starts.size / self._windows.batch_size)

    def batch(self, number: int) -> Batch:
        """Return one batch.

        Args:
            number: Number of the batch, from 0 to `len(self) - 1`.

        Returns:
            The batch.

        Raises:
            IndexError: if there is no such batch; this also ends a loop over the batches.

        Example:
            >>> from convlstm.data import LogRain, open_frames, sample_path
            >>> sizes = {"input_length": 6, "horizon": 12, "batch_size": 4}
            >>> batches = Batches.in_order(open_frames(sample_path()), np.arange(9), LogRain(), **sizes)
            >>> batches.batch(0).weight.min()
            np.float32(1.0)
        """
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        size = self._windows.batch_size
        starts = self._windows.starts[number * size : (number + 1) * size]
        return self._windows.assemble([_Cut(int(start), _WHOLE_GRID) for start in starts])


def _crop_size(crop: int | None, grid: tuple[int, int]) -> tuple[int, int]:
    if crop is None:
        return grid
    if not 1 <= crop <= min(grid):
        raise DataError(
            "crop",
            expected=f"1 to {min(grid)}, because the grid is {grid[0]} × {grid[1]}",
            received=crop,
            hint=f"Pass a side from 1 to {min(grid)}.",
        )
    return crop, crop
