"""`convlstm model`: facts about a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

model = typer.Typer(no_args_is_help=True, help="Show facts about a model file.")


@model.command()
def card(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Model file or run folder. Default: the model of rain in the package.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the card of a model as Markdown: data, lead times, scores with intervals, cuts, limits and digest.

    Example: `convlstm model card`
    """
    from convlstm.nowcast.model_card import model_card
    from convlstm.nowcast.models import shipped_model

    typer.echo(model_card(shipped_model() if path is None else path), nl=False)


@model.callback()
def _group() -> None:
    """Show facts about a model file."""
