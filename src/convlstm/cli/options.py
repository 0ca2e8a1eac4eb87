"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_READING = "Reading options"

DATA_HELP = "Data file, Zarr store, folder of files, 'pattern' or address"

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] DATA...",
        help=f"{DATA_HELP}, after a model file or run folder. Default model: rain, of this package.",
        show_default=False,
    ),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--variable", metavar="NAME", help="Variable to read. Repeat for more channels.", rich_help_panel=_READING
    ),
]
Units = Annotated[
    str | None,
    typer.Option(help="Unit of the values, if it is missing or wrong in the file.", rich_help_panel=_READING),
]
TimeStep = Annotated[
    float | None, typer.Option(help="Seconds between frames, if the file has no times.", rich_help_panel=_READING)
]
TimeDim = Annotated[str | None, typer.Option(help="Name of the time dimension.", rich_help_panel=_READING)]
YDim = Annotated[str | None, typer.Option(help="Name of the y dimension.", rich_help_panel=_READING)]
XDim = Annotated[str | None, typer.Option(help="Name of the x dimension.", rich_help_panel=_READING)]
Rain = Annotated[
    bool | None,
    typer.Option(
        "--rain/--no-rain",
        help="Whether the values are rain. Default: decided by names and unit. --rain converts dBZ to mm/h.",
        rich_help_panel=_READING,
    ),
]
Accumulated = Annotated[
    bool | None,
    typer.Option(
        "--accumulated/--no-accumulated",
        help="Whether sums of rain are since a start, so that their increase is read. Default: such sums are an error.",
        rich_help_panel=_READING,
    ),
]
Missing = Annotated[
    list[str] | None,
    typer.Option(
        "--missing",
        metavar="VALUE",
        help="Value that means no data, such as -999. Repeat for more; none reads every value. Default: negative rain "
        "and such codes are an error.",
        rich_help_panel=_READING,
    ),
]
Select = Annotated[
    list[str] | None,
    typer.Option(
        "--select",
        metavar="NAME=VALUE",
        help="Coordinate value of another dimension, such as member=0,level=850; a position if there is no coordinate. "
        "none selects nothing.",
        rich_help_panel=_READING,
    ),
]
Framework = Annotated[str, typer.Option(help="Framework: torch, keras (backend in KERAS_BACKEND), flax or mlx.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Number of CPU threads. Default: what the framework chooses.")]

Precision = Annotated[str, typer.Option(help="Precision of the convolutions: float32, bfloat16 or auto.")]

Device = Annotated[
    str | None,
    typer.Option(
        help="Device to compute on: cpu, cuda, cuda:1 or mps in PyTorch; a platform of JAX such as cpu or gpu in Flax. "
        "Default: what the framework chooses."
    ),
]

_PROCESSES = "Several processes"

Devices = Annotated[
    int,
    typer.Option(min=1, help="Processes on each machine; PyTorch, Flax and MLX.", rich_help_panel=_PROCESSES),
]
Nodes = Annotated[
    int, typer.Option(min=1, help="Machines of the training; PyTorch, Flax and MLX.", rich_help_panel=_PROCESSES)
]
Strategy = Annotated[
    str,
    typer.Option(
        help="ddp keeps the whole model in each process, fsdp shards weights, gradients and optimiser state.",
        rich_help_panel=_PROCESSES,
    ),
]

Mesh = Annotated[
    str | None,
    typer.Option(
        metavar="data=N,space=M",
        help="Devices of all processes: N parts of the batch, M parts of the rows; Flax.",
        rich_help_panel=_PROCESSES,
    ),
]

_OUTPUT = "Output options"

Quiet = Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Print errors only.", rich_help_panel=_OUTPUT)]
LogFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File to which every line is added, with its time.", rich_help_panel=_OUTPUT),
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="Print the result as one JSON object, and no other text.",
        rich_help_panel=_OUTPUT,
    ),
]
JsonLines = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="Print one JSON object per event, and no other text.", rich_help_panel=_OUTPUT
    ),
]
Layout = Annotated[
    str, typer.Option(help="Names and dimensions of a NetCDF or Zarr output: cf, weatherbench or pysteps.")
]
LeadTimes = Annotated[
    str | None,
    typer.Option(
        metavar="MINUTES", help="Increasing list such as 10,30,60. Default: every step up to the training horizon."
    ),
]
Members = Annotated[
    int, typer.Option(metavar="N", help="Number of ensemble members to add, for a model of rain with thresholds.")
]


def lead_seconds(text: str | None) -> list[float] | None:
    """Return the lead times of `--lead-times` in seconds."""
    return [60.0 * value for value in minutes(text)] or None


def model_and_data(paths: list[str]) -> tuple[Path, list[str]]:
    """Return the path of the model and those of the data; without a model, that of the model in this package."""
    from convlstm.nowcast.models import shipped_model

    if _is_model(Path(paths[-1])):
        hint = f"pass them as {paths[1]} {paths[0]}" if len(paths) == 2 else "pass the data after it"
        raise typer.BadParameter(f"expected DATA last, got the model {paths[-1]}; {hint}", param_hint="[MODEL] DATA")
    first = Path(paths[0])
    if len(paths) > 2 and not _is_model(first):
        raise typer.BadParameter(
            f"expected a model before several data files, got {paths[0]!r}; quote a pattern such as 'days/*.nc'",
            param_hint="[MODEL] DATA...",
        )
    return (first, paths[1:]) if len(paths) > 1 else (shipped_model(), paths)


def _is_model(path: Path) -> bool:
    """Return whether a path is that of a model file or of a run folder."""
    from convlstm.weights.checkpoint import MODEL_FILE

    return path.suffix == Path(MODEL_FILE).suffix or (path / MODEL_FILE).is_file()


def reading(
    variables: list[str] | None,
    units: str | None,
    time_step: float | None,
    time_dim: str | None,
    y_dim: str | None,
    x_dim: str | None,
    rain: bool | None,
    accumulated: bool | None,
    missing: list[str] | None,
    select: list[str] | None,
) -> dict[str, Any]:
    """Return the reading options that were passed, by their names in `open_frames` and `DataConfig`."""
    from convlstm.data.selection import parse_selection

    options = {
        "variables": variables or None,
        "units": units,
        "time_step": time_step,
        "time_dim": time_dim,
        "y_dim": y_dim,
        "x_dim": x_dim,
        "rain": rain,
        "accumulated": accumulated,
        "missing": _numbers(missing) if missing else None,
        "select": parse_selection(select) if select else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _numbers(texts: list[str]) -> list[float]:
    """Return the values of `--missing`; none is an empty list."""
    try:
        return [] if texts == ["none"] else [float(text) for text in texts]
    except ValueError as error:
        received = ", ".join(texts)
        raise typer.BadParameter(f"expected numbers, or none, got {received!r}", param_hint="--missing") from error


def minutes(text: str | None) -> tuple[float, ...]:
    """Return the numbers of a list such as 10,30,60; () for None."""
    try:
        return () if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"expected minutes as 10,30,60, got {text!r}", param_hint="--lead-times") from error


def named_paths(texts: list[str]) -> dict[str, Path]:
    """Return the paths of `NAME=PATH` by name."""
    paths: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in paths:
            raise typer.BadParameter(f"expected NAME=PATH with a new name, got {text!r}", param_hint="--forecast")
        paths[name] = Path(path)
    return paths
