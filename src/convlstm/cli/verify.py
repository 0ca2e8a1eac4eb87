"""`convlstm verify`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from convlstm.cli import options
from convlstm.cli.command_line import command_line


def verify(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FORECAST OBSERVATION",
            help="Forecasts of any tool (NetCDF, Zarr, or a folder of NetCDF files), and the data that was observed.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder for scores and example cases.")] = Path(
        "evaluation"
    ),
    name: Annotated[
        str | None, typer.Option(help="Name of the forecasts in the tables. Default: that of the file.")
    ] = None,
    forecast: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Further forecasts to compare with. Repeat for more."),
    ] = None,
    lead_times: Annotated[
        str | None,
        typer.Option(metavar="MINUTES", help="List such as 10,30,60. Default: all that every forecast has."),
    ] = None,
    days: Annotated[
        list[str] | None,
        typer.Option(
            "--day", metavar="DATE", help="Day of the starts, such as 2018-05-20. Repeat for more. Default: all."
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", metavar="", help="Replace an evaluation, or an unfinished one of other options."),
    ] = False,
    max_cases: Annotated[
        int, typer.Option(min=1, help="Maximum number of forecasts, spread evenly over the starts.")
    ] = 48,
    min_wet: Annotated[
        float,
        typer.Option(min=0, max=1, help="Minimum share of cells with at least 0.1 mm/h at the start of a forecast."),
    ] = 0.0,
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            metavar="VALUE",
            help="Threshold of an event in the unit of the data. Repeat for more. Default: 0.1, 1 and 5 mm/h for rain, "
            "else percentiles of the observations.",
        ),
    ] = None,
    fss_window: Annotated[int, typer.Option(min=1, help="Window of the fractions skill score, in cells.")] = 10,
    variable: options.Variables = None,
    units: options.Units = None,
    time_step: options.TimeStep = None,
    time_dim: options.TimeDim = None,
    y_dim: options.YDim = None,
    x_dim: options.XDim = None,
    rain: options.Rain = None,
    accumulated: options.Accumulated = None,
    missing: options.Missing = None,
    select: options.Select = None,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
    as_json: options.Json = False,
) -> None:
    """Score forecasts that any tool made, and compare them with persistence and optical flow.

    The forecasts are fields, members of an ensemble, or probabilities over thresholds, on the grid of the observations.
    All starts are scored whose lead times were observed; the command prints how many were left out and why. The reading
    options are those of the observations. The output is a folder as `convlstm evaluate` writes it.

    Run the same command again to continue after an interruption.

    Example: `convlstm verify forecast.nc rain.nc -o verification`

    Example: `convlstm verify steps.nc radar.nc --forecast sprog=sprog.nc --lead-times 30,60`
    """
    from convlstm.cli.output import begin, finish, progress, say, say_scores, say_summary, score_table
    from convlstm.data import open_frames
    from convlstm.data.summary import summarise
    from convlstm.nowcast.verify import VerifyOptions
    from convlstm.nowcast.verify import verify as verify_files

    begin("verify", quiet=quiet, log_file=log_file, as_json=as_json)
    if len(paths) != 2:
        received = " ".join(str(path) for path in paths)
        raise typer.BadParameter(f"expected FORECAST OBSERVATION, got {received!r}", param_hint="FORECAST OBSERVATION")
    minutes = options.minutes(lead_times)
    selection = VerifyOptions(minutes, tuple(days or ()), max_cases, min_wet, tuple(threshold or ()), fss_window)
    others = options.named_paths(forecast or [])
    path, observation = Path(paths[0]), paths[1]
    first = name or path.stem
    if first in others:
        raise typer.BadParameter(f"expected another name than {first!r}", param_hint="--name")
    reading = options.reading(variable, units, time_step, time_dim, y_dim, x_dim, rain, accumulated, missing, select)
    frames = open_frames(observation, **reading)
    say_summary(summarise(frames))
    with progress("verifying") as show_progress:
        result = verify_files(
            {first: path, **others},
            frames,
            output,
            selection,
            facts={"Command": shlex.join(command_line())},
            overwrite=overwrite,
            on_case=lambda done, of: show_progress(done, of, "cases"),
        )
    say_scores(score_table(result.scores, frames.channels[0].units, result.thresholds))
    say(result.summary)
    if result.missing_leads:
        say(result.missing_leads_summary)
    if not result.has_baselines:
        say("without persistence and optical flow: the observations lack frames before the start of some forecasts")
    finish(
        f"{output}: next: convlstm report {shlex.quote(str(output))}",
        output=str(output),
        cases=result.cases,
        starts=result.found,
        left_out=dict(result.left_out),
        missing_lead_times={f"{minutes:g}": str(path) for minutes, path in result.missing_leads.items()},
    )
