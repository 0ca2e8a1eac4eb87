"""`convlstm watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convlstm.cli import options
from convlstm.cli.command_line import command_line


def watch(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] SOURCE",
            help="Folder that receives files, or one Zarr folder or NetCDF file that grows, after a model file or run "
            "folder. Default model: rain, of this package.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the forecasts.")] = Path("forecasts"),
    name: Annotated[
        str,
        typer.Option(
            metavar="TEMPLATE",
            help="Name of a forecast, with fields of strftime for its initial time. It ends in .nc, .nc4 or .zarr.",
        ),
    ] = "forecast_%Y%m%dT%H%MZ.nc",
    layout: options.Layout = "cf",
    pattern: Annotated[
        str, typer.Option(metavar="GLOB", help="Names of the files in a folder, such as '*.nc' or '**/*.nc'.")
    ] = "*",
    catch_up: Annotated[
        float,
        typer.Option(min=0, metavar="MINUTES", help="Make absent forecasts up to this long before the last frame."),
    ] = 60.0,
    poll: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two polls of the source.")
    ] = 1.0,
    settle: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Time without a change before a file is read.")
    ] = 2.0,
    give_up: Annotated[
        float,
        typer.Option(min=0, metavar="MINUTES", help="Time after which a file that cannot be read is left out."),
    ] = 10.0,
    health: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Health file to write. Default: health.json in the output folder."),
    ] = None,
    lead_times: options.LeadTimes = None,
    max_age: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="MINUTES", help="Make no forecast from a frame that is older than this. Times are in UTC."
        ),
    ] = None,
    members: options.Members = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the members.")] = 0,
    framework: options.Framework = "torch",
    threads: options.Threads = None,
    precision: options.Precision = "float32",
    device: options.Device = None,
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
    as_json: options.JsonLines = False,
) -> None:
    """Forecast whenever a frame arrives in a folder, until Ctrl-C or SIGTERM.

    The model stays in memory. Each forecast is one file, written atomically and once. Files that are still being
    written are read later. After a restart, the absent forecasts of the last `--catch-up` minutes are made, the latest
    first.

    Example: `convlstm watch incoming -o forecasts --pattern '*.nc' --log-file watch.log`
    """
    from convlstm.cli.output import begin, say_event
    from convlstm.nowcast.nowcaster import load_nowcaster
    from convlstm.nowcast.watch.watcher import Watcher, WatchOptions

    begin("watch", quiet=quiet, log_file=log_file, as_json=as_json)
    model, sources = options.model_and_data(paths)
    if len(sources) > 1:
        raise typer.BadParameter(f"expected one source, got {len(sources)}", param_hint="[MODEL] SOURCE")
    nowcaster = load_nowcaster(model, framework, threads, precision, device)
    chosen = WatchOptions(
        output=output,
        name=name,
        layout=layout,
        lead_times=options.lead_seconds(lead_times),
        members=members,
        seed=seed,
        max_age=None if max_age is None else 60 * max_age,
        catch_up=60 * catch_up,
        poll=poll,
        settle=settle,
        give_up=60 * give_up,
        pattern=pattern,
        health=health,
        command=command_line(),
        reading=options.reading(variable, units, time_step, time_dim, y_dim, x_dim, rain, accumulated, missing, select),
    )
    Watcher(nowcaster, Path(sources[0]), chosen, say_event).run()
