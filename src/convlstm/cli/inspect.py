"""`convlstm inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from convlstm.cost.inspection import Subject
    from convlstm.cost.operations import ModelCost
    from convlstm.cost.workload import Workload

_WIDEST = 500


def inspect(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Model file, run folder, preset (such as shi2015-5x5-256), or spec as *.json.",
            show_default=False,
        ),
    ],
    frames: Annotated[
        str | None,
        typer.Option(
            "--input", metavar="SIZES", help="Size of one sample, time x channel x space, such as 10x1x128x128."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a batch.")] = 1,
    horizon: Annotated[
        int | None, typer.Option(min=1, help="Frames to forecast. Default: the horizon of the training, or 12.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision: float32 or bfloat16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print sizes, FLOP and bytes as JSON.")] = False,
) -> None:
    """Show the layers of a model and their cost, without allocating memory.

    Each row has grid, parameters, receptive field, GFLOP and training memory. A receptive field of
    `20x20 + 8x8/step` is 20 × 20 pixels of the latest frame, plus 8 × 8 for each earlier frame. GFLOP counts
    2 × multiply-adds of the convolutions. Sizes are padded to the patches of a trained model, as in a forecast.

    Example: `convlstm inspect shi2015-5x5-128-64-64 --input 10x1x64x64 --batch 8 --horizon 10`
    """
    from rich.console import Console

    from convlstm.cli.output import say
    from convlstm.cost.inspection import describe, read_subject
    from convlstm.cost.inspection import workload as read_workload
    from convlstm.cost.operations import model_cost

    subject = read_subject(target)
    workload = read_workload(subject, frames, batch=batch, horizon=horizon, precision=precision)
    cost = model_cost(subject.spec, workload)
    if as_json:
        import json

        say(json.dumps(describe(subject, workload, cost), indent=2))
        return
    # rows are not wrapped at columns: a narrow terminal wraps whole lines, and a pipe gets every column
    wide = Console(highlight=False, width=_WIDEST)
    wide.print(_facts(subject, workload, cost))
    wide.print(_layers(cost))
    say("Memory: PyTorch on CPU, with loss and AdamW; see docs/inspect.md for its accuracy")


def _facts(subject: Subject, workload: Workload, cost: ModelCost) -> Table:
    """Return a table of the properties of the whole model."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("kind", subject.kind)
    table.add_row("parameters", f"{cost.parameters:,}")
    if subject.digest is not None:
        table.add_row("digest", subject.digest)
    for name in ("units", "transform", "time_step"):
        if name in subject.pipeline:
            table.add_row(name.replace("_", " "), _pipeline_text(name, subject.pipeline[name]))
    ahead = f", {workload.horizon} ahead" if subject.kind == "forecaster" else ""
    table.add_row("for", f"{workload.batch} x {_sizes(workload.shape)}{ahead}, {workload.precision}")
    table.add_row("GFLOP", f"{_giga(cost.forward_flop)} forward, {_giga(cost.training_flop)} forward and backward")
    table.add_row("training memory", f"≈ {_mega(cost.training_bytes)} at peak")
    return table


def _layers(cost: ModelCost) -> Table:
    """Return a table with a row per layer and direction, and one per convolution of the output."""
    from rich.table import Table

    table = Table("layer", "grid", box=None, pad_edge=False)
    for column in ("hidden", "parameters", "receptive field", "GFLOP", "in training", "memory"):
        table.add_column(column, justify="right")
    is_bidirectional = len({layer.direction for layer in cost.layers}) > 1
    for layer in cost.layers:
        table.add_row(
            f"{layer.part} {layer.index}{f' {layer.direction}' if is_bidirectional else ''}",
            _sizes(layer.grid),
            str(layer.hidden_channels),
            f"{layer.parameters:,}",
            f"{_sizes(layer.receptive_field)} + {_sizes(layer.growth)}/step",
            _giga(layer.forward_flop),
            _giga(layer.training_flop),
            f"≈ {_mega(layer.training_bytes)}",
        )
    for part in cost.convolutions:
        flops = (_giga(part.forward_flop), _giga(part.training_flop))
        table.add_row(part.name, "", "", f"{part.parameters:,}", "", *flops, "")
    return table


def _pipeline_text(name: str, value: Any) -> str:
    """Return an entry of a file's pipeline as text."""
    if isinstance(value, dict):
        options = ", ".join(f"{key}={option}" for key, option in value.items() if key != "name")
        return f"{value.get('name')} ({options})"
    return f"{value} s" if name == "time_step" else str(value)


def _sizes(sizes: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in sizes)


def _giga(flop: int) -> str:
    return f"{flop / 10**9:,.0f}" if flop >= 10**12 else f"{flop / 10**9:.4g}"


def _mega(size: int) -> str:
    return f"{size / 10**6:,.0f} MB" if size >= 10**7 else f"{size / 10**6:.2g} MB"
