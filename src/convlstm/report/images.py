"""Maps as images: palette PNGs inside the page."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .scales import Scale, rgb


@dataclass(frozen=True)
class Sprite:
    """Frames of one panel in a single image, row by row.

    Args:
        source: The image as a data URI.
        columns: Frames in one row of the image.
    """

    source: str
    columns: int


def draw_map(values: NDArray[np.floating], scale: Scale) -> str:
    """Return an image of one field, with one pixel per cell.

    Args:
        values: Field (y, x) in the scale's unit, NaN where missing.
        scale: The colour scale.

    Returns:
        A palette PNG as a data URI.

    Example:
        >>> from convlstm.report.scales import rain_scale
        >>> draw_map(np.zeros((2, 2)), rain_scale("mm/h"))[:22]
        'data:image/png;base64,'
    """
    classes = scale.classify(values)
    height, width = classes.shape
    image = Image.frombytes("P", (width, height), classes.tobytes())
    image.putpalette([part for colour in scale.palette() for part in rgb(colour)])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def draw_sprite(frames: NDArray[np.floating], scale: Scale) -> Sprite:
    """Return a sequence as one image, with about as many columns as rows of frames.

    A square sheet is within the image sizes that phones can decode; a strip is not.

    Args:
        frames: Fields (time, y, x), NaN where missing.
        scale: The colour scale.

    Returns:
        The sheet; frame k is in row `k // columns`, column `k % columns`.

    Example:
        >>> from convlstm.report.scales import rain_scale
        >>> draw_sprite(np.zeros((5, 2, 2)), rain_scale("mm/h")).columns
        3
    """
    number, height, width = frames.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    sheet = np.full((rows * columns, height, width), np.nan, dtype=frames.dtype)
    sheet[:number] = frames
    tiled = sheet.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return Sprite(draw_map(tiled, scale), columns)
