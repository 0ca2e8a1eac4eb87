"""The commands by name."""

from __future__ import annotations

from typing import Annotated

import typer

from convlstm import __version__
from convlstm.cli.convert import convert
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
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, train, forecast, evaluate, report, inspect, convert, doctor):
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
    """Run the command of these words and return its exit code (2 for wrong usage, said in one line).

    Args:
        arguments: Words after `convlstm`; none show the help.

    Returns:
        The exit code.
    """
    try:
        result = typer.main.get_command(app).main(
            args=arguments or ["--help"], prog_name="convlstm", standalone_mode=False
        )
    except typer.Abort:
        return 130
    except Exception as error:
        # typer has click beside it or within it, by version: its errors are known by what they can do
        say = getattr(error, "format_message", None)
        if say is None:
            raise
        typer.echo(f"error: {' '.join(say().split())} (see convlstm --help)", err=True)
        return int(getattr(error, "exit_code", 2))
    return result if isinstance(result, int) else 0
