"""Which forecasts are due: from known frames, not too old, absent, and not refused before with the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.watch.recent import RecentFrames

Time = np.datetime64


@dataclass(frozen=True)
class Skipped:
    """Initial times that are too old for a forecast by now, and have none."""

    times: list[Time]
    reason: str


class Schedule:
    """The initial times of a watch.

    Args:
        recent: The known frames.
        path: Returns the path of the forecast from an initial time.
        pipeline: Of the model.
        catch_up: Seconds before the last frame in which an absent forecast is made.
    """

    def __init__(self, recent: RecentFrames, path: Callable[[Time], Path], pipeline: Pipeline, catch_up: float) -> None:
        self._recent, self._path, self._pipeline = recent, path, pipeline
        self._catch_up = np.timedelta64(round(catch_up * 1e9), "ns")
        inputs = pipeline.input_length * (pipeline.max_gap or pipeline.time_step)
        self._inputs = np.timedelta64(round(inputs * 1e9), "ns")
        self._made: set[Time] = set()
        self._refused: dict[Time, tuple[Hashable, str]] = {}  # the inputs at that time, and why
        self._closed: Time | None = None  # up to here every initial time has a forecast or was skipped

    def oldest_due(self, newest: Time) -> Time:
        """Return the first initial time that is not too old."""
        return newest - self._catch_up

    def oldest_needed(self, newest: Time) -> Time:
        """Return the time of the first frame that a forecast may need."""
        return newest - self._catch_up - self._inputs

    def is_made(self, init_time: Time) -> bool:
        """Return whether a forecast is there."""
        if init_time not in self._made and self._path(init_time).exists():
            self._made.add(init_time)
        return init_time in self._made

    def done(self, init_time: Time) -> None:
        """Note that a forecast was written."""
        self._made.add(init_time)
        self._refused.pop(init_time, None)

    def refuse(self, init_time: Time, reason: str, inputs: Hashable) -> bool:
        """Note why there is no forecast with these inputs; return whether the reason is new."""
        before = self._refused.get(init_time, (None, ""))[1]
        self._refused[init_time] = (inputs, reason)
        return reason != before

    def next_due(self, inputs: Callable[[Time], Hashable]) -> Time | None:
        """Return the last initial time whose forecast is due; `inputs` tells whether one that was refused has new ones.

        The last is the first to be made, because it is worth most.
        """
        newest = self._recent.newest
        for init_time in reversed(self._recent.times):
            if newest is None or init_time < self.oldest_due(newest):
                return None
            is_refused = init_time in self._refused and self._refused[init_time][0] == inputs(init_time)
            if not is_refused and not self.is_made(init_time):
                return init_time
        return None

    def missing(self, before: Time | None) -> list[Time]:
        """Return the times without a frame between the last frame `before`, or the first one, and the last one now."""
        newest, step = self._recent.newest, self._recent.step
        if newest is None:
            return []
        start = self.oldest_due(newest)
        if before is None:
            before = max(self._recent.times[0], start) - step
            self._closed = before
        if self._pipeline.max_gap is not None:
            return []  # uneven frames have no time at which one is missing
        first = before + step
        if first < start:
            first += ((start - first) // step) * step
        times = np.arange(first, newest - step / 2, step)
        return [time for time in times if time >= start and self._recent.find(time) is None]

    def advance(self) -> list[Skipped]:
        """Return the initial times that have become too old without a forecast, and forget frames not needed."""
        newest, step = self._recent.newest, self._recent.step
        if newest is None or self._closed is None:
            return []
        reasons: dict[str, list[Time]] = {}
        while self._closed + step < self.oldest_due(newest) - step / 2:
            self._closed = self._closed + step
            reason = self._why_skipped(self._closed)
            if reason is not None:
                reasons.setdefault(reason, []).append(self._closed)
        start = self.oldest_needed(newest)
        self._recent.forget_before(start)
        self._made = {time for time in self._made if time >= start}
        self._refused = {time: entry for time, entry in self._refused.items() if time >= start}
        return [Skipped(times, reason) for reason, times in reasons.items()]

    def _why_skipped(self, slot: Time) -> str | None:
        """Return why an initial time has no forecast, or None if it has one."""
        frame = self._recent.find(slot)
        if frame is None:
            # uneven frames have no time at which one is missing
            return "no frame arrived in time" if self._pipeline.max_gap is None else None
        return None if self.is_made(frame) else self._refused.get(frame, (None, "not forecast in time"))[1]
