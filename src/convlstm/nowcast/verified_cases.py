"""The cases of a verification: starts that all forecasts have, with the observed frames of their lead times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from convlstm.data import Frames
from convlstm.errors import DataError
from convlstm.nowcast.forecast_values import TOLERANCE
from convlstm.nowcast.verified_forecasts import ForecastSource

_WET = 0.1  # mm/h


class Options(Protocol):
    """The options that select the starts."""

    @property
    def days(self) -> tuple[str, ...]:
        """Days of the starts; empty for all."""

    @property
    def max_cases(self) -> int:
        """Maximum number of cases."""

    @property
    def min_wet(self) -> float:
        """Minimum share of wet cells at the start."""


@dataclass(frozen=True, eq=False)
class VerifiedCases:
    """The chosen starts and the frames that belong to them."""

    starts: NDArray[np.float64]  # seconds from the first frame
    lead_seconds: NDArray[np.float64]
    targets: NDArray[np.intp]  # frames at the lead times (case, lead_time)
    inputs: NDArray[np.intp]  # frames up to the start (case, input_time); only valid with `has_inputs`
    has_inputs: bool  # whether every start has these frames
    days: list[str]  # of the starts
    found: int  # number of starts that all files have


def choose_leads(sources: Mapping[str, ForecastSource], minutes: Sequence[float]) -> NDArray[np.float64]:
    """Return the lead times in seconds: those in `minutes`, or all that every source has."""
    first, *others = (source.lead_seconds for source in sources.values())
    shared = np.array([lead for lead in first if all(_has(leads, lead) for leads in others)], np.float64)
    wanted = np.unique(np.array(minutes, np.float64) * 60.0)
    unknown = [lead for lead in wanted if not _has(shared, lead)]
    if not len(shared) or unknown:
        raise DataError(
            "--lead-times" if unknown else "lead times",
            expected="lead times that every forecast has" + (f": {_minutes(shared)}" if unknown else ""),
            received=_minutes(np.array(unknown)) if unknown else "none",
            hint="Pass some of these." if unknown else "Pass forecasts with common lead times above 0.",
        )
    return wanted if len(wanted) else shared


def choose_starts(
    sources: Mapping[str, ForecastSource],
    frames: Frames,
    lead_seconds: NDArray[np.float64],
    options: Options,
    *,
    inputs: int,
) -> VerifiedCases:
    """Return the starts that every source has, with an observed frame at each lead time, spread evenly."""
    first, *others = (source.starts for source in sources.values())
    starts = np.array([start for start in first if all(_has(each, start) for each in others)], np.float64)
    found = len(starts)
    if not found:
        raise DataError(
            "forecasts", expected="a start that all have", received="none", hint="Pass forecasts of the same times."
        )
    if options.days:
        starts = starts[np.isin(_days(frames, starts), options.days)]
        if not len(starts):
            available = _days(frames, first)
            raise DataError(
                "--day",
                expected=f"days of the starts, from {available[0]} to {available[-1]}",
                received=", ".join(options.days),
                hint="Choose days of this range.",
            )
    targets, is_known = _frames_at(frames, starts[:, None] + lead_seconds)
    if not is_known.all(axis=1).any():
        _raise_unobserved(frames, starts, lead_seconds, is_known)
    before = np.arange(1 - inputs, 1) * frames.time_step
    input_frames, has_input = _frames_at(frames, starts[:, None] + before)
    keep = is_known.all(axis=1)
    if options.min_wet > 0 and frames.channels[0].units == "mm/h":
        keep &= _is_wet(frames, input_frames[:, -1], has_input[:, -1], options.min_wet)
        if not keep.any():
            raise DataError(
                "--min-wet",
                expected=f"a start with rain on {options.min_wet:.0%} of the cells",
                received="none",
                hint="Decrease `--min-wet`.",
            )
    place = np.flatnonzero(keep)
    place = place[np.linspace(0, len(place) - 1, min(len(place), options.max_cases)).astype(int)]
    return VerifiedCases(
        starts=starts[place],
        lead_seconds=lead_seconds,
        targets=targets[place],
        inputs=input_frames[place],
        has_inputs=bool(has_input[place].all()),
        days=sorted(set(_days(frames, starts[place]))),
        found=found,
    )


def _frames_at(frames: Frames, seconds: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the nearest frame to each time, and whether it is at that time."""
    after = np.clip(np.searchsorted(frames.seconds, seconds), 1, len(frames.seconds) - 1)
    is_earlier = seconds - frames.seconds[after - 1] < frames.seconds[after] - seconds
    nearest = np.where(is_earlier, after - 1, after).astype(np.intp)
    return nearest, np.abs(frames.seconds[nearest] - seconds) <= TOLERANCE


def _is_wet(frames: Frames, last: NDArray[np.intp], is_known: NDArray[np.bool_], min_wet: float) -> NDArray[np.bool_]:
    shares = [
        float(np.mean(frames.read(slice(int(frame), int(frame) + 1))[0, 0] >= _WET)) if known else 0.0
        for frame, known in zip(last, is_known, strict=True)
    ]
    return np.array(shares) >= min_wet


def _raise_unobserved(
    frames: Frames, starts: NDArray[np.float64], leads: NDArray[np.float64], is_known: NDArray[np.bool_]
) -> None:
    never = leads[~is_known.any(axis=0)]
    if len(never) and len(never) < len(leads):
        hint = f"Pass `--lead-times {_minutes(leads[is_known.any(axis=0)]).replace(' min', '').replace(' ', '')}`."
        received = f"none at {_minutes(never)}"
    else:
        first, last = (str(frames.time.values[n])[:16] for n in (0, -1))
        begin, end = (str(_dates(frames, starts[[n]])[0])[:16] for n in (0, -1))
        received = f"frames from {first} to {last} for forecasts that start from {begin} to {end}"
        hint = "Pass observations of these times."
    raise DataError("observations", expected="frames at all lead times of a start", received=received, hint=hint)


def _dates(frames: Frames, seconds: NDArray[np.float64]) -> NDArray[np.datetime64]:
    dates: NDArray[np.datetime64] = frames.time.values[0] + (seconds * 1000).round().astype("timedelta64[ms]")
    return dates


def _days(frames: Frames, seconds: NDArray[np.float64]) -> list[str]:
    return [str(date)[:10] for date in _dates(frames, seconds)]


def _has(values: NDArray[np.float64], wanted: float) -> bool:
    return bool(len(values)) and bool(np.abs(values - wanted).min() <= TOLERANCE)


def _minutes(seconds: NDArray[np.float64]) -> str:
    return ", ".join(f"{value / 60:g}" for value in seconds[:20]) + " min"
