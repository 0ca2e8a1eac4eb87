"""Maps as images: palette PNGs inside the page."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convlstm.report.scales import Scale, rgb


@dataclass(frozen=True)
class Sprite:
    """Frames of one panel in a single image, row by row: frame k is in row k // columns, column k % columns."""

    source: str  # the image as a data URI
    columns: int


def draw_map(values: NDArray[np.floating], scale: Scale) -> str:
    """Return an image of one field (y, x), with one pixel per cell, as the data URI of a palette PNG."""
    classes = scale.classify(values)
    height, width = classes.shape
    image = Image.frombytes("P", (width, height), classes.tobytes())
    image.putpalette([part for colour in scale.palette() for part in rgb(colour)])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def draw_sprite(frames: NDArray[np.floating], scale: Scale) -> Sprite:
    """Return a sequence (time, y, x) as one image, with about as many columns as rows of frames.

    A square sheet is within the image sizes that phones can decode; a strip is not.
    """
    number, height, width = frames.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    sheet = np.full((rows * columns, height, width), np.nan, dtype=frames.dtype)
    sheet[:number] = frames
    tiled = sheet.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    return Sprite(draw_map(tiled, scale), columns)
