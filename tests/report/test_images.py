"""PNGs decoded again: the right colour at the right place."""

import base64
import io

import numpy as np
from PIL import Image

from convlstm.report.images import draw_map, draw_sprite
from convlstm.report.scales import field_scale, rain_scale, rgb


def decode(source):
    kind, data = source.split(",")
    assert kind == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.mode == "P"
    return np.asarray(image.convert("RGB"))


def test_known_values_have_the_colours_of_the_scale():
    pixels = decode(draw_map(np.array([[0.0, 0.15, 7.0], [150.0, 1.0, np.nan]]), rain_scale("mm/h")))
    expected = ["#f4f6f7", "#cfe5f4", "#ffe04a", "#74094f", "#3787c0", "#b4b8bb"]
    assert pixels.reshape(-1, 3).tolist() == [list(rgb(colour)) for colour in expected]


def test_a_sprite_holds_frame_k_in_row_and_column():
    frames = np.array([0.0, 0.15, 0.3, 0.7, 1.5, 3.0, 7.0]).reshape(7, 1, 1) * np.ones((7, 2, 3))
    scale = rain_scale("mm/h")
    sprite = draw_sprite(frames, scale)
    pixels = decode(sprite.source)
    assert sprite.columns == 3
    assert pixels.shape == (3 * 2, 3 * 3, 3)
    for k in range(7):
        row, column = divmod(k, sprite.columns)
        tile = pixels[2 * row : 2 * row + 2, 3 * column : 3 * column + 3].reshape(-1, 3)
        assert np.unique(tile, axis=0).tolist() == [list(rgb(scale.colours[k]))]


def test_a_many_coloured_scale_survives_the_palette():
    scale = field_scale([np.array([270.0, 290.0])], "K")
    values = np.linspace(268, 292, 97).reshape(1, -1)
    expected = [list(rgb(scale.palette()[k])) for k in scale.classify(values)[0]]
    assert decode(draw_map(values, scale))[0].tolist() == expected
