"""`convlstm check`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def check(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="Model files, states of runs, run folders, forecasts (NetCDF or Zarr) or folders of evaluations.",
            show_default=False,
        ),
    ],
) -> None:
    """Read files whole, and print what each is and its digest.

    A damaged model or state ends with exit code 5, and a damaged forecast or evaluation with exit code 4. The other
    paths are checked nevertheless: each damaged one has its error line, and the exit code is that of the first.

    Example: `convlstm check my-run forecast.nc evaluation`
    """
    from convlstm.cli.main import explain, fail
    from convlstm.errors import ConvLSTMError

    codes: list[int] = []
    found: list[tuple[Path, str, str]]
    error: ConvLSTMError | OSError | None
    for path in paths:
        found, error = [], None
        try:
            found.extend(_checked(path))
        except (ConvLSTMError, OSError) as caught:
            error = caught
        for file, kind, digest in found:
            typer.echo(f"{file}: {kind}, digest {digest}")
        if error is not None:
            if len(paths) == 1:
                raise error
            codes.append(fail(*explain(error)))
    if codes:
        raise typer.Exit(codes[0])


def _checked(path: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield each file of a path with what it is and its digest."""
    from convlstm.errors import DataError
    from convlstm.nowcast.cf_output import DATA_SUFFIXES, GEOTIFF_SUFFIXES
    from convlstm.nowcast.content_digest import check_forecast
    from convlstm.nowcast.evaluation_digest import check_evaluation
    from convlstm.nowcast.run_folder import RunFolder
    from convlstm.verification.evaluation_folder import FILES
    from convlstm.weights.checkpoint import check_intact

    run = RunFolder(path)
    if not run.holds_run and any((path / name).exists() for name in FILES):
        yield (path, *check_evaluation(path))
    elif path.suffix in GEOTIFF_SUFFIXES:
        hint = "Check the NetCDF or Zarr file of the same forecast."
        raise DataError(str(path), expected="a forecast in NetCDF or Zarr", received="a GeoTIFF", hint=hint)
    elif path.suffix in DATA_SUFFIXES:
        yield (path, *check_forecast(path))
    else:
        for file in run.checked_files if path.is_dir() else (path,):
            yield (file, *check_intact(file))
