"""PNGs decoded again: the right colour at the right place."""

import base64
import io

import numpy as np
from PIL import Image

from convlstm.report.images import draw_map
from convlstm.report.scales import field_scale, rain_scale, rgb


def decode(source):
    kind, data = source.split(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.mode == "P"
    return np.asarray(image.convert("RGB"))


def test_known_values_have_the_colours_of_the_scale():
    image = draw_map(np.array([[0.0, 0.15, 7.0], [150.0, 1.0, np.nan]]), rain_scale("mm/h"))
    expected = ["#f4f6f7", "#cfe5f4", "#ffe04a", "#74094f", "#3787c0", "#b4b8bb"]
    assert decode(image.source).reshape(-1, 3).tolist() == [list(rgb(colour)) for colour in expected]
    dark = ["#20292f", "#26465f", "#ffe04a", "#b04a9e", "#4b9bd1", "#5d666d"]
    assert decode(image.dark_source).reshape(-1, 3).tolist() == [list(rgb(colour)) for colour in dark]


def test_a_many_coloured_scale_survives_the_palette():
    scale = field_scale([np.array([270.0, 290.0])], "K")
    values = np.linspace(268, 292, 97).reshape(1, -1)
    expected = [list(rgb(scale.palette()[k])) for k in scale.classify(values)[0]]
    assert decode(draw_map(values, scale).source)[0].tolist() == expected
