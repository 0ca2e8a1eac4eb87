"""Animations of a forecast: frames, colours and times, and what is refused."""

import subprocess

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from PIL import Image

from convlstm.errors import DataError, DependencyError, OutputError
from convlstm.report import animation
from convlstm.report.animation import draw_frames, find_ffmpeg, write_animation
from convlstm.report.scales import MISSING, field_scale


def forecast(lead_times=3, height=30, width=40, units="mm/h"):
    lead = (np.arange(lead_times) + 1) * np.timedelta64(300, "s").astype("timedelta64[ns]")
    values = np.zeros((lead_times, height, width), np.float32)
    values[:, :10] = 7.0  # the southern third
    values[-1, 20:, 30:] = np.nan  # the north-eastern corner of the last frame
    metres = {"units": "m"}
    return xr.Dataset(
        {"rain": (("lead_time", "y", "x"), values, {"units": units, "long_name": "forecast rainfall rate"})},
        coords={
            "lead_time": lead,
            "time": ("lead_time", np.datetime64("2020-06-01T00:00", "ns") + lead),
            "y": ("y", np.arange(height) * 1000.0, metres),
            "x": ("x", np.arange(width) * 1000.0, metres),
        },
    )


def share(picture, colour):
    """The share of pixels of a colour in each half of a picture, upper first, and in its upper right quarter."""
    is_colour = (picture == np.round(255 * np.array(to_rgb(colour))).astype(np.uint8)).all(axis=2)
    half, middle = picture.shape[0] // 2, picture.shape[1] // 2
    return is_colour[:half].mean(), is_colour[half:].mean(), is_colour[:half, middle:].mean()


def test_frames_have_north_up_the_colours_of_the_report_and_grey_for_no_data():
    first, second, last = draw_frames(forecast())
    upper, lower, _ = share(first, "#ffe04a")  # 5 to 10 mm/h
    assert lower > 0.2
    assert upper == 0
    assert share(first, MISSING)[0] == 0
    assert share(last, MISSING)[2] > 0.1
    assert first.shape == second.shape == last.shape
    assert (first != second).any()  # the time
    assert first.shape[0] % 2 == 0
    assert first.shape[1] % 2 == 0


def test_a_gif_has_a_frame_per_lead_time_and_the_same_bytes_each_time(tmp_path):
    for name in ("a.gif", "b.gif"):
        write_animation(tmp_path / name, forecast(), seconds_per_frame=0.25)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (3, 250, 0)
        image.seek(2)
        assert share(np.asarray(image.convert("RGB")), "#ffe04a")[1] > 0.2
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()


@pytest.mark.parametrize("offset", [0.0, 280.0])
def test_other_variables_have_the_colours_of_the_range_of_their_values(offset):
    kelvins = forecast(units="K")
    kelvins["rain"] = (kelvins["rain"] + offset).assign_attrs(kelvins["rain"].attrs)
    first, *_ = draw_frames(kelvins)
    scale = field_scale([kelvins["rain"].values], "K")
    cold, warm = (scale.palette()[number] for number in scale.classify(np.array([offset, offset + 7.0])))
    assert share(first, warm)[1] > 0.2  # the southern third
    assert share(first, warm)[0] == 0
    assert share(first, cold)[0] > 0.5
    assert share(first, "#ffe04a") == (0, 0, 0)  # rain of 5 to 10 mm/h


def test_an_mp4_can_be_decoded(tmp_path):
    try:
        program = find_ffmpeg()
    except DependencyError:
        pytest.skip("no ffmpeg")
    path = write_animation(tmp_path / "q.mp4", forecast())
    command = [program, "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    first = next(iter(draw_frames(forecast())))
    decoded = np.frombuffer(pixels, np.uint8).reshape(3, *first.shape)
    assert np.abs(decoded[0].astype(int) - first).mean() < 3  # compression of video loses a little


def test_a_missing_ffmpeg_is_one_line_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(DependencyError, match=r"MP4: .*\[mp4\].*GIF"):
        write_animation(tmp_path / "q.mp4", forecast())


def test_a_failing_ffmpeg_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(animation, "find_ffmpeg", lambda: "false")
    with pytest.raises(OutputError, match="ffmpeg"):
        write_animation(tmp_path / "q.mp4", forecast())
    assert not list(tmp_path.iterdir())


def test_too_many_lead_times_and_other_names_are_refused(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(animation, "_MOST_FRAMES", 2)
    with refused(DataError, "lead_time"):
        write_animation(tmp_path / "q.gif", forecast())
    with refused(OutputError, str(tmp_path / "q.webm")):
        write_animation(tmp_path / "q.webm", forecast())
