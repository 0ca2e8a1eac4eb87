"""Windows of consecutive frames, and splits by day."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from convlstm.data.checks import require_count, require_positive
from convlstm.errors import DataError

Starts = NDArray[np.intp]
Mask = NDArray[np.bool_]

STEP_TOLERANCE = 0.01  # of a time step; files with times in hours or days round them


def find_windows(
    seconds: NDArray[np.float64],
    length: int,
    *,
    time_step: float,
    max_gap: float | None = None,
    stride: int = 1,
) -> Starts:
    """Return the windows of `length` frames without a gap.

    Args:
        seconds: Times of the frames, (time,).
        length: Frames of a window.
        time_step: Seconds between frames, with a tolerance of 1 %.
        max_gap: Maximum of uneven time steps in seconds; None requires constant steps.
        stride: Frames between the starts of two windows, counted again after every gap.

    Returns:
        Index of the first frame of each window, increasing; empty if there is no window.

    Raises:
        ConfigError: if the length or the stride is below 1, or the time step or gap not above 0.

    Example:
        >>> find_windows(np.array([0.0, 300, 600, 900, 5000, 5300]), 3, time_step=300)
        array([0, 1])
        >>> find_windows(np.array([0.0, 300, 1000, 1300]), 3, time_step=300, max_gap=900)
        array([0, 1])
    """
    require_count("length", length)
    require_count("stride", stride)
    require_positive("time_step", time_step)
    if max_gap is not None:
        require_positive("max_gap", max_gap)
    gaps = np.diff(seconds)
    joined = np.abs(gaps - time_step) <= STEP_TOLERANCE * time_step if max_gap is None else gaps <= max_gap
    edges = np.concatenate([[0], np.flatnonzero(~joined) + 1, [len(seconds)]])
    runs = [np.arange(first, last - length + 1, stride) for first, last in pairwise(edges)]
    return np.concatenate(runs).astype(np.intp)


def windows_within(starts: Starts, length: int, mask: Mask) -> Starts:
    """Return the windows whose frames all belong to a split.

    Args:
        starts: First frames, from `find_windows`.
        length: Frames of a window.
        mask: Frames of the split, (time,), from `split_days`.

    Returns:
        The first frames of these windows.

    Example:
        >>> windows_within(np.array([0, 1, 2]), 2, np.array([True, True, False, True]))
        array([0])
    """
    outside = np.concatenate([[0], np.cumsum(~mask)])
    inside: Starts = starts[outside[starts + length] == outside[starts]]
    return inside


def split_days(
    time: xr.DataArray, *, validation: int | Sequence[str] = 1, test: int | Sequence[str] = 1
) -> dict[str, Mask]:
    """Split frames by calendar day.

    Args:
        time: Times of the frames, datetime64 or cftime.
        validation: Validation days, such as "2018-05-19", or their number: the last days before the test days.
        test: Test days, or their number: the last days.

    Returns:
        A mask (time,) for "train", "validation" and "test"; every frame belongs to one.

    Raises:
        DataError: if a day is not in the data, is in both lists, or no day is left for training.

    Example:
        >>> time = xr.date_range("2018-05-10", periods=4, freq="D").to_series().to_xarray()
        >>> {name: int(mask.sum()) for name, mask in split_days(time).items()}
        {'train': 2, 'validation': 1, 'test': 1}
    """
    day_of_frame = time.dt.strftime("%Y-%m-%d").values.astype(str)
    days = list(dict.fromkeys(day_of_frame.tolist()))
    _check_enough(days, validation, test)
    named_validation = () if isinstance(validation, int) else tuple(validation)
    for_test = _choose("test", test, [day for day in days if day not in named_validation], days)
    for_validation = _choose("validation", validation, [day for day in days if day not in for_test], days)
    chosen = {"validation": for_validation, "test": for_test}
    for_train = [day for day in days if day not in (*for_validation, *for_test)]
    if not for_train:
        raise DataError(
            "split by day",
            expected="at least one day for training",
            received=f"{len(days)} days in all ({_span(days)})",
            hint="Choose fewer days for validation and test, or pass more data.",
        )
    return {name: np.isin(day_of_frame, part) for name, part in {"train": for_train, **chosen}.items()}


def _check_enough(days: list[str], validation: int | Sequence[str], test: int | Sequence[str]) -> None:
    """Raise an error for numbers of days of which none is left for training."""
    sizes = [part if isinstance(part, int) else len(part) for part in (validation, test)]
    if min(sizes) >= 0 and sum(sizes) >= len(days):
        raise DataError(
            "split by day",
            expected=f"at least {sum(sizes) + 1} days: {sizes[0]} for validation, {sizes[1]} for test, 1 for training",
            received=f"{len(days)} ({_span(days)})",
            hint="Pass data of more days, or set `data.validation` and `data.test` to smaller numbers.",
        )


def _choose(split: str, requested: int | Sequence[str], free: list[str], days: list[str]) -> list[str]:
    """Return the requested days, or the last free days for a number."""
    if isinstance(requested, int):
        if not 0 <= requested <= len(free):
            raise DataError(
                f"{split} days",
                expected=f"0 to {len(free)}",
                received=requested,
                hint=f"Choose a smaller number: the data has {_span(days)}.",
            )
        return free[len(free) - requested :]
    for day in requested:
        if day not in free:
            received = f"{day}, which is also in the other split" if day in days else day
            raise DataError(
                f"{split} days", expected="days of the data", received=received, hint=f"Choose from {_span(days)}."
            )
    return list(requested)


def _span(days: list[str]) -> str:
    return ", ".join(days) if len(days) <= 12 else f"{len(days)} days from {days[0]} to {days[-1]}"
