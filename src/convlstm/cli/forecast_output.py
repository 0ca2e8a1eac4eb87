"""The kinds of files that `convlstm forecast` writes, by the end of the name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


def check_output(output: Path, layout: str) -> None:
    """Raise an error for a name of no known kind, one that cannot be written, or a kind without its package."""
    from convlstm.errors import ConfigError
    from convlstm.files import check_suffix, check_writable
    from convlstm.nowcast.cf_output import DATA_SUFFIXES, FORECAST_SUFFIXES, GEOTIFF_SUFFIXES
    from convlstm.nowcast.geotiff import load_libraries
    from convlstm.nowcast.layouts import LAYOUTS
    from convlstm.report.suffixes import ANIMATION_SUFFIXES

    check_writable(output, folder=output.suffix == ".zarr")
    check_suffix(output, (*FORECAST_SUFFIXES, *ANIMATION_SUFFIXES))
    is_data = output.suffix in DATA_SUFFIXES
    if layout not in LAYOUTS or (layout != "cf" and not is_data):
        raise ConfigError(
            "--layout",
            expected=f"one of {', '.join(LAYOUTS)}" if is_data else f"cf for a file that ends in {output.suffix}",
            received=layout,
            hint="Pass one of the listed layouts." if is_data else "Leave `--layout` out, or write a NetCDF file.",
        )
    if output.suffix in GEOTIFF_SUFFIXES:
        load_libraries()  # before the data are read: see there
    if output.suffix == ".mp4":
        from convlstm.report.animation import find_ffmpeg

        find_ffmpeg()


def check_tiles(
    output: Path, layout: str, tile: int | None, *, overlap: int | None, overwrite: bool, members: int
) -> None:
    """Raise an error for options that only a forecast in tiles has, or that it does not have."""
    from convlstm.errors import ConfigError

    refused: tuple[tuple[str, bool, object], ...]
    if tile is None:
        refused = (("--overlap", overlap is not None, overlap), ("--overwrite", overwrite, "the option"))
        expected, hint = "no such option without `--tile`", "Leave it out, or pass `--tile`."
    else:
        refused = (
            ("--output", output.suffix != ".zarr", output.name),
            ("--layout", layout != "cf", layout),
            ("--members", members > 0, members),
        )
        expected, hint = "a Zarr store (.zarr) of the layout cf, without members, for tiles", "Leave `--tile` out."
    for name, is_refused, received in refused:
        if is_refused:
            raise ConfigError(name, expected=expected, received=received, hint=hint)


def write_output(output: Path, forecast: xr.Dataset, layout: str) -> None:
    """Write a forecast of the kind that the end of the name says."""
    from convlstm.nowcast.cf_output import write_forecast
    from convlstm.nowcast.layouts import with_layout
    from convlstm.report.suffixes import ANIMATION_SUFFIXES

    if output.suffix in ANIMATION_SUFFIXES:
        from convlstm.report.animation import write_animation

        write_animation(output, forecast)
    else:
        write_forecast(output, with_layout(forecast, layout))
