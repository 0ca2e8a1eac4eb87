"""The commands by name."""

from __future__ import annotations

from typing import Annotated

import click
import typer

from convlstm import __version__
from convlstm.cli.demo import demo
from convlstm.cli.doctor import doctor
from convlstm.cli.evaluate import evaluate
from convlstm.cli.forecast import forecast
from convlstm.cli.inspect import inspect
from convlstm.cli.report import report
from convlstm.cli.train import train

app = typer.Typer(
    name="convlstm",
    help="Train a convolutional LSTM on gridded sequences, forecast, score honestly, and show.",
    epilog="Start with: convlstm demo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, train, forecast, evaluate, report, inspect, doctor):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"convlstm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Train a convolutional LSTM on gridded sequences, forecast, score honestly, and show."""


def invoke(arguments: list[str]) -> int:
    """Run the command of these words and return its exit code (2 for wrong usage, said in one block)."""
    try:
        result = typer.main.get_command(app).main(args=arguments, prog_name="convlstm", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        typer.echo(error.ctx.get_help() if error.ctx else "")
        return 2
    except click.ClickException as error:
        typer.echo(f"error: {error.format_message()} (see convlstm --help)", err=True)
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    return result if isinstance(result, int) else 0
