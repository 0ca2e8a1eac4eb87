"""What was read from a file, and how: a few lines that show data read in a wrong unit or with wrong missing values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convlstm.data.accumulation import AccumulatedChannel
from convlstm.data.frames import Channel, Frames, in_parts, spread
from convlstm.data.transforms import Transform
from convlstm.data.units import RAIN_RATE

_MOST_LISTED = 4  # days of a split


@dataclass(frozen=True)
class ChannelSummary:
    """A variable as it was read, with statistics over a sample of frames."""

    variable: str
    units_in_file: str
    units: str
    conversion: str  # from the unit in the file to the other one
    reason: str  # why the variable is rain or not
    missing: float  # share of the values
    infinite: int  # values that were read as missing because they are infinite
    minimum: float | None  # None without a value
    maximum: float | None


@dataclass(frozen=True)
class Summary:
    """A sequence as it was read.

    Example:
        >>> from convlstm.data import open_frames, sample_path
        >>> summary = summarise(open_frames(sample_path()))
        >>> summary.shape, summary.channels[0].missing
        ((588, 1, 96, 96), 0.0)
    """

    shape: tuple[int, int, int, int]
    time_step: float  # seconds
    first: str
    last: str
    sampled: int  # frames of the statistics
    sample: str  # which frames these are
    channels: tuple[ChannelSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self)


def summarise(frames: Frames, window: slice | None = None) -> Summary:
    """Return what was read, with statistics over a window of frames, or over a sample of all.

    Args:
        frames: The sequence.
        window: The frames of the statistics; None spreads a sample over all frames.

    Returns:
        The summary.

    Example:
        >>> from convlstm.data import open_frames, sample_path
        >>> summarise(open_frames(sample_path()), slice(0, 6)).sample
        '6 input frames'
    """
    count, _, height, width = frames.shape
    index = spread(count, height * width) if window is None else np.arange(count)[window]
    if window is not None:
        sample = f"{len(index)} input frames"
    else:
        sample = "all frames" if len(index) == count else f"a sample of {len(index)} frames"
    first, last = (str(value)[:16].replace("T", " ") for value in frames.time.values[[0, -1]])
    channels = tuple(_channel_summary(channel, index) for channel in frames.channels)
    return Summary(frames.shape, frames.time_step, first, last, len(index), sample, channels)


def summary_lines(
    summary: Summary, transform: Transform | None = None, days: Mapping[str, Sequence[str]] | None = None
) -> list[tuple[str, str]]:
    """Return a summary as lines of a label and a text, with the transform and the days of each split.

    Args:
        summary: What was read.
        transform: The transform to model values.
        days: Days by split.

    Returns:
        The lines.

    Example:
        >>> from convlstm.data import open_frames, sample_path
        >>> summary_lines(summarise(open_frames(sample_path())))[0]
        ('data', '588 frames of 96 × 96 cells every 5 min, 2018-05-10 10:00 to 2018-05-20 12:55')
    """
    count, _, height, width = summary.shape
    cells = f"{height} × {width} cells"
    lines = [("data", f"{count} frames of {cells} every {_step(summary)}, {summary.first} to {summary.last}")]
    for channel in summary.channels:
        lines.append((channel.variable, f"{channel.conversion}; {channel.reason}"))
        lines.append(("", _values(channel, summary.sample)))
    if transform is not None:
        options = ", ".join(f"{name}={_number(value)}" for name, value in transform.to_dict().items() if name != "name")
        lines.append(("transform", f"{transform.name}({options})"))
    if days is not None:
        splits = [split for split in ("train", "validation", "test") if split in days]
        lines.append(("days", "; ".join(f"{split} {_listed(days[split])}" for split in splits)))
    return lines


def _channel_summary(channel: Channel, index: NDArray[np.integer[Any]]) -> ChannelSummary:
    size = math.prod(channel.shape[1:])
    known_count, infinite, lowest, highest = 0, 0, np.inf, -np.inf
    for part in in_parts(index, size):
        values = channel.read(part)
        known = values[~np.isnan(values)]
        known_count += known.size
        infinite += channel.infinite(part)
        lowest = min(lowest, float(known.min(initial=np.inf)))
        highest = max(highest, float(known.max(initial=-np.inf)))
    return ChannelSummary(
        variable=channel.name,
        units_in_file=channel.conversion.source,
        units=channel.units,
        conversion=_conversion(channel),
        reason=channel.conversion.reason,
        missing=1 - known_count / (len(index) * size),
        infinite=infinite,
        minimum=lowest if known_count else None,
        maximum=highest if known_count else None,
    )


def _conversion(channel: Channel) -> str:
    source = channel.conversion.source or "no unit"
    if channel.units != RAIN_RATE or channel.conversion.reflectivity:
        return source if channel.units != RAIN_RATE else f"{source} to {channel.units}"
    if isinstance(channel, AccumulatedChannel):
        return f"{source} since a start, increase × {channel.factor:.6g} per hour to {channel.units}"
    period = " over one time step" if channel.conversion.amount else ""
    return f"{source}{period}, × {channel.factor:.6g} to {channel.units}"


def _values(channel: ChannelSummary, sample: str) -> str:
    infinite = f" ({channel.infinite} infinite)" if channel.infinite else ""
    missing = f"{channel.missing:.2%} missing{infinite}, in {sample}"
    if channel.minimum is None or channel.maximum is None:
        return missing
    return f"{channel.minimum:.5g} to {channel.maximum:.5g} {channel.units}".rstrip() + f", {missing}"


def _step(summary: Summary) -> str:
    seconds = summary.time_step
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def _number(value: object) -> str:
    """Return a number with six digits, or several in brackets."""
    if isinstance(value, float | int):
        return f"{value:.6g}"
    return f"({', '.join(map(_number, value))})" if isinstance(value, list | tuple) else str(value)


def _listed(days: Sequence[str]) -> str:
    if not days:
        return "none"
    return ", ".join(days) if len(days) <= _MOST_LISTED else f"{len(days)} from {days[0]} to {days[-1]}"
