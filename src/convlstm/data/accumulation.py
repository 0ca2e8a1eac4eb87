"""Sums of rain since a start: recognise them, and read their increase from frame to frame as a rate."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from convlstm.data.frames import Channel, Index, Window, frames_at_once, in_parts, spread
from convlstm.data.times import usual_step
from convlstm.data.units import SECONDS_PER_HOUR, Field
from convlstm.errors import DataError

_LEAST_STEPS = 5  # with an increase, before a sequence counts as accumulated
_SHARE_RISING = 0.6  # of the steps with a change; the others may be resets
_LONGEST_STEP = 1.5  # in usual steps
_ROUNDING = 2.0**-14  # of the largest value: twice the largest step of numbers that GRIB packs in 16 bits
_MODEL_NAMES = re.compile(r"tp|apcp|rainn?c|acrain\w*|tot_?prec|total_precipitation", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class AccumulatedChannel(Channel):
    """Sums since a start, whose increase per hour is read; frame n is the step from frame n to n + 1 of the file.

    At a reset the sum starts again from 0, so that the later value is the increase. A step is a reset if the value
    decreases in most cells that had one. The increase over a step longer than usual is missing, because its rate is a
    mean over another period.
    """

    hours: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # of each step
    resets: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    unknown: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))  # steps without a known increase

    @classmethod
    def of_sums(cls, sums: Channel, seconds: NDArray[np.float64]) -> Self:
        """Return the increases of sums in mm; reads every frame once to find the resets."""
        values = {entry.name: getattr(sums, entry.name) for entry in fields(sums)}
        gaps = np.diff(seconds)
        resets = np.zeros(len(gaps), bool)
        at_once = frames_at_once(math.prod(sums.shape[1:]))
        for first in range(0, len(gaps), at_once):
            block = sums.read(slice(first, first + at_once + 1))
            resets[first : first + at_once] = find_changes(block[:-1], block[1:], rounding(sums, block))[2]
        unknown = gaps > _LONGEST_STEP * usual_step(seconds)
        return cls(**values, hours=gaps / SECONDS_PER_HOUR, resets=resets, unknown=unknown)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes (step, height, width)."""
        return len(self.hours), *self.packed.shape[1:]

    def read(self, index: Index, window: Window = (slice(None), slice(None))) -> Field:
        """Return the rates (time, height, width) in mm/h; NaN if one of the two sums is missing."""
        steps = np.arange(len(self.hours))[index]
        before, after = super().read(steps, window), super().read(steps + 1, window)
        increase = np.where(self.resets[steps, None, None], after, np.maximum(after - before, 0))
        increase[np.isnan(before) | self.unknown[steps, None, None]] = np.nan
        return (increase / self.hours[steps, None, None]).astype(np.float32)

    def infinite(self, index: Index) -> int:
        """Return the number of infinite sums at the end of some steps."""
        return super().infinite(np.arange(len(self.hours))[index] + 1)


def check_sums_per_step(channel: Channel) -> None:
    """Raise an error for sums that increase from frame to frame as those since a start, judged by a sample."""
    count, *grid = channel.shape
    if count < 2:
        return
    changes, wet_everywhere = [], True
    for first in in_parts(spread(count - 1, math.prod(grid), frames_each=2), 2 * math.prod(grid)):
        before, after = channel.read(first), channel.read(first + 1)
        tolerance = rounding(channel, after)
        changes.append(find_changes(before, after, tolerance))
        wet_everywhere &= float(np.nanmin(before, initial=np.inf)) > tolerance
    rising, falling, resets = (np.concatenate(parts) for parts in zip(*changes, strict=True))
    only_rising = rising & ~falling
    changing = rising | falling
    if changing.sum() < _LEAST_STEPS:
        from_model = _MODEL_NAMES.fullmatch(channel.name) is not None
        if not only_rising.any() or falling.any() or not (from_model or wet_everywhere):
            return
    elif (
        only_rising.sum() < max(_LEAST_STEPS, _SHARE_RISING * changing.sum())
        or (changing & ~only_rising & ~resets).any()
    ):
        return
    raise DataError(
        channel.name,
        expected="sums of rain over one time step",
        received="values that never decrease from frame to frame, as sums since a start do",
        hint="Pass `--accumulated` to read their differences, or `--no-accumulated` if they are sums over one step.",
    )


def find_changes(before: Field, after: Field, tolerance: float) -> tuple[NDArray[np.bool_], ...]:
    """Return for each step whether a cell rises, whether a cell falls, and whether the sums start again."""
    with np.errstate(invalid="ignore"):
        change = after - before
        rises, falls = change > tolerance, change < -tolerance
    wet = (before > tolerance) & ~np.isnan(after)
    resets = (falls & wet).sum(axis=(1, 2)) > wet.sum(axis=(1, 2)) / 2
    return np.asarray(rises.any(axis=(1, 2))), np.asarray(falls.any(axis=(1, 2))), resets


def rounding(channel: Channel, values: Field) -> float:
    """Return the largest change that may be rounding: one packed number, or the rounding of GRIB."""
    if channel.packed.dtype.kind != "f":
        return 1.5 * abs(channel.scale)  # more than one number, which float32 may round up
    largest = np.nanmax(values, initial=0.0, where=np.isfinite(values))
    return float(largest) * _ROUNDING
