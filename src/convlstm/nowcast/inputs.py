"""Choose the input frames of a forecast, and refuse frames that are too old or have no values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from convlstm.data import Frames, find_windows
from convlstm.errors import DataError
from convlstm.nowcast.nowcaster import Nowcaster

MOST_EMPTY = 0.5
"""Largest share of the input frames without any value."""

_SEARCHED = 288  # frames that are searched for a value, to name it in an error


def choose_inputs(
    nowcaster: Nowcaster,
    frames: Frames,
    *,
    init_time: str | None = None,
    max_age: float | None = None,
    now: datetime | None = None,
) -> slice:
    """Return the input frames of a forecast that starts at the latest frame, or at `init_time`.

    The last input frame needs a value, and at most half of all may have none; a missing value takes the last one of
    its cell. This holds for each variable, or for the first one alone if the model has thresholds.

    The last input frame may be at most `max_age` seconds older than `now`, by default the time of the call, and at
    most one time step later.
    """
    nowcaster.pipeline.check(frames)
    last = _last_frame(frames, init_time)
    if max_age is not None:
        _check_age(frames, last, max_age, now or datetime.now(UTC))
    window = input_window(nowcaster, frames, last)
    _check_known(frames, window, [0] if nowcaster.spec.thresholds else range(len(frames.variables)))
    return window


def input_window(nowcaster: Nowcaster, frames: Frames, last: int) -> slice:
    """Return the input frames of a forecast that ends at the frame `last`; gaps raise a `DataError`."""
    length = nowcaster.pipeline.input_length
    first = last - length + 1
    step, max_gap = nowcaster.pipeline.time_step, nowcaster.pipeline.max_gap
    seconds = frames.seconds[max(first, 0) : last + 1]
    if first < 0 or not len(find_windows(seconds, length, time_step=step, max_gap=max_gap)):
        raise DataError(
            "input frames",
            expected=f"{length} frames without a gap up to the start of the forecast",
            received=f"{last + 1} frame(s)" if first < 0 else "a gap between them",
            hint="Choose another `--init-time`, or pass a sequence without gaps.",
        )
    return slice(first, last + 1)


def _last_frame(frames: Frames, init_time: str | None) -> int:
    if init_time is None:
        return len(frames.seconds) - 1
    index = frames.time.to_index()
    try:
        # a text such as 2018-05-20 selects every frame of that day
        matches = np.arange(len(index))[index.get_loc(_in_utc(init_time))].ravel()
    except (KeyError, ValueError):
        matches = np.arange(0)
    if len(matches) != 1:
        raise DataError(
            "init time",
            expected=f"the time of one frame from {index[0]} to {index[-1]}",
            received=f"{init_time}, {'the time of no frame' if not len(matches) else f'of {len(matches)} frames'}",
            hint=f"Pass one time in UTC, such as {_text(frames, len(frames.seconds) - 1)}.",
        )
    return int(matches[0])


def _in_utc(time: str) -> str:
    """Return a time without its offset, converted to UTC; any other text is unchanged."""
    try:
        parsed = datetime.fromisoformat(time)
    except ValueError:
        return time.removesuffix("Z")
    return time if parsed.tzinfo is None else parsed.astimezone(UTC).replace(tzinfo=None).isoformat()


def _check_age(frames: Frames, last: int, max_age: float, now: datetime) -> None:
    """Raise an error for a frame older than `max_age` seconds or later than now; times without an offset are UTC."""
    time = frames.time.values[last]
    if not isinstance(time, np.datetime64):
        raise DataError(
            "--max-age",
            expected="times of the standard calendar",
            received=f"the calendar {getattr(time, 'calendar', 'unknown')}",
            hint="Leave `--max-age` out.",
        )
    at = now.astimezone(UTC).replace(tzinfo=None) if now.tzinfo else now
    age = (np.datetime64(at, "s") - time) / np.timedelta64(1, "s")
    if age > max_age:
        raise DataError(
            "last input frame",
            expected=f"at most {max_age / 60:g} min before {at:%Y-%m-%dT%H:%M}",
            received=f"{_text(frames, last)}, {_duration(float(age))} before",
            hint="Pass newer data, or increase `--max-age`.",
        )
    if age < -frames.time_step:
        raise DataError(
            "last input frame",
            expected=f"a time in UTC up to now, {at:%Y-%m-%dT%H:%M}",
            received=f"{_text(frames, last)}, {_duration(-float(age))} later",
            hint="Convert the times to UTC, or leave `--max-age` out.",
        )


def _check_known(frames: Frames, window: slice, channels: Sequence[int]) -> None:
    """Raise an error for a channel without any value in the last input frame, or in too many others."""
    # one frame at a time, to limit the memory
    one_by_one = (frames.read(slice(frame, frame + 1)) for frame in range(window.start, window.stop))
    known = np.concatenate([np.isfinite(frame).any(axis=(2, 3)) for frame in one_by_one])
    for channel in channels:
        has_value, name = known[:, channel], frames.variables[channel]
        if not has_value[-1]:
            raise DataError(
                "input frames",
                expected=f"a value of {name} in the last one, {_text(frames, window.stop - 1)}",
                received="missing values only",
                hint=_latest(frames, window.stop - 1, channels),
            )
        if (~has_value).sum() > MOST_EMPTY * len(has_value):
            raise DataError(
                "input frames",
                expected=f"values of {name} in at least half of them",
                received=f"{int((~has_value).sum())} of {len(has_value)} with missing values only",
                hint="Choose another `--init-time`.",
            )


def _latest(frames: Frames, before: int, channels: Sequence[int]) -> str:
    """Return the hint that names the latest frame with a value of each of these channels."""
    for frame in range(before - 1, max(before - 1 - _SEARCHED, -1), -1):
        known = np.isfinite(frames.read(slice(frame, frame + 1))[0]).any(axis=(1, 2))
        if known[list(channels)].all():
            return f"Pass `--init-time {_text(frames, frame)}`, the latest frame with values."
    return "Choose another `--init-time`."


def _text(frames: Frames, frame: int) -> str:
    return str(frames.time.values[frame])[:16].replace(" ", "T")


def _duration(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} days"
