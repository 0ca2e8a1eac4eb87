"""Still maps as images inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convlstm.report.scales import Scale, rgb


@dataclass(frozen=True)
class MapImage:
    """One field as data URIs of palette PNGs, with one pixel per cell."""

    source: str
    dark_source: str  # with the colours on a dark page


def draw_map(values: NDArray[np.floating], scale: Scale) -> MapImage:
    """Return an image of one field (y, x)."""
    classes = scale.classify(values)
    return MapImage(_draw(classes, scale.palette()), _draw(classes, scale.dark_palette()))


def _draw(classes: NDArray[np.uint8], palette: Sequence[str]) -> str:
    height, width = classes.shape
    image = Image.frombytes("P", (width, height), classes.tobytes())
    image.putpalette([part for colour in palette for part in rgb(colour)])
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
