"""The long work of the commands, with a display of its progress."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convlstm.cli.command_line import command_line

if TYPE_CHECKING:
    import xarray as xr

    from convlstm.data import Frames
    from convlstm.frontend.processes import DeviceMesh, Processes
    from convlstm.nowcast.config import Config
    from convlstm.nowcast.evaluation_cases import Selection
    from convlstm.nowcast.evaluation_ensembles import EnsembleForecast
    from convlstm.nowcast.evaluation_forecasts import FieldForecast
    from convlstm.nowcast.fit import StepReport
    from convlstm.nowcast.forecast_files import ForecastFiles
    from convlstm.nowcast.nowcaster import Nowcaster
    from convlstm.nowcast.run_folder import Progress, RunFolder


def train_with_progress(
    config: Config,
    frames: Frames,
    folder: RunFolder,
    *,
    framework: str,
    threads: int | None,
    device: str | None = None,
    processes: Processes | None = None,
    mesh: DeviceMesh | None = None,
    logs: Sequence[str] = (),
    resume: bool,
) -> Progress:
    """Train with a display of step, loss and validation loss."""
    from convlstm.cli.output import progress, say_summary
    from convlstm.frontend.processes import ONE_PROCESS
    from convlstm.nowcast.fit import fit
    from convlstm.nowcast.frameworks import set_threads

    set_threads(framework, threads)
    validation = ""
    with progress("training") as show_progress:

        def on_step(report: StepReport) -> None:
            nonlocal validation
            if report.validation_loss is not None:
                validation = f", validation {report.validation_loss:.4f}"
            show_progress(report.step, report.steps, f"loss {report.loss:.4f}{validation}")

        return fit(
            config,
            frames,
            folder,
            framework=framework,
            device=device,
            processes=processes or ONE_PROCESS,
            mesh=mesh,
            logs=logs,
            resume=resume,
            on_step=on_step,
            on_begin=say_summary,
        )


def tiles_with_progress(nowcaster: Nowcaster, frames: Frames, output: Path, **options: Any) -> xr.Dataset:
    """Forecast in tiles with a display of their number; the options are those of `forecast_in_tiles`."""
    from convlstm.cli.output import progress
    from convlstm.nowcast.tiled_forecast import forecast_in_tiles

    with progress("forecasting") as show_progress:
        return forecast_in_tiles(
            nowcaster, frames, output, on_tile=lambda done, of: show_progress(done, of, "tiles"), **options
        )


def evaluate_with_progress(
    nowcaster: Nowcaster,
    frames: Frames,
    output: Path,
    selection: Selection,
    training: Sequence[Mapping[str, Any]],
    *,
    others: Mapping[str, Nowcaster] | None = None,
    rivals: Mapping[str, FieldForecast] | None = None,
    ensembles: Mapping[str, EnsembleForecast] | None = None,
    files: Mapping[str, ForecastFiles] | None = None,
    members: int = 0,
    overwrite: bool = False,
    workers: int = 1,
    threads: int | None = None,
) -> None:
    """Evaluate with a display of the number of cases, and print the main scores.

    `training` are lines of the training log; the other arguments are those of `convlstm.nowcast.evaluate.evaluate`.
    """
    from convlstm.cli.output import progress, say_scores, score_table
    from convlstm.nowcast.evaluate import evaluate

    with progress("evaluating") as show_progress:
        scores = evaluate(
            nowcaster,
            frames,
            output,
            selection,
            training=training,
            others=others,
            rivals=rivals,
            ensembles=ensembles,
            files=files,
            members=members,
            overwrite=overwrite,
            workers=workers,
            threads=threads,
            facts={"Command": shlex.join(command_line())},
            on_case=lambda done, of: show_progress(done, of, "cases"),
        )
    thresholds = sorted(set(selection.thresholds or nowcaster.pipeline.thresholds))
    say_scores(score_table(scores, frames.channels[0].units, thresholds))
