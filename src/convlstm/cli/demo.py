"""`convlstm demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from convlstm.cli import options

if TYPE_CHECKING:
    from convlstm.data import Frames
    from convlstm.nowcast.run_folder import RunFolder

SETTINGS: list[str] = [
    "data.frame=moving",
    "data.log_top=7",
    "data.crop=64",
    "model.hidden_channels=[32, 32]",
    "model.thresholds=[0.1, 0.5, 1, 2, 5, 10]",
    "model.detail_channels=16",
    "model.detail_frames=2",
    "training.batch_size=4",
    "training.learning_rate=5e-3",
    "training.average=0.99",
    "training.intensity=0.15",
    "training.validation_windows=8",
    "training.patience=100",
]
"""Changes to the default configuration: a small model that forecasts the probability of rain."""

TRAINED_NOW = "Small ConvLSTM"
"""Name of the demo's own model in the report."""

_TRIAL_STEPS = 6
_FIRST_STEPS = 2  # not measured, because the first steps of every framework are slow


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path("demo"),
    minutes: Annotated[float, typer.Option(min=0.05, help="Time for training a small model, in minutes.")] = 2.0,
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
    """Show the model of this package on radar rain that it has not seen, and train a small model next to it.

    The demo takes about a minute more than the training, on two CPU cores, and needs no network. It writes
    `report.html`, `forecast.nc`, `scores.csv` and the run of the small model. Both models, optical flow and persistence
    are scored on the last day of the sample, which no training used. `--set training.steps` replaces `--minutes`, and a
    run that was begun keeps its number of steps.

    Example: `convlstm demo -o demo --minutes 5`
    """
    from convlstm.cli.output import say
    from convlstm.cli.work import evaluate_with_progress, train_with_progress
    from convlstm.data import open_frames, sample_path
    from convlstm.files import check_writable
    from convlstm.nowcast.cf_output import make_forecast, write_forecast
    from convlstm.nowcast.config_text import read_config
    from convlstm.nowcast.evaluation_cases import Selection
    from convlstm.nowcast.evaluation_output import check_new_evaluation
    from convlstm.nowcast.models import shipped_model
    from convlstm.nowcast.nowcaster import load_nowcaster
    from convlstm.nowcast.run_folder import RunFolder
    from convlstm.report import write_report

    started = time.monotonic()
    check_writable(output / "report.html")
    frames = open_frames(sample_path())
    run = RunFolder(output / "run")
    if not run.holds_run:  # an evaluation there is not of an earlier demo
        check_new_evaluation(output)
    changes = [*SETTINGS, f"seed={seed}", *(settings or [])]
    if not any(setting.startswith("training.steps=") for setting in changes):
        changes.append(f"training.steps={_steps(minutes, changes, frames, run, framework, threads)}")
    train_with_progress(read_config(None, changes), frames, run, framework=framework, threads=threads, resume=True)
    shipped = load_nowcaster(shipped_model(), framework, threads)
    forecast = make_forecast(shipped, frames, command=["convlstm", "demo"])
    write_forecast(output / "forecast.nc", forecast)
    small = load_nowcaster(run.model, framework, threads)
    last_day = str(frames.time.dt.strftime("%Y-%m-%d").values[-1])
    evaluate_with_progress(
        shipped,
        frames,
        output,
        Selection(days=(last_day,)),
        run.history(),
        others={TRAINED_NOW: small},
        overwrite=True,
    )
    page = write_report(output, output / "report.html")
    say(f"{page}, forecast.nc, scores.csv after {(time.monotonic() - started) / 60:.1f} minutes")


def _steps(
    minutes: float, changes: list[str], frames: Frames, run: RunFolder, framework: str, threads: int | None
) -> int:
    """Return the number of steps that fit the time, from a short trial; a run that was begun keeps its number."""
    from convlstm.cli.output import say
    from convlstm.nowcast.config_text import read_config
    from convlstm.nowcast.fit import seconds_per_step
    from convlstm.nowcast.frameworks import set_threads

    if run.config.exists():
        return read_config(run.config).training.steps
    set_threads(framework, threads)
    seconds = seconds_per_step(read_config(None, changes), frames, framework, _FIRST_STEPS, _TRIAL_STEPS)
    steps = max(int(60 * minutes / seconds), 20)
    say(f"{steps} training steps of {seconds:.2f} s fit {minutes:g} minutes")
    return steps
