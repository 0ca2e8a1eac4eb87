"""The commands by name."""

from __future__ import annotations

from typing import Annotated

import typer

from convlstm import __version__
from convlstm.cli.check import check
from convlstm.cli.command_line import command_arguments
from convlstm.cli.convert import convert
from convlstm.cli.demo import demo
from convlstm.cli.doctor import doctor
from convlstm.cli.evaluate import evaluate
from convlstm.cli.export import export
from convlstm.cli.forecast import forecast
from convlstm.cli.health import health
from convlstm.cli.inspect import inspect
from convlstm.cli.model import model
from convlstm.cli.report import report
from convlstm.cli.train import train
from convlstm.cli.verify import verify
from convlstm.cli.watch import watch

_HELP = "Train a convolutional LSTM on gridded sequences, forecast, evaluate, and write a report."

app = typer.Typer(
    name="convlstm",
    help=_HELP,
    epilog="Start with: convlstm demo",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (
    *(demo, train, forecast, watch, health, evaluate, verify, report),
    *(check, inspect, convert, export, doctor),
)
for command in _COMMANDS:
    app.command()(command)
app.add_typer(model, name="model")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"convlstm {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, metavar="", help="Print the version.")
    ] = False,
) -> None:
    """Train a convolutional LSTM on gridded sequences, forecast, evaluate, and write a report."""


def invoke(arguments: list[str]) -> int:
    """Run a command and return its exit code (2 for wrong usage, with a message of one line)."""
    try:
        with command_arguments(arguments):
            result = typer.main.get_command(app).main(
                args=arguments or ["--help"], prog_name="convlstm", standalone_mode=False
            )
    except typer.Abort as abort:  # click turns Ctrl-C into this
        raise KeyboardInterrupt from abort
    except Exception as error:
        # some versions of typer include click, others depend on it: recognise its errors by this method
        format_message = getattr(error, "format_message", None)
        if format_message is None:
            raise
        typer.echo(f"error: {' '.join(format_message().split())} (see convlstm --help)", err=True)
        return int(getattr(error, "exit_code", 2))
    return result if isinstance(result, int) else 0
