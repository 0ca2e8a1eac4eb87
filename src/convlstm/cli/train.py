"""`convlstm train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from convlstm.cli import options
from convlstm.cli.command_line import command_line


def train(
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA...", help=f"{options.DATA_HELP}. Not needed with --show-config.", show_default=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.")] = Path("run"),
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file, TOML or YAML.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Option to change, such as training.steps=500. Repeat for more."
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model file or run folder whose weights and options the training starts with; rain is the model of "
            "this package.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, batches and dropout.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Continue the run in the folder with its configuration.")
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", metavar="", help="Print every option and exit.")
    ] = False,
    framework: options.Framework = "torch",
    threads: options.Threads = None,
    device: options.Device = None,
    devices: options.Devices = 1,
    nodes: options.Nodes = 1,
    strategy: options.Strategy = "ddp",
    mesh: options.Mesh = None,
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
    logs: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="NAME",
            help="Log for tensorboard (in the folder `tensorboard` of the run) or mlflow too. Repeat for both.",
        ),
    ] = None,
    quiet: options.Quiet = False,
    log_file: options.LogFile = None,
    as_json: options.Json = False,
) -> None:
    """Train a forecaster on a gridded sequence; the last days are for validation and test.

    The command prints what it read, and writes `model.safetensors` (the best on the validation days), `config.yaml`,
    `data.json`, `log.jsonl` and `state.safetensors`. A run that continues with `--resume` gives the same bits as an
    uninterrupted run, on the same CPU with the same `--threads`. `--devices` trains in several processes.

    Example: `convlstm train rain.nc -o my-run --set training.steps=500 --set 'model.hidden_channels=[64,64]'`
    """
    from convlstm.cli.launch import launch
    from convlstm.cli.output import begin, finish, silence
    from convlstm.cli.work import train_with_progress
    from convlstm.data import open_frames
    from convlstm.frontend.processes import DeviceMesh, Processes, Strategy, check_parts
    from convlstm.nowcast.config_text import read_config, to_yaml
    from convlstm.nowcast.frameworks import process_rank
    from convlstm.nowcast.run_folder import RunFolder
    from convlstm.nowcast.training_logs import check_training_logs

    begin("train", quiet=quiet, log_file=log_file, as_json=as_json)
    folder = RunFolder(output)
    if resume and config is None and folder.config.exists():
        config = folder.config
    reading_options = options.reading(
        variable, units, time_step, time_dim, y_dim, x_dim, rain, accumulated, missing, select
    )
    overrides: dict[str, Any] = {f"data.{name}": value for name, value in reading_options.items()}
    if seed is not None:
        overrides["seed"] = seed
    if start_from is not None:
        overrides["training.start_from"] = start_from
    chosen = read_config(config, settings, overrides)
    if show_config:
        typer.echo(to_yaml(chosen).rstrip())  # the result itself, also with --quiet
        return
    if not data:
        raise typer.BadParameter("pass the data to train on", param_hint="DATA")
    check_training_logs(logs or ())
    processes = Processes(devices=devices, nodes=nodes, strategy=cast(Strategy, strategy))
    device_mesh = None if mesh is None else DeviceMesh.of_text(mesh)
    check_parts(chosen.training.batch_size, chosen.training.accumulate, processes, device_mesh)
    rank = process_rank(framework, processes, device)
    if rank:
        silence()
    else:
        folder.check(chosen, resume)  # training checks again, but only after reading the data, which can take long
    if rank is None:
        raise typer.Exit(launch([sys.executable, "-m", *command_line()], processes))
    frames = open_frames(data, **chosen.data.reading_options)
    ended = train_with_progress(
        chosen,
        frames,
        folder,
        framework=framework,
        threads=threads,
        device=device,
        processes=processes,
        mesh=device_mesh,
        logs=logs or (),
        resume=resume,
    )
    finish(
        f"{folder.model}: best of {ended.step} steps at step {ended.best_step}, validation loss {ended.best_loss:.5f}",
        output=str(output),
        model=str(folder.model),
        steps=ended.step,
        best_step=ended.best_step,
        validation_loss=ended.best_loss,
    )
