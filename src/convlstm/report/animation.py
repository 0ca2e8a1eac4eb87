"""A forecast as an animation: one map per lead time, with time, scale bar and the colours of the report."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from convlstm.data.spacing import cell_size, is_south_first
from convlstm.errors import DataError, DependencyError, OutputError, install
from convlstm.files import check_suffix, write_atomic
from convlstm.report.scales import MISSING, Scale, field_scale, rain_scale, round_down
from convlstm.report.suffixes import ANIMATION_SUFFIXES
from convlstm.verification.lead_times import lead_unit

_WIDTH, _DPI = 6.4, 100  # inches, dots per inch
_LONGEST = 1.6  # height of a map by its width
_MOST_FRAMES = 500
_COLOURS = 128  # of a frame of a GIF: the classes of the scale, and the greys of the letters


def write_animation(path: str | Path, forecast: xr.Dataset, *, seconds_per_frame: float = 0.5) -> Path:
    """Write the first variable of a forecast atomically as GIF, or as MP4 (H.264), by the end of the name.

    Args:
        path: The file to write, `*.gif` or `*.mp4`.
        forecast: The result of `make_forecast`.
        seconds_per_frame: Time for which each lead time is shown.

    Returns:
        The path.

    Raises:
        OutputError: if the name has another end, or the file cannot be written.
        DependencyError: if there is no program ffmpeg for MP4.
        DataError: if there are more than 500 lead times.

    Example:
        >>> import tempfile
        >>> lead_time = np.array([300, 600], "timedelta64[s]").astype("timedelta64[ns]")
        >>> start = np.datetime64("2018-05-20T12:00", "ns")
        >>> forecast = xr.Dataset(
        ...     {"rain": (("lead_time", "y", "x"), np.zeros((2, 30, 40)), {"units": "mm/h"})},
        ...     coords={"lead_time": lead_time, "time": ("lead_time", start + lead_time)},
        ... )
        >>> path = write_animation(Path(tempfile.mkdtemp()) / "rain.gif", forecast)
        >>> with Image.open(path) as image:
        ...     print(image.n_frames)
        2
    """
    path = Path(path)
    check_suffix(path, ANIMATION_SUFFIXES)
    count = forecast.sizes["lead_time"]
    if count > _MOST_FRAMES:
        raise DataError(
            "lead_time",
            expected=f"at most {_MOST_FRAMES} lead times in an animation",
            received=count,
            hint="Forecast fewer `--lead-times`.",
        )
    if path.suffix == ".gif":
        return write_atomic(path, lambda draft: _write_gif(draft, draw_frames(forecast), seconds_per_frame))
    program = find_ffmpeg()
    return write_atomic(path, lambda draft: _write_mp4(program, draft, draw_frames(forecast), seconds_per_frame))


def find_ffmpeg() -> str:
    """Return the path of the program ffmpeg: one on the system, else that of the package imageio-ffmpeg."""
    program = shutil.which("ffmpeg")
    if program is not None:
        return program
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise DependencyError(
            "MP4",
            expected="the program ffmpeg, or the package imageio-ffmpeg",
            received="none of them",
            hint=f"Run: {install('mp4')}. Or write a GIF.",
        ) from error


def draw_frames(forecast: xr.Dataset) -> Iterator[NDArray[np.uint8]]:
    """Yield a picture (height, width, 3) of each lead time of the first variable of a forecast, north up."""
    name = next(iter(forecast.data_vars))
    field = forecast[name].transpose("lead_time", ...)
    y, x = (str(dim) for dim in field.dims[-2:])
    if is_south_first(forecast.coords.to_dataset(), y):
        field = field.isel({y: slice(None, None, -1)})
    units = str(field.attrs.get("units", ""))
    values = field.values
    scale = rain_scale(units) if units == "mm/h" else field_scale([values], units)
    figure, image, title, moment = _figure(field, scale, cell_size(forecast, y, x))
    palette = np.array([to_rgb(colour) for colour in scale.palette()])
    minutes = field["lead_time"].values / np.timedelta64(60, "s")
    label = lead_unit(minutes)
    title.set_text(str(field.attrs.get("long_name", name)).capitalize())
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no annotations
    for frame, lead, valid in zip(values, minutes, field["time"].values, strict=True):
        image.set_data(palette[scale.classify(frame)])
        moment.set_text(f"{str(valid)[:16].replace('T', ' ')} UTC   +{label.label(float(lead))}")
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(field: xr.DataArray, scale: Scale, cell: tuple[float, float] | None) -> tuple[Figure, Any, Any, Any]:
    """Return a figure with an empty map, the map, its title and the text of the time."""
    height, width = field.shape[-2:]
    ratio = min(max(height / width, 1 / _LONGEST), _LONGEST)
    inches = _WIDTH * ratio + 1.5
    figure = Figure(figsize=(_WIDTH, round(inches * _DPI / 2) * 2 / _DPI), dpi=_DPI, facecolor="white")
    total = figure.get_figheight()
    title = figure.text(0.05, 1 - 0.3 / total, "", fontsize=13, weight="bold", va="center")
    moment = figure.text(0.05, 1 - 0.6 / total, "", fontsize=11, va="center", family="monospace")
    axes = figure.add_axes((0.05, 0.7 / total, 0.9, (total - 1.5) / total))
    image = axes.imshow(np.ones((height, width, 3)), interpolation="nearest", aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#888888")
    if cell is not None:
        _add_scale_bar(axes, width, height, cell[1])
    bar = figure.add_axes((0.05, 0.42 / total, 0.74, 0.16 / total))
    colours = np.array([to_rgb(colour) for colour in scale.colours])
    bar.imshow(colours[None], aspect="auto", extent=(0, 1, 0, 1), interpolation="nearest")
    bar.set_yticks([])
    marks = scale.marks()
    bar.set_xticks([place for place, _ in marks], [text for _, text in marks], fontsize=9)
    bar.set_xlabel(scale.units, fontsize=9, loc="right", labelpad=1)
    missing = figure.add_axes((0.83, 0.42 / total, 0.04, 0.16 / total), facecolor=MISSING)
    missing.set_xticks([])
    missing.set_yticks([])
    figure.text(0.88, 0.5 / total, "no data", fontsize=9, va="center")
    return figure, image, title, moment


def _add_scale_bar(axes: Any, width: int, height: int, cell_width: float) -> None:
    """Draw a line of a round length of about a fifth of the map into its lower left corner."""
    length = round_down(0.2 * width * cell_width)
    cells, left, bottom = length / cell_width, 0.03 * width - 0.5, 0.96 * height - 0.5
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.plot([left, left + cells], [bottom, bottom], color="white", linewidth=5, solid_capstyle="butt")
    axes.plot([left, left + cells], [bottom, bottom], color="black", linewidth=2, solid_capstyle="butt")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.8}
    axes.text(left, bottom - 0.02 * height, text, fontsize=9, va="bottom", bbox=box)


def _write_gif(path: Path, frames: Iterator[NDArray[np.uint8]], seconds: float) -> None:
    pictures = [Image.fromarray(frame).quantize(_COLOURS, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(
        path, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 * seconds), loop=0, optimize=False
    )


def _write_mp4(program: str, path: Path, frames: Iterator[NDArray[np.uint8]], seconds: float) -> None:
    first = next(frames)
    height, width = first.shape[:2]
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{1 / seconds:g}", "-i", "-")
    codec = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart")
    # without bitexact the file has the version of ffmpeg and the time
    same_bytes = ("-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-threads", "1")
    command: Sequence[str] = (program, "-y", "-loglevel", "error", *source, *codec, *same_bytes, str(path))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # where it has failed, its message is below
        pipe.write(first.tobytes())
        for frame in frames:
            pipe.write(frame.tobytes())
    with process.stderr as stream:
        lines = stream.read().decode("utf-8", "replace").split("\n")
    if process.wait() != 0:
        raise OutputError(
            str(path.name),
            expected="a video by ffmpeg with the codec libx264",
            received=" ".join(lines[0].split())[:200] or f"its exit code {process.returncode}",
            hint="Free space, use another ffmpeg, or write a GIF.",
        )
