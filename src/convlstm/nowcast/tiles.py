"""The tiles of a large grid, and the overlap with which their forecasts are those of the whole grid.

A tile sees the input around it. How far an input value can be from the forecast that depends on it follows from the
kernels, the steps and the patch size of the model (`cost.operations.forecast_reach`). With that overlap each tile has
the values of the whole grid, up to rounding. The motion is estimated on the whole grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convlstm.cost.operations import forecast_reach
from convlstm.errors import ConfigError
from convlstm.nowcast.moving_frame import LATTICE, Rectangle
from convlstm.nowcast.nowcaster import Nowcaster


@dataclass(frozen=True)
class Tiling:
    """The tiles of a grid, row by row; the last ones may be smaller.

    Example:
        >>> tiling = Tiling((100, 70), size=64, overlap=80)
        >>> len(tiling), tiling.cells(3), tiling.place(3)
        (4, Rectangle(top=64, left=64, height=36, width=6), (1, 1))
    """

    grid: tuple[int, int]
    size: int
    overlap: int

    def __len__(self) -> int:
        return math.prod(-(-side // self.size) for side in self.grid)

    def place(self, number: int) -> tuple[int, int]:
        """Return the row and column of a tile."""
        return divmod(number, -(-self.grid[1] // self.size))

    def cells(self, number: int) -> Rectangle:
        """Return the cells of a tile."""
        top, left = (self.size * n for n in self.place(number))
        return Rectangle(top, left, min(self.size, self.grid[0] - top), min(self.size, self.grid[1] - left))


def choose_tiling(
    nowcaster: Nowcaster, grid: tuple[int, int], lead_seconds: NDArray[np.float64], size: int, overlap: int | None
) -> Tiling:
    """Return the tiles of a side for a model; `overlap=None` takes the smallest overlap that changes no value.

    A side that is no multiple of the patch size is a `ConfigError`, and so is a model whose values are not local.
    """
    _check_local(nowcaster)
    moves = nowcaster.pipeline.frame == "moving"
    multiple = math.lcm(nowcaster.spec.patch_size, LATTICE if moves else 1)
    if size < multiple or size % multiple:
        reason = "the patch size" + (f" and of {LATTICE}" if moves else "")
        raise ConfigError(
            "tile",
            expected=f"a multiple of {multiple} cells, as a multiple of {reason}",
            received=size,
            hint=f"Pass {max(round(size / multiple), 1) * multiple}.",
        )
    if overlap is not None and overlap < 0:
        raise ConfigError("overlap", expected="at least 0 cells", received=overlap, hint="Pass a larger number.")
    if overlap is None:
        overlap = forecast_reach(nowcaster.spec, nowcaster.pipeline.input_length, nowcaster.steps_ahead(lead_seconds))
    return Tiling(grid, size, overlap)


def _check_local(nowcaster: Nowcaster) -> None:
    """Raise an error for a model whose forecast of a cell depends on the whole grid, or on its place in it."""
    stack = nowcaster.spec.encoder
    local: tuple[tuple[str, bool, str], ...] = (
        ("norm", stack.norm == "none", stack.norm),
        ("peephole", stack.peephole != "pixel", stack.peephole),
        ("boundary", "circular" not in stack.boundary, "circular"),
    )
    for name, is_local, value in local:
        if not is_local:
            raise ConfigError(
                "tile",
                expected=f"a model without {name}={value!r}, with which a forecast depends on the whole grid",
                received="a model with it",
                hint="Leave `--tile` out.",
            )
