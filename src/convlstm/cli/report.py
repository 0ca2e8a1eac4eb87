"""`convlstm report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    evaluation: Annotated[
        Path,
        typer.Argument(
            metavar="EVALUATION", help="Folder written by `convlstm evaluate` or `convlstm verify`.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
) -> None:
    """Write an evaluation as one HTML page with maps, an animation, curves by lead time and tables.

    The page needs no network.

    Example: `convlstm report evaluation -o report.html`
    """
    from convlstm.cli.output import say
    from convlstm.files import check_suffix, check_writable
    from convlstm.report import write_report

    check_writable(output, folder=False)
    check_suffix(output, (".html", ".htm"))
    say(f"{write_report(evaluation, output)}: open it in a browser")
