"""`convlstm forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from convlstm.cli import options
from convlstm.cli.command_line import command_line


def forecast(
    paths: options.Paths,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write. The end of the name is its kind: .nc, .zarr, .tif (GeoTIFF), or .gif and .mp4 "
            "(animations).",
        ),
    ] = Path("forecast.nc"),
    layout: options.Layout = "cf",
    init_time: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Time of the last input frame, such as 2018-05-20T12:00. Default: the latest."
        ),
    ] = None,
    lead_times: options.LeadTimes = None,
    max_age: Annotated[
        float | None,
        typer.Option(
            min=0, metavar="MINUTES", help="Refuse a last input frame that is older than this. Times are in UTC."
        ),
    ] = None,
    members: options.Members = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the members.")] = 0,
    tile: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="CELLS",
            help="Forecast a large grid in tiles of this side, a multiple of the patch size, into a Zarr output. The "
            "same command continues after an interruption.",
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="CELLS",
            help="Cells around a tile that its forecast sees. Default: as many as its values depend on.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="With --tile, replace a store of another forecast.")
    ] = False,
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
    as_json: options.Json = False,
) -> None:
    """Forecast the frames that follow a gridded sequence, for any number of lead times.

    Without MODEL, a trained model of radar rain is used. It needs rain at 5-minute steps on a grid of about 1 km.

    Lead times are multiples of the time step, or any times for a model trained with `model.duration_strategy`. They may
    exceed the training horizon. The reading options of the training are the defaults. The output follows the CF
    conventions: `lead_time`, valid `time`, `forecast_reference_time`, and a history with the command, seed and weights.
    GeoTIFF and animations have the first variable only.

    Example: `convlstm forecast rain.nc -o forecast.nc`

    Example: `convlstm forecast rain.nc -o forecast.nc --members 24`

    Example: `convlstm forecast my-run rain.nc -o forecast.nc --lead-times 30,60,120`

    Example: `convlstm forecast continent.zarr -o forecast.zarr --tile 512`
    """
    from convlstm.cli.forecast_output import check_output, check_tiles, write_output
    from convlstm.cli.output import begin, finish, say_summary, time_text
    from convlstm.cli.work import tiles_with_progress
    from convlstm.data.places import local_files
    from convlstm.data.summary import summarise
    from convlstm.errors import ConvLSTMError
    from convlstm.files import check_not_input
    from convlstm.nowcast.cf_output import make_forecast
    from convlstm.nowcast.inputs import choose_inputs
    from convlstm.nowcast.nowcaster import load_nowcaster
    from convlstm.nowcast.run_folder import RunFolder

    begin("forecast", quiet=quiet, log_file=log_file, as_json=as_json)
    model, data = options.model_and_data(paths)
    check_output(output, layout)
    check_tiles(output, layout, tile, overlap=overlap, overwrite=overwrite, members=members)
    check_not_input(output, *local_files(data), model, *RunFolder(model).files)
    leads = options.lead_seconds(lead_times)
    nowcaster = load_nowcaster(model, framework, threads, precision, device)
    reading = options.reading(variable, units, time_step, time_dim, y_dim, x_dim, rain, accumulated, missing, select)
    frames = nowcaster.open_frames(data, **reading)
    seconds = None if max_age is None else 60 * max_age
    try:
        window = choose_inputs(nowcaster, frames, init_time=init_time, max_age=seconds)
    except ConvLSTMError:
        say_summary(summarise(frames), nowcaster.pipeline)  # shows what the error is about
        raise
    say_summary(summarise(frames, window), nowcaster.pipeline)
    same: dict[str, Any] = {
        "lead_times": leads,
        "init_time": init_time,
        "max_age": seconds,
        "command": command_line(),
    }
    if tile is None:
        result = make_forecast(nowcaster, frames, members=members, seed=seed, **same)
        write_output(output, result, layout)
    else:
        result = tiles_with_progress(nowcaster, frames, output, tile=tile, overlap=overlap, overwrite=overwrite, **same)
    start = result["forecast_reference_time"].dt.strftime("%F %R").item()
    finish(
        f"{output}: {result.sizes['lead_time']} frames after {start}",
        output=str(output),
        init_time=time_text(result["forecast_reference_time"].values[()]),
        valid_times=[time_text(time) for time in result["time"].values],
        variables=[str(name) for name in result.data_vars],
        model=str(model),
        weights=nowcaster.model.digest,
    )
