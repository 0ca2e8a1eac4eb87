"""`convlstm demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from convlstm.cli import options

SETTINGS: list[str] = [
    "data.crop=64",
    "training.batch_size=4",
    "training.learning_rate=3e-3",
    "training.steps=1200",
    "training.patience=12",
]
"""Changes to the default configuration, so that the demo takes 2 to 3 minutes on two cores."""


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, batches and dropout.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Option to change, such as training.steps=100. Repeat for more."
        ),
    ] = None,
    framework: options.Framework = "torch",
    threads: options.Threads = None,
) -> None:
    """Train on the radar sample of this package, forecast, evaluate and write a report.

    The demo takes 2 to 3 minutes on two CPU cores, and needs no network. It writes `report.html`, `forecast.nc`,
    `scores.csv` and the run.

    Example: `convlstm demo -o demo`
    """
    from convlstm.cli.output import say
    from convlstm.cli.work import evaluate_with_progress, train_with_progress
    from convlstm.data import open_frames, sample_path
    from convlstm.files import check_writable
    from convlstm.nowcast.cf_output import make_forecast, write_forecast
    from convlstm.nowcast.config_text import read_config
    from convlstm.nowcast.evaluation_cases import Selection
    from convlstm.nowcast.nowcaster import load_nowcaster
    from convlstm.nowcast.run_folder import RunFolder
    from convlstm.report import write_report

    started = time.monotonic()
    check_writable(output / "report.html")
    config = read_config(None, [*SETTINGS, f"seed={seed}", *(settings or [])])
    frames = open_frames(sample_path())
    run = RunFolder(output / "run")
    train_with_progress(config, frames, run, framework=framework, threads=threads, resume=True)
    nowcaster = load_nowcaster(run.model, framework, threads)
    forecast = make_forecast(nowcaster, frames, command=["convlstm", "demo"])
    write_forecast(output / "forecast.nc", forecast)
    evaluate_with_progress(nowcaster, frames, output, Selection(), run)
    page = write_report(output, output / "report.html")
    say(f"{page}, forecast.nc, scores.csv after {(time.monotonic() - started) / 60:.1f} minutes")
