"""`convlstm health`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def health(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Health file of `convlstm watch`, or its output folder.", show_default=False
        ),
    ],
    max_age: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="Largest age of the health file.")] = 5.0,
    max_forecast_age: Annotated[
        float | None,
        typer.Option(min=0, metavar="MINUTES", help="Largest time since the last forecast was written. Default: any."),
    ] = None,
) -> None:
    """Say whether a watch is healthy, in one line; the exit code is 1 if it is not.

    Example: `convlstm health forecasts/health.json --max-forecast-age 15`
    """
    import time

    from convlstm.nowcast.watch.health import HEALTH_FILE, check_health

    seconds = None if max_forecast_age is None else 60 * max_forecast_age
    file = path / HEALTH_FILE if path.is_dir() else path
    healthy, text = check_health(file, time.time(), 60 * max_age, seconds)
    typer.echo(text)
    if not healthy:
        raise typer.Exit(1)
