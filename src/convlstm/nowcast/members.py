"""The members of an ensemble: rain fields that are possible together, from the probabilities of a model.

A member takes in each cell the value of the forecast distribution at the level Φ(z). z is a random field with
correlation in space and time that moves with the rain. So each member has structures such as those of rain, and the
share of the members above a threshold tends to its probability.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from convlstm.data.units import Field
from convlstm.errors import ConfigError, DataError
from convlstm.nowcast.baselines import Extrapolation
from convlstm.nowcast.lead_times import check_lead_times
from convlstm.nowcast.moving_frame import Rectangle, whole_frame
from convlstm.nowcast.noise import Noise
from convlstm.nowcast.nowcaster import Nowcaster

_MOST_MEMBERS = 1000
_ASSUMED_SPACING = 1000.0  # metres between cells, if neither model nor data tell it
_MAX_BYTES = 6 * 2**30  # all members of one forecast


def check_members(nowcaster: Nowcaster, count: int) -> None:
    """Raise an error for a model that cannot make members, or for a wrong number of them."""
    if not (nowcaster.spec.thresholds and nowcaster.pipeline.rain):
        raise ConfigError(
            "members",
            expected="a model of rain with `model.thresholds`",
            received="a model of values" if nowcaster.pipeline.rain else f"a model for {nowcaster.pipeline.units}",
            hint="Train one with `--set model.thresholds=[0.1,1,5]`, or leave the members out.",
        )
    if not 2 <= count <= _MOST_MEMBERS:
        raise ConfigError(
            "members", expected=f"2 to {_MOST_MEMBERS}", received=count, hint="Pass 24, as is usual for rain."
        )


def member_bytes(count: int, leads: int, grid: tuple[int, ...]) -> int:
    """Return the bytes of the members of one forecast."""
    return 4 * count * leads * int(np.prod(grid))


def check_member_memory(count: int, leads: int, grid: tuple[int, ...], *, copies: int = 1) -> None:
    """Raise an error if the members of one forecast, in so many copies, take too much memory."""
    size = copies * member_bytes(count, leads, grid)
    if size > _MAX_BYTES:
        fitting = _MAX_BYTES // (copies * member_bytes(1, leads, grid))
        raise DataError(
            "members",
            expected=f"at most {_MAX_BYTES / 2**30:.3g} GiB of memory for one forecast",
            received=f"{size / 2**30:.3g} GiB for {count} members, {leads} lead times and {grid[0]} x {grid[1]} cells",
            hint=f"Pass at most {fitting} members." if fitting >= 2 else "Pass fewer lead times, or a smaller grid.",
        )


def make_members(
    nowcaster: Nowcaster,
    probability: Field,
    inputs: Field,
    input_seconds: NDArray[np.float64],
    lead_seconds: NDArray[np.float64],
    count: int,
    seed: int = 0,
    noise: Noise | None = None,
    spacing: float | None = None,
) -> Iterator[Field]:
    """Yield the members (lead_time, height, width) of one forecast.

    Member n depends on the seed and n only, not on the number of members.

    Args:
        nowcaster: A model of rain with thresholds.
        probability: Result of `predict_probability` for the inputs (lead_time, threshold, height, width).
        inputs: Input frames in mm/h (time, channel, height, width), NaN where missing.
        input_seconds: Times of the inputs (time,) in seconds.
        lead_seconds: Lead times in seconds from the last input frame, increasing.
        count: Number of members, from 2.
        seed: Seed of the random fields.
        noise: Statistics of the random fields; None takes those for radar rain.
        spacing: Distance between cells in metres, for a model that does not know that of its training. Without both,
            cells are taken to be 1 km wide.

    Returns:
        An iterator over the members in mm/h.
    """
    check_members(nowcaster, count)
    check_lead_times(lead_seconds)
    grid = (inputs.shape[-2], inputs.shape[-1])
    flow = Extrapolation.of_inputs(inputs[:, 0], input_seconds)
    part = whole_frame(flow.motion, float(lead_seconds[-1]), grid, 1)
    cells = [_nearest(part, origin) for origin in Rectangle(0, 0, *grid).positions(flow.motion, -lead_seconds)]
    cell_km = (nowcaster.pipeline.grid_spacing or spacing or _ASSUMED_SPACING) / 1000
    rules, leads = nowcaster.rules, nowcaster.nearest_steps(lead_seconds)
    moved = np.nan_to_num(flow.moved(lead_seconds, np.indices(grid).astype(np.float64)))
    for number in range(count):
        random = np.random.Generator(np.random.PCG64([seed, number]))
        fields = (noise or Noise()).fields((part.height, part.width), lead_seconds, random, cell_km)
        members = [
            rules.member(probability[n : n + 1], moved[n : n + 1], ndtr(field.ravel()[cell])[None], leads[n : n + 1])
            for n, (field, cell) in enumerate(zip(fields, cells, strict=True))
        ]
        yield np.concatenate(members)


def _nearest(part: Rectangle, positions: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return for each cell of the grid the index in the flattened part of the cell nearest to its origin."""
    rows = np.clip(np.rint(positions[0] - part.top).astype(np.intp), 0, part.height - 1)
    columns = np.clip(np.rint(positions[1] - part.left).astype(np.intp), 0, part.width - 1)
    cells: NDArray[np.intp] = rows * part.width + columns
    return cells
