"""`convlstm evaluate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from convlstm.cli import options


def evaluate(
    paths: options.Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder for scores and example cases.")] = Path(
        "evaluation"
    ),
    days: Annotated[
        list[str] | None,
        typer.Option(
            "--day", metavar="DATE", help="Day to score, such as 2018-05-20. Repeat for more. Default: the test days."
        ),
    ] = None,
    allow_training_days: Annotated[
        bool,
        typer.Option(
            "--allow-training-days", metavar="", help="Score days of the training too. The report then has a warning."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", metavar="", help="Replace an evaluation, or an unfinished one of other options."),
    ] = False,
    max_cases: Annotated[
        int, typer.Option(min=1, help="Maximum number of forecasts, spread evenly over the days.")
    ] = 48,
    min_wet: Annotated[
        float,
        typer.Option(min=0, max=1, help="Minimum share of cells with at least 0.1 mm/h at the start of a forecast."),
    ] = 0.05,
    threshold: Annotated[
        list[float] | None,
        typer.Option(
            metavar="VALUE",
            help="Threshold of an event in the unit of the data. Repeat for more. Default: 0.1, 1 and 5 mm/h for rain, "
            "else percentiles of the training data.",
        ),
    ] = None,
    fss_window: Annotated[int, typer.Option(min=1, help="Window of the fractions skill score, in cells.")] = 10,
    rival: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Rival of pysteps: lk, sprog, anvil, linda or steps. Repeat for more."),
    ] = None,
    forecast: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Forecasts of another tool: NetCDF, Zarr, or a folder of NetCDF files, with or without ensemble "
            "members. Repeat for more.",
        ),
    ] = None,
    members: Annotated[
        int, typer.Option(metavar="N", help="Number of ensemble members to score, for a model of rain with thresholds.")
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes that share the cases.")] = 1,
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
    """Score a model on days outside its training, and compare it with persistence and optical flow.

    Without MODEL, the model of radar rain in this package is scored.

    The default days are the test days of the training run. If the data has none of them, all days are scored that the
    run did not use. The command writes `scores.csv` (one row per method, lead time, score and threshold, with counts
    and 90 % intervals), `differences.csv`, `fss.csv`, `spectra.csv`, `fine_scales.csv`, `cases.nc` and
    `evaluation.json`. For probabilities it writes `reliability.csv`, `cuts.csv`, `roc.csv` and `economic_value.csv`,
    for ensembles `ensembles.csv` and `ranks.csv`. `cases.csv` and `days.csv` have the scores of each case and day, and
    `score_maps.nc` those of blocks of cells.

    Run the same command again to continue an evaluation that was interrupted.

    With `--forecast`, only the starts that the file has are scored.

    Example: `convlstm evaluate my-run rain.nc -o evaluation --threshold 0.5 --threshold 2`

    Example: `convlstm evaluate rain.nc --members 24 --rival steps --forecast other=other.nc`
    """
    from convlstm.cli.output import begin, finish, say_summary
    from convlstm.cli.work import evaluate_with_progress
    from convlstm.data.spacing import grid_spacing
    from convlstm.data.summary import summarise
    from convlstm.nowcast.cf_output import lead_seconds
    from convlstm.nowcast.evaluation_cases import Selection
    from convlstm.nowcast.forecast_files import open_forecasts
    from convlstm.nowcast.nowcaster import load_nowcaster
    from convlstm.nowcast.rivals import choose_ensembles, choose_rivals
    from convlstm.nowcast.run_folder import RunFolder
    from convlstm.verification.evaluation_folder import FILES

    begin("evaluate", quiet=quiet, log_file=log_file, as_json=as_json)
    model, data = options.model_and_data(paths)
    selection = Selection(
        tuple(days or ()), max_cases, min_wet, tuple(threshold or ()), fss_window, allow_training_days
    )
    rivals, paths_by_name = choose_rivals(rival or []), options.named_paths(forecast or [])
    nowcaster = load_nowcaster(model, framework, threads, precision, device)
    frames = nowcaster.open_frames(
        data, **options.reading(variable, units, time_step, time_dim, y_dim, x_dim, rain, accumulated, missing, select)
    )
    say_summary(summarise(frames), nowcaster.pipeline)
    nowcaster.pipeline.check(frames)
    cell = grid_spacing(frames.grid, frames.y_dim, frames.x_dim)
    cell_km = 1.0 if cell is None else cell / 1000.0
    ensembles = choose_ensembles(rival or [], members=members or 24, cell_km=cell_km)
    leads = lead_seconds(nowcaster)
    files = {name: open_forecasts(path, frames, leads) for name, path in paths_by_name.items()}
    run = RunFolder(model if model.is_dir() else model.parent)
    evaluate_with_progress(
        nowcaster,
        frames,
        output,
        selection,
        run.history(),
        rivals=rivals,
        ensembles=ensembles,
        files=files,
        members=members,
        overwrite=overwrite,
        workers=workers,
        threads=threads,
    )
    finish(
        f"{output}: {', '.join(FILES)}; next: convlstm report {shlex.quote(str(output))}",
        output=str(output),
        files=list(FILES),
        model=str(model),
        weights=nowcaster.model.digest,
    )
