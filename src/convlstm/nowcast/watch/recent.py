"""The latest frames: where each is, and the values of as many as one forecast needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from convlstm.data import Frames
from convlstm.data.frames import Channel
from convlstm.data.times import usual_step
from convlstm.data.units import Conversion, Field
from convlstm.errors import ConvLSTMError, DataError
from convlstm.nowcast.pipeline import Pipeline
from convlstm.nowcast.watch.incoming import Delivery

_NANOSECONDS = 1e9
_TOLERANCE = 0.01  # of a time step


@dataclass
class _Place:
    """Where a frame is."""

    path: Path
    changed: float  # last change of the file, in seconds since 1970
    is_first: bool  # whether it was there when the watch began


class RecentFrames:
    """The frames of a limited span of time; the values of the last ones are in memory.

    Args:
        pipeline: Of the model, which says how many frames a forecast needs, and their time step.
        read: Opens a file as frames, for values that are not in memory any more.
    """

    def __init__(self, pipeline: Pipeline, read: Callable[[Path], Frames]) -> None:
        self._pipeline, self._read = pipeline, read
        self._places: dict[np.datetime64, _Place] = {}
        self._values: OrderedDict[np.datetime64, Field] = OrderedDict()
        self._template: Frames | None = None

    @property
    def step(self) -> np.timedelta64:
        """The time between two frames."""
        return np.timedelta64(round(self._pipeline.time_step * _NANOSECONDS), "ns")

    @property
    def times(self) -> list[np.datetime64]:
        """The times of the known frames, increasing."""
        return sorted(self._places)

    @property
    def newest(self) -> np.datetime64 | None:
        """The time of the last frame."""
        return max(self._places, default=None)

    @property
    def paths(self) -> set[Path]:
        """The files of the known frames."""
        return {place.path for place in self._places.values()}

    def place(self, time: np.datetime64) -> _Place:
        """Return where a known frame is."""
        return self._places[time]

    def find(self, time: np.datetime64) -> np.datetime64 | None:
        """Return the time of the known frame at a time, up to a hundredth of a time step."""
        if time in self._places:
            return time
        tolerance = self.step * _TOLERANCE
        return next((known for known in self._places if abs(known - time) <= tolerance), None)

    def check(self, delivery: Delivery) -> None:
        """Raise an error for frames on another grid, or with other variables, than those before."""
        frames, before = delivery.frames, self._template
        self._pipeline.check(frames)
        if before is None:
            return
        if frames.shape[1:] == before.shape[1:] and frames.grid.drop_attrs().equals(before.grid.drop_attrs()):
            return
        raise DataError(
            str(delivery.path),
            expected=f"the grid of the frames before, {before.shape[2]} × {before.shape[3]} cells",
            received=f"another grid, {frames.shape[2]} × {frames.shape[3]} cells",
            hint="Watch each grid with its own command, and choose files with `--pattern`.",
        )

    def add(self, delivery: Delivery, time: np.datetime64) -> None:
        """Add a frame of a file, or replace it."""
        self._places[time] = _Place(delivery.path, delivery.changed, delivery.is_first)
        self._template = _without_values(delivery.frames)
        self._values.pop(time, None)
        if time in delivery.values:
            self._remember(time, delivery.values[time])

    def differs(self, delivery: Delivery, time: np.datetime64) -> bool:
        """Return whether a known frame has other values in a file that was read again."""
        before, now = self._values.get(time), delivery.values.get(time)
        return before is not None and now is not None and not np.array_equal(before, now, equal_nan=True)

    def forget_before(self, time: np.datetime64) -> None:
        """Forget the frames before a time."""
        for known in [known for known in self._places if known < time]:
            del self._places[known]
            self._values.pop(known, None)

    def inputs(self, init_time: np.datetime64) -> tuple[Frames, list[np.datetime64]]:
        """Return the input frames of a forecast, and the times of those that are absent.

        With constant time steps, an absent frame has missing values only. With uneven steps, the last known frames are
        returned.
        """
        length = self._pipeline.input_length
        if self._pipeline.max_gap is not None:
            known = [time for time in self.times if time <= init_time][-length:]
            return self._frames(known, [self.values(time) for time in known]), []
        times = [init_time - n * self.step for n in reversed(range(length))]
        known_times = [self.find(time) for time in times]
        last = self.values(init_time)
        values = [np.full_like(last, np.nan) if time is None else self.values(time) for time in known_times]
        absent = [time for time, known in zip(times, known_times, strict=True) if known is None]
        return self._frames(times, values), absent

    def known_inputs(self, init_time: np.datetime64) -> tuple[np.datetime64, ...]:
        """Return the times of the known frames that a forecast may use."""
        length = self._pipeline.input_length
        if self._pipeline.max_gap is not None:
            return tuple([time for time in self.times if time <= init_time][-length:])
        start = init_time - (length - 0.5) * self.step
        return tuple(time for time in self.times if start <= time <= init_time)

    def values(self, time: np.datetime64) -> Field:
        """Return the values (channel, height, width) of a known frame, from memory or from its file."""
        if time not in self._values:
            self._remember(time, self._read_again(time))
        self._values.move_to_end(time)
        return self._values[time]

    def _read_again(self, time: np.datetime64) -> Field:
        """Return the values of a known frame from its file."""
        path, received = self._places[time].path, "none"
        try:
            frames = self._read(path)
            positions = np.flatnonzero(frames.time.values.astype("datetime64[ns]") == time)
            if len(positions):
                values: Field = frames.read(slice(positions[0], positions[0] + 1))[0]
                return values
        except ConvLSTMError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            received = f"{type(error).__name__}: {error}"
        raise DataError(
            str(path),
            expected=f"the frame of {time.astype('datetime64[m]')}Z, which was there before",
            received=received,
            hint="Write the file again.",
        )

    def _remember(self, time: np.datetime64, values: Field) -> None:
        """Keep values in memory: those of the newest frames, and of as many others that were used last."""
        self._values[time] = values
        length = self._pipeline.input_length
        others = [known for known in self._values if known not in self.times[-length:]]
        for known in others[:-length]:
            del self._values[known]

    def _frames(self, times: list[np.datetime64], values: list[Field]) -> Frames:
        """Return frames in memory, with the grid of the last file and the time step of the known frames."""
        assert self._template is not None
        template, stacked = self._template, np.stack(values)
        channels = tuple(replace(channel, packed=stacked[:, n]) for n, channel in enumerate(template.channels))
        dim = template.time_dim
        time = xr.Dataset(coords={dim: (dim, np.array(times), template.time.attrs)})[dim]
        seconds = (np.array(times) - times[0]) / np.timedelta64(1, "s")
        return replace(
            template,
            time=time,
            seconds=np.asarray(seconds, np.float64),
            time_step=self._observed_step(),
            channels=channels,
        )

    def _observed_step(self) -> float:
        """Return the step that all times between known frames have, or the most common one where steps are uneven."""
        seconds = np.asarray(np.array(self.times).astype("datetime64[ns]").astype(np.int64) / _NANOSECONDS)
        if len(seconds) < 2:
            return self._pipeline.time_step
        if self._pipeline.max_gap is not None:
            return usual_step(seconds)
        gaps = np.diff(seconds)
        steps = np.rint(gaps / self._pipeline.time_step)
        if (np.abs(gaps - steps * self._pipeline.time_step) > _TOLERANCE * self._pipeline.time_step).any():
            return float(gaps.min())
        # frames every ten minutes are no frames every five minutes of which half are missing
        return float(np.gcd.reduce(steps.astype(np.int64)) * self._pipeline.time_step)


def _without_values(frames: Frames) -> Frames:
    """Return frames without times, for what all frames share: grid, names and units."""
    empty = np.empty((0, *frames.shape[2:]), np.float32)
    channels = tuple(
        Channel(
            empty,
            units=channel.units,
            name=channel.name,
            conversion=Conversion(
                channel.units,
                amount=channel.conversion.amount,
                source=channel.units,
                reason=channel.conversion.reason,
            ),
        )
        for channel in frames.channels
    )
    return replace(frames, channels=channels)
