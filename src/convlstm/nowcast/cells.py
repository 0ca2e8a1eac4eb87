"""Forecast one sample in the moving frame, and any sample in some cells of the grid alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from convlstm.data import carry_forward
from convlstm.data.units import Field
from convlstm.nowcast.moving_frame import Rectangle, past_frames, to_grid, whole_frame, with_absent_frames, with_known

if TYPE_CHECKING:
    from convlstm.nowcast.nowcaster import Nowcaster

_SIDE_STEP = 32
"""The sides of a part of the moving frame are multiples of this, a multiple of `LATTICE`, so that few sizes occur."""


def predict_cells(
    nowcaster: Nowcaster,
    inputs: Field,
    input_seconds: NDArray[np.float64],
    lead_seconds: NDArray[np.float64],
    cells: Rectangle,
    *,
    overlap: int,
    motion: Field | None,
) -> Field:
    """Return the forecast of one sample in some cells of the grid: probabilities, or values without thresholds.

    The result is (lead_time, channel, height, width). The inputs (time, channel, height, width) are those of the whole
    grid, and so is their `motion`, for a model in the moving frame. The model sees the cells that the forecast comes
    from, with `overlap` cells more on each side.
    """
    if nowcaster.pipeline.frame == "moving":
        assert motion is not None
        return moving_probability(nowcaster, inputs, input_seconds, motion, lead_seconds, cells, overlap)
    grid = Rectangle(0, 0, *inputs.shape[-2:])
    part = cells.enlarged(overlap, grid, nowcaster.spec.patch_size)
    rows, columns = part.slices(grid)
    values = carry_forward(nowcaster.pipeline.transform.forward(inputs[None, ..., rows, columns]))
    output = nowcaster.model_output(values, input_seconds[None], lead_seconds)[0]
    wanted = output[(..., *cells.slices(part))]
    return expit(wanted) if nowcaster.spec.thresholds else nowcaster.physical(wanted)


def moving_probability(
    nowcaster: Nowcaster,
    inputs: Field,
    input_seconds: NDArray[np.float64],
    motion: Field,
    lead_seconds: NDArray[np.float64],
    cells: Rectangle | None = None,
    overlap: int = 0,
) -> Field:
    """Return the probabilities of one sample, forecast in the moving frame and moved to the grid.

    The arguments are those of `predict_cells`; None for `cells` forecasts all of them.
    """
    grid = Rectangle(0, 0, *inputs.shape[-2:])
    part = whole_frame(motion, float(lead_seconds[-1]), (grid.height, grid.width), nowcaster.spec.patch_size)
    if cells is not None:
        multiple = math.lcm(nowcaster.spec.patch_size, _SIDE_STEP)
        part = cells.reached(motion, -lead_seconds).enlarged(overlap, part, multiple)
    past = past_frames(inputs, motion, input_seconds - input_seconds[-1], part)
    past = with_absent_frames(past, np.asarray(np.isfinite(inputs).any(axis=(1, 2, 3))))
    values = with_known(nowcaster.pipeline.transform.forward(past))
    logits = nowcaster.model_output(values[None], input_seconds[None], lead_seconds)[0]
    moved = to_grid(logits, motion, lead_seconds, part, cells or grid)
    return expit(moved, out=moved)
